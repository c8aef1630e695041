"""The targets that a model learns to predict: annotated values, converted to class numbers or tensors."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch

from lightning_dtool.errors import ConfigurationError, DecodeError
from lightning_dtool.store import FrozenDataset

FOLDER = "folder"
NONE = "none"
DEFAULT_OVERLAY = "category"
ENCODING_ANNOTATION = "category_encoding"


@dataclass(frozen=True)
class Targets:
    """The target of each sample, and the meaning of class numbers.

    Attributes:
        values: For each sample an int for classes, or a float32 tensor for regression.
        class_to_idx: The number of each class, in the order of the numbers; None for regression.
    """

    values: Sequence[Any]
    class_to_idx: dict[Any, int] | None

    def at(self, positions: Sequence[int]) -> Any:
        """Return the targets at some positions, as a tensor if all targets are one tensor, else as a list."""
        values: Any = self.values
        return values[positions] if isinstance(values, torch.Tensor) else [values[position] for position in positions]

    @property
    def class_counts(self) -> dict[Any, int] | None:
        """The number of samples of each class; None for regression."""
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
    """Return the targets of items. Reads only metadata.

    Args:
        dataset: The dataset that holds the items.
        identifiers: The identifiers of the items.
        names: The relpaths of the items.
        target: An overlay's name; "folder" for the name of the folder that holds an item; "none"; or a function from
            an `Item` to its target. None means the overlay `category` if there is one, else no targets.
        class_to_idx: The number of each class, for example from the training data. Default: for the overlay `category`
            the annotation `category_encoding`, if there is one; else the sorted values are numbered from 0.

    Returns:
        The targets, or None without targets.

    Raises:
        MetadataKeyError: If the overlay is missing, or does not cover every item.
        ConfigurationError: If `target` is "folder", and an item is in no folder.
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
    """Convert values to class numbers or regression targets.

    Strings, bools and ints are classes; the ints 3 and 7 become the class numbers 0 and 1. Floats, a mixture of ints
    and floats, and lists of numbers of equal length are regression targets.

    Args:
        values: A value per sample.
        names: A name per sample, for messages.
        class_to_idx: The number of each class. Default: the sorted values are numbered from 0.
        source: The origin of the values, for messages.
        uri: The dataset's URI, for errors.

    Returns:
        The targets.

    Raises:
        DecodeError: If a value is neither a class nor a number, if classes have different types, or if a class is not
            in `class_to_idx`.

    Example:
        >>> encode(["oak", "elm", "oak"], ["1.png", "2.png", "3.png"]).values
        [1, 0, 1]
    """

    def refuse(position: int, problem: str) -> DecodeError:
        return DecodeError(
            f"{source} gives {values[position]!r} for item {names[position]}, {problem}."
            " Correct the value, leave the item out with select=..., or choose another target.",
            uri=uri,
            item=names[position],
        )

    if set(map(type, values)) in ({str}, {bool}, {int}):
        # The usual case: each class is looked up once, not once per sample.
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
                raise refuse(position, f"but {names[0]} has {values[0]!r}: all targets must have one form")
        return Targets([torch.tensor(value, dtype=torch.float32) for value in values], None)
    if class_to_idx is None:
        kind = type(values[0]) if values else str
        for position, value in enumerate(values):
            if type(value) is not kind:
                raise refuse(position, f"but {names[0]} has {values[0]!r}: classes must have one type")
        class_to_idx = {value: index for index, value in enumerate(sorted(set(values)))}
    indices = []
    for position, value in enumerate(values):
        # The keys of a JSON annotation are strings, even if the values are numbers.
        index = class_to_idx.get(value, class_to_idx.get(str(value))) if _is_class(value) else None
        if index is None:
            raise refuse(position, f"which is none of the classes {', '.join(map(repr, class_to_idx))}")
        indices.append(int(index))
    return Targets(indices, _in_order(class_to_idx))


def targets_digest(keys: Sequence[str], values: Any) -> str:
    """Return the digest of samples with their targets.

    Args:
        keys: The identifier or name of each sample, in the order of the relpaths.
        values: The targets: ints, tensors of equal shape, or one tensor.

    Returns:
        `sha256:` and the hash of three parts: a line with the dtype and the shape of all targets, the keys, one per
        line, and the bytes of the targets.

    Example:
        >>> targets_digest(["a", "b"], [0, 1]) == targets_digest(["a", "b"], [1, 0])
        False
    """
    tensors = len(values) > 0 and isinstance(values[0], torch.Tensor)
    together = torch.stack(list(values)) if tensors and not isinstance(values, torch.Tensor) else values
    array = np.asarray(together, dtype=None if tensors else np.int64)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    digest = hashlib.sha256(json.dumps([array.dtype.str, list(array.shape)]).encode() + b"\n")
    digest.update("\n".join(keys).encode() + b"\n")
    digest.update(array.tobytes())
    return f"sha256:{digest.hexdigest()}"


def _in_order(class_to_idx: Mapping[Any, int]) -> dict[Any, int]:
    return dict(sorted(class_to_idx.items(), key=lambda entry: entry[1]))


def _folder(relpath: str, uri: str) -> str:
    folder = PurePosixPath(relpath).parent.name
    if not folder:
        raise ConfigurationError(
            f"target='folder' uses the folder of each item as its class, but {relpath} is in no folder."
            " Name an overlay instead, or leave the item out with select=...",
            uri=uri,
            item=relpath,
        )
    return folder


def _checked_encoding(encoding: Any, uri: str) -> dict[Any, int]:
    codes = list(encoding.values()) if isinstance(encoding, dict) else [None]
    if not all(type(code) is int and code >= 0 for code in codes) or len(set(codes)) != len(codes):
        raise DecodeError(
            f"expected the annotation {ENCODING_ANNOTATION!r} to map each class to a different number, at least 0;"
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
