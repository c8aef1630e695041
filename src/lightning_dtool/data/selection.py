"""Selection and division of items: pure functions of relpaths, values and fractions.

Nothing here draws random numbers. A split ranks the keys by a hash of seed and key. It is therefore the same on every
machine, in every store and with every version of every library, and it changes little if a few items are added to a
dataset.
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
"""The stage that each overlay value, in lower case, stands for."""


@dataclass(frozen=True)
class Split:
    """The positions of the items of each part, in ascending order. No position is in two parts."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def check_fractions(val_split: float, test_split: float) -> None:
    """Check that two fractions leave something to train on.

    Args:
        val_split: Fraction for validation, at least 0.
        test_split: Fraction for testing, at least 0.

    Raises:
        ConfigurationError: If a fraction is not a number from 0 to below 1, or if their sum is 1 or more.
    """
    for name, value in (("val_split", val_split), ("test_split", test_split)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise ConfigurationError(
                f"{name} is {value!r}; expected a fraction of the items, at least 0 and below 1,"
                " for example 0.2 for a fifth of the items."
            )
    if _exact(val_split) + _exact(test_split) >= 1:
        raise ConfigurationError(
            f"val_split={val_split} and test_split={test_split} leave no items for training: their sum must be below 1."
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
    """Divide items into three parts, which depend only on the arguments.

    Args:
        keys: A unique name per item (its relpath).
        val_split: The fraction of the items for validation, at least 0 and below 1.
        test_split: The fraction of the items for testing, at least 0 and below 1.
        seed: The seed of the split.
        labels: The class of each item. If given, each class is divided by the fractions, so that every part keeps the
            proportions of the classes to within one item per class.
        uri: The dataset's URI, for errors.

    Returns:
        The positions in `keys` of each part.

    Raises:
        ConfigurationError: If the fractions leave no items for training.
        SelectionError: If a part with a fraction above 0 would be empty.

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
                f"{name}={fraction} of the {len(keys)} items is less than one item."
                " Choose a larger fraction, or give this stage its own dataset.",
                uri=uri or None,
            )
    return Split(tuple(sorted(train)), tuple(sorted(val)), tuple(sorted(test)))


def select_by_overlays(
    identifiers: Sequence[str],
    select: Mapping[str, Any],
    overlay: Callable[[str], Mapping[str, Any]],
    *,
    uri: str = "",
) -> list[str]:
    """Return the items whose overlays have the wanted values.

    Args:
        identifiers: The identifiers of the items to select from.
        select: Overlay names, each with the wanted value or a list of values. An item must match every overlay.
        overlay: A function from the name of an overlay to its values by identifier.
        uri: The dataset's URI, for errors.

    Returns:
        The identifiers of the matching items, in the given order.

    Raises:
        MetadataKeyError: If an overlay is missing, or does not cover every item.
        SelectionError: If a wanted value does not occur in its overlay, or no item matches.

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
                f"no item has {name}={missing[0]!r}, which select asks for."
                f" The values of this overlay are {describe_values(values.values())}.",
                uri=uri or None,
            )
        chosen = [idn for idn in chosen if any(_same(value, values[idn]) for value in wanted_values)]
    if not chosen:
        raise SelectionError(f"none of {len(identifiers)} items matches select={dict(select)!r}.", uri=uri or None)
    return chosen


def split_by_overlay(values: Sequence[Any], *, overlay: str, uri: str = "") -> dict[str, tuple[int, ...]]:
    """Divide items by an overlay whose values name the stages.

    Args:
        values: The overlay's value of each item, one of `STAGE_ALIASES` in upper or lower case.
        overlay: The overlay's name, for messages.
        uri: The dataset's URI, for errors.

    Returns:
        The positions of the items of each stage; an empty tuple for a stage without items.

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
                f"the overlay {overlay!r} has the value {value!r}, which names no stage. Its values are"
                f" {describe_values(values)}; the names of stages are {', '.join(STAGE_ALIASES)}."
                " Leave other items out with select=..., or choose another split_overlay.",
                uri=uri or None,
            )
        positions[stage].append(position)
    return {stage: tuple(members) for stage, members in positions.items()}


def describe_values(values: Iterable[Any], most: int = 20) -> str:
    """Return a text with the distinct values and how often each occurs, the most frequent value first.

    Example:
        >>> describe_values(["oak", "elm", "oak"])
        "'oak' (2), 'elm' (1)"
    """
    counts = Counter(map(repr, values)).most_common()
    shown = ", ".join(f"{value} ({count})" for value, count in counts[:most])
    return shown + (f", and {len(counts) - most} more" if len(counts) > most else "") if counts else "none"


def selection_digest(keys: Iterable[str]) -> str:
    """Return the digest of a set of items: `sha256:` and the hash of their sorted identifiers, one per line.

    Example:
        >>> selection_digest(["b", "a"]) == selection_digest(["a", "b"])
        True
    """
    return "sha256:" + hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()


def _same(wanted: Any, found: Any) -> bool:
    """Compare values as in JSON: `1` differs from `True`, but equals `1.0`."""
    return bool(wanted == found) and isinstance(wanted, bool) == isinstance(found, bool)


def _exact(fraction: float) -> Fraction:
    """Return the exact value of a number as written: 0.29 of 100 items is 29, although 0.29 * 100 is below 29."""
    return Fraction(str(fraction))


def _rounded(value: Fraction) -> int:
    """Round half up; Python's `round` rounds halves to even."""
    return int(value + Fraction(1, 2))
