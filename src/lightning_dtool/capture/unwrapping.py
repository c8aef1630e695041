"""Datasets without their wrappers, and what the wrappers do: select samples and transform them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import ChainDataset, ConcatDataset, Dataset, StackDataset, Subset

from lightning_dtool.capture.preprocessing import decoders_of, transforms_of
from lightning_dtool.data.dataset import DtoolDataset
from lightning_dtool.values.attributes import attribute
from lightning_dtool.values.definitions import is_users

COMBINATIONS = (ConcatDataset, ChainDataset, StackDataset)
"""torch's combinations of several datasets, which are no wrappers of one."""

_MAX_WRAPPERS = 20
"""Maximum number of nested wrappers around a dataset."""


@dataclass
class Unwrapped:
    """A dataset without its wrappers, and what the wrappers did."""

    dataset: Any
    positions: Sequence[int] | None
    """Indices of the selected samples. None if all are selected, or if the selection is not known."""
    is_known: bool
    """Whether the selection is known."""
    transforms: dict[str, Any]
    wrappers: list[Any]
    """The wrappers other than torch's Subset, the outermost first."""


def unwrap(dataset: Any) -> Unwrapped:
    """Remove torch's Subset and other wrappers from a dataset.

    Args:
        dataset: Any dataset.
    """
    positions: Sequence[int] | None = None
    is_known = True
    transforms: dict[str, Any] = {}
    wrappers: list[Any] = []
    for _ in range(_MAX_WRAPPERS):
        for name, value in _transforms_by_place(dataset).items():
            transforms[name if name not in transforms else f"{type(dataset).__name__}.{name}"] = value
        inner = None if isinstance(dataset, (DtoolDataset, *COMBINATIONS)) else _inner(dataset)
        if inner is None:
            break
        if type(dataset) is not Subset:
            wrappers.append(dataset)
        if isinstance(dataset, Subset):
            chosen = [int(index) for index in dataset.indices]
            positions = chosen if positions is None else [chosen[position] for position in positions]
        elif positions is not None or length_of(dataset) != length_of(inner):
            is_known = False
        dataset = inner
    return Unwrapped(dataset, positions if is_known else None, is_known, transforms, wrappers)


def length_of(dataset: Any) -> int | None:
    """Return the number of samples of a dataset. None if it has none, as a stream."""
    try:
        return len(dataset)
    except Exception:  # a stream has no length and may raise anything
        return None


def _inner(dataset: Any) -> Any:
    """Return the dataset that another one wraps."""
    inner = attribute(dataset, "dataset")
    if inner is not None:
        return inner
    held = [value for value in getattr(dataset, "__dict__", {}).values() if isinstance(value, Dataset)]
    return held[0] if len(held) == 1 else None


def _transforms_by_place(dataset: Any) -> dict[str, Any]:
    """Return the transforms of a dataset by the attributes that hold them."""
    found = dict(transforms_of(dataset))
    if is_users(type(dataset)):  # its source shows what `__getitem__` does
        found["dataset"] = type(dataset)
    both = found.get("transforms")
    # torchvision keeps `transform` and `target_transform` in `transforms`, too.
    if type(both).__name__ == "StandardTransform" and {"transform", "target_transform"} & set(found):
        del found["transforms"]
    for decoder in decoders_of(dataset).values():
        found["decoder"] = decoder
    if isinstance(dataset, DtoolDataset):
        decoder = getattr(dataset._samples, "decoder", None)
        if decoder is not None:
            found["decoder"] = decoder
    # Filled by `set_transform` of Hugging Face's datasets.
    on_the_fly = getattr(dataset, "__dict__", {}).get("_format_kwargs")
    if isinstance(on_the_fly, dict) and callable(on_the_fly.get("transform")):
        found["transform"] = on_the_fly["transform"]
    return found
