"""Which items go where: pure functions over relpaths, values and fractions.

Nothing here draws random numbers. A split ranks the keys by a hash of seed and key, so it is the
same on every machine, store and version of every library, leaves the global random state alone, and
hardly moves when a few items are added to a data set.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_dtool.errors import ConfigurationError, SelectionError

STAGES = ("train", "val", "test", "predict")

STAGE_ALIASES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training", "fit"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
    **dict.fromkeys(("predict", "prediction", "inference"), "predict"),
}
"""Overlay values, in lower case, and the stage that each stands for."""


@dataclass(frozen=True)
class Split:
    """Positions of the items of each part, each in ascending order; no position is in two parts."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def check_fractions(val_split: float, test_split: float) -> None:
    """Check that two fractions leave something to train on.

    Args:
        val_split: Fraction for validation, at least 0.
        test_split: Fraction for testing, at least 0.

    Raises:
        ConfigurationError: If one is not a number in [0, 1), or if together they reach 1.
    """
    for name, value in (("val_split", val_split), ("test_split", test_split)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise ConfigurationError(
                f"{name} is {value!r}; expected a fraction of the data set, at least 0 and below 1,"
                " for instance 0.2 for a fifth of the items."
            )
    if _exact(val_split) + _exact(test_split) >= 1:
        raise ConfigurationError(
            f"val_split={val_split} and test_split={test_split} leave nothing to train on:"
            " together they must be below 1."
        )


def split_by_fraction(
    keys: Sequence[str],
    *,
    val_split: float,
    test_split: float,
    seed: int,
    labels: Sequence[Hashable] | None = None,
    uri: str = "",
) -> Split:
    """Divide items into three parts, the same way for ever.

    The parts depend on nothing but the seed, the keys and the fractions.

    Args:
        keys: A unique name per item (its relpath).
        val_split: Fraction of the items for validation, in [0, 1).
        test_split: Fraction of the items for testing, in [0, 1).
        seed: Another seed gives another split.
        labels: The class of each item. If given, each class is divided on its own, so that every
            part keeps the proportions of the classes to within one item per class.
        uri: Where the items come from, for messages.

    Returns:
        The positions in `keys` of each part.

    Raises:
        ConfigurationError: If the fractions leave nothing to train on.
        SelectionError: If a part that was asked for would be empty.

    Example:
        >>> parts = split_by_fraction(["a.png", "b.png", "c.png", "d.png"], val_split=0.25, test_split=0.25, seed=0)
        >>> len(parts.train), len(parts.val), len(parts.test)
        (2, 1, 1)
    """
    check_fractions(val_split, test_split)
    rank = [hashlib.sha256(f"{seed}\0{key}".encode()).digest() for key in keys]
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for position in range(len(keys)):
        groups[None if labels is None else labels[position]].append(position)
    train: list[int] = []
    val: list[int] = []
    test: list[int] = []
    for members in groups.values():
        members.sort(key=rank.__getitem__)
        # Cumulative boundaries, rounded; the last item of a group always stays in training.
        end_of_val = min(_rounded(_exact(val_split) * len(members)), len(members) - 1)
        end_of_test = min(_rounded((_exact(val_split) + _exact(test_split)) * len(members)), len(members) - 1)
        val += members[:end_of_val]
        test += members[end_of_val:end_of_test]
        train += members[end_of_test:]
    for name, fraction, part in (("val_split", val_split, val), ("test_split", test_split, test)):
        if fraction and not part:
            raise SelectionError(
                f"{name}={fraction} of the {len(keys)} items of {uri or 'the data set'} is not a single item."
                " Ask for a larger fraction, or give this stage a data set of its own."
            )
    return Split(tuple(sorted(train)), tuple(sorted(val)), tuple(sorted(test)))


def select_by_overlays(
    identifiers: Sequence[str],
    select: Mapping[str, Any],
    overlay: Callable[[str], Mapping[str, Any]],
    *,
    uri: str = "",
) -> list[str]:
    """Keep the items whose overlays have the wanted values.

    Args:
        identifiers: The items to choose from; their order is kept.
        select: Overlay names, each with the wanted value or a list of them. An item must match
            every overlay.
        overlay: Gives the values of an overlay by identifier.
        uri: Where the items come from, for messages.

    Returns:
        The identifiers of the items that match.

    Raises:
        MetadataKeyError: If an overlay is missing or does not cover every item.
        SelectionError: If a wanted value occurs nowhere in its overlay, or nothing is left.

    Example:
        >>> select_by_overlays(["1", "2"], {"plant": ["oak"]}, lambda name: {"1": "oak", "2": "elm"})
        ['1']
    """
    chosen = list(identifiers)
    for name, wanted in select.items():
        values = overlay(name)
        wanted_values = list(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]
        missing = [value for value in wanted_values if not any(_same(value, found) for found in values.values())]
        if missing:
            raise SelectionError(
                f"select asks for {name}={missing[0]!r}, which no item of {uri or 'the data set'} has."
                f" Its values there: {describe_values(values.values())}."
            )
        chosen = [idn for idn in chosen if any(_same(value, values[idn]) for value in wanted_values)]
    if not chosen:
        raise SelectionError(
            f"No item of {uri or 'the data set'} matches select={dict(select)!r}"
            f" ({len(identifiers)} items were there to choose from)."
        )
    return chosen


def split_by_overlay(values: Sequence[Any], *, overlay: str, uri: str = "") -> dict[str, tuple[int, ...]]:
    """Divide items by an overlay whose values name the stages.

    Args:
        values: The overlay's value of each item. Case and surrounding blanks do not matter;
            `STAGE_ALIASES` lists the values that are understood.
        overlay: The overlay's name, for messages.
        uri: Where the items come from, for messages.

    Returns:
        The positions of each stage, for every stage; a stage without items has an empty tuple.

    Raises:
        SelectionError: If a value names no stage.

    Example:
        >>> split_by_overlay(["train", "validation", "train"], overlay="usetype")["val"]
        (1,)
    """
    positions: dict[str, list[int]] = {stage: [] for stage in STAGES}
    for position, value in enumerate(values):
        stage = STAGE_ALIASES.get(str(value).strip().lower())
        if stage is None:
            raise SelectionError(
                f"Overlay {overlay!r} of {uri or 'the data set'} has the value {value!r}, which names no stage."
                f" Values there: {describe_values(values)}. Understood: {', '.join(STAGE_ALIASES)}."
                " Leave other items out with select=..., or choose another split_overlay."
            )
        positions[stage].append(position)
    return {stage: tuple(members) for stage, members in positions.items()}


def describe_values(values: Iterable[Any], most: int = 20) -> str:
    """List the different values and how often each occurs, the most frequent first.

    Example:
        >>> describe_values(["oak", "elm", "oak"])
        "'oak' (2), 'elm' (1)"
    """
    counts = Counter(map(repr, values)).most_common()
    shown = ", ".join(f"{value} ({count})" for value, count in counts[:most])
    return shown + (f", and {len(counts) - most} more" if len(counts) > most else "") if counts else "none"


def selection_digest(keys: Iterable[str]) -> str:
    """Name a set of items: `sha256:` and the hash of their sorted identifiers, one a line.

    Example:
        >>> selection_digest(["b", "a"]) == selection_digest(["a", "b"])
        True
    """
    return "sha256:" + hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()


def _same(wanted: Any, found: Any) -> bool:
    """Compare values as JSON does: `1` and `True` are different, `1` and `1.0` are not."""
    return bool(wanted == found) and isinstance(wanted, bool) == isinstance(found, bool)


def _exact(fraction: float) -> Fraction:
    """Take the number as it was written: 0.29 of 100 items is 29, although 0.29 * 100 is below 29."""
    return Fraction(str(fraction))


def _rounded(value: Fraction) -> int:
    """Round half up: Python's own rounding takes halves to the even side."""
    return int(value + Fraction(1, 2))
