"""What a model learns to predict: from the values that people annotate to numbers."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import torch

from lightning_dtool.errors import ConfigurationError, DecodeError
from lightning_dtool.store import FrozenDataset

FOLDER = "folder"
NONE = "none"
DEFAULT_OVERLAY = "category"
ENCODING_ANNOTATION = "category_encoding"


@dataclass(frozen=True)
class Targets:
    """One target per sample, and what the numbers mean.

    Attributes:
        values: An int per sample for classes; a float32 tensor per sample for regression.
        class_to_idx: The number of each class, in order of the numbers; None for regression.
    """

    values: Sequence[Any]
    class_to_idx: dict[Any, int] | None

    @property
    def class_counts(self) -> dict[Any, int] | None:
        """How many samples each class has; None for regression."""
        if self.class_to_idx is None:
            return None
        counts = Counter(map(int, self.values))
        return {name: counts[index] for name, index in self.class_to_idx.items()}


def targets_of(
    dataset: FrozenDataset,
    identifiers: Sequence[str],
    names: Sequence[str],
    target: str | Callable[[Any], Any] | None,
    class_to_idx: Mapping[Any, int] | None = None,
) -> Targets | None:
    """Find the targets of some items; nothing but metadata is read.

    Args:
        dataset: Where the items are.
        identifiers: The items, by identifier.
        names: Their relpaths.
        target: An overlay's name; `"folder"` for the name of the folder that an item is in;
            `"none"`; or a function from an `Item` (with `relpath`, `identifier`, `size_in_bytes`,
            `hash`) to its value. None means the overlay `category` if there is one, else no target.
        class_to_idx: The numbers of the classes, if they are known already, for instance from the
            training data. By default those of the annotation `category_encoding` if the target is
            the overlay `category`, else the sorted values are numbered from 0.

    Returns:
        The targets, or None if there are none.

    Raises:
        MetadataKeyError: If the overlay is missing or does not cover every item.
        ConfigurationError: If `"folder"` is asked for and an item is in no folder.
        DecodeError: If a value is neither a class nor a number.
    """
    if target is None and DEFAULT_OVERLAY in dataset.overlay_names():
        target = DEFAULT_OVERLAY
    if target is None or target == NONE:
        return None
    if callable(target):
        source, values = "the target function", [target(dataset.items[identifier]) for identifier in identifiers]
    elif target == FOLDER:
        source, values = "the folder's name", [_folder(relpath, dataset.uri) for relpath in names]
    else:
        overlay = dataset.overlay(target)
        source, values = f"overlay {target!r}", list(map(overlay.__getitem__, identifiers))
        if class_to_idx is None and target == DEFAULT_OVERLAY and ENCODING_ANNOTATION in dataset.annotation_names():
            class_to_idx = _checked_encoding(dataset.annotation(ENCODING_ANNOTATION), dataset.uri)
    return encode(values, names, class_to_idx, source=source, uri=dataset.uri)


def encode(
    values: Sequence[Any],
    names: Sequence[str],
    class_to_idx: Mapping[Any, int] | None = None,
    *,
    source: str = "target",
    uri: str = "",
) -> Targets:
    """Turn annotated values into numbers.

    Strings, bools and ints are classes (also ints with gaps: 3 and 7 become 0 and 1). Floats, or ints
    and floats mixed, are regression targets, and so are lists of numbers of one length.

    Args:
        values: A value per sample.
        names: A name per sample, for messages.
        class_to_idx: The numbers of the classes; by default the sorted values are numbered from 0.
        source: Where the values come from, for messages.
        uri: The data set, for messages.

    Returns:
        The targets.

    Raises:
        DecodeError: If a value is neither a class nor a number, if classes are of different types,
            or if one is not in `class_to_idx`.

    Example:
        >>> encode(["oak", "elm", "oak"], ["1.png", "2.png", "3.png"]).values
        [1, 0, 1]
    """

    def refuse(position: int, problem: str) -> DecodeError:
        return DecodeError(
            f"{source} gives {values[position]!r} for item {names[position]}, {problem}."
            " Correct the value, leave the item out with select=..., or choose another target.",
            uri=uri,
        )

    if set(map(type, values)) in ({str}, {bool}, {int}):
        # Nearly always; each class is looked at once, however many samples there are.
        different = sorted(set(values))
        own = {value: index for index, value in enumerate(different)}
        known = own if class_to_idx is None else class_to_idx
        numbers: dict[Any, Any] = {value: known.get(value, known.get(str(value))) for value in different}
        if None not in numbers.values():
            numbers = {value: int(number) for value, number in numbers.items()}
            return Targets(list(map(numbers.__getitem__, values)), _in_order(known))
    for position, value in enumerate(values):
        if not _is_class(value) and not _is_regression(value):
            raise refuse(position, "which is neither a class (string, bool, int) nor a number or list of numbers")
    if class_to_idx is None and any(not _is_class(value) for value in values):
        width = _width(values[0])
        for position, value in enumerate(values):
            if not _is_regression(value) or _width(value) != width:
                raise refuse(position, f"while other items have numbers, as {names[0]} has {values[0]!r}")
        return Targets([torch.tensor(value, dtype=torch.float32) for value in values], None)
    if class_to_idx is None:
        kind = type(values[0]) if values else str
        for position, value in enumerate(values):
            if type(value) is not kind:
                raise refuse(position, f"while {names[0]} has {values[0]!r}: classes must be of one type")
        class_to_idx = {value: index for index, value in enumerate(sorted(set(values)))}
    indices = []
    for position, value in enumerate(values):
        # An annotation is JSON, whose keys are strings whatever the values are.
        index = class_to_idx.get(value, class_to_idx.get(str(value))) if _is_class(value) else None
        if index is None:
            raise refuse(position, f"which is none of the classes {', '.join(map(repr, class_to_idx))}")
        indices.append(int(index))
    return Targets(indices, _in_order(class_to_idx))


def _in_order(class_to_idx: Mapping[Any, int]) -> dict[Any, int]:
    return dict(sorted(class_to_idx.items(), key=lambda entry: entry[1]))


def _folder(relpath: str, uri: str) -> str:
    folder = PurePosixPath(relpath).parent.name
    if not folder:
        raise ConfigurationError(
            f"target='folder' takes the class from the folder that an item is in, and {relpath} is in none."
            " Name an overlay instead, or leave the item out with select=...",
            uri=uri,
        )
    return folder


def _checked_encoding(encoding: Any, uri: str) -> dict[Any, int]:
    codes = list(encoding.values()) if isinstance(encoding, dict) else [None]
    if not all(type(code) is int and code >= 0 for code in codes) or len(set(codes)) != len(codes):
        raise DecodeError(
            f"annotation {ENCODING_ANNOTATION!r} should map each class to a number of its own, at least 0;"
            f" found {encoding!r}. Correct the annotation, or name another target.",
            uri=uri,
        )
    return dict(encoding)


def _is_class(value: Any) -> bool:
    return isinstance(value, (str, bool, int))


def _is_regression(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(_is_regression(entry) and not isinstance(entry, (list, tuple)) for entry in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _width(value: Any) -> int | None:
    return len(value) if isinstance(value, (list, tuple)) else None
