"""Comparison of the weights of two checkpoints, or of other tensors in them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from lightning_dtool.results.comparison import Weights
from lightning_dtool.values.digests import state_digest

MAX_NAMES = 50
"""The largest number of differing tensors that are named."""

_CHUNK = 2**20
"""The number of elements of two tensors that are subtracted at once."""


def compare_weights(a: Mapping[str, Any], b: Mapping[str, Any]) -> Weights:
    """Compare two state dicts.

    Args:
        a: The first state dict. Its tensors may be memory-mapped.
        b: The second state dict.
    """
    one, two = state_digest(a), state_digest(b)
    names = sorted({*a, *b}, key=str)
    count = sum(_holds_tensor(a.get(name)) or _holds_tensor(b.get(name)) for name in names)
    if one == two:
        return Weights("identical" if count else "not recorded", one, two, tensor_count=count)
    differing = [name for name in names if name not in a or name not in b or _digest(a[name]) != _digest(b[name])]
    greatest = [
        found for name in differing if name in a and name in b and (found := _greatest(a[name], b[name])) is not None
    ]
    return Weights(
        "different",
        one,
        two,
        differing=tuple(map(str, differing[:MAX_NAMES])),
        differing_count=len(differing),
        tensor_count=count,
        greatest_absolute=max((absolute for absolute, _ in greatest), default=None),
        greatest_relative=max((relative for _, relative in greatest), default=None),
    )


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):  # the extra state of a module
        return any(map(_holds_tensor, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_tensor, value))
    return isinstance(value, torch.Tensor | np.ndarray)


def _digest(value: Any) -> str:
    return state_digest({"": value})


def _greatest(a: Any, b: Any) -> tuple[float, float] | None:
    """Return the greatest absolute and relative difference of two dense tensors; None for other tensors."""
    for tensor in (a, b):
        if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided:
            return None
        if tensor.is_quantized or tensor.is_nested or tensor.is_meta or type(tensor) not in _PLAIN:
            return None
    if a.shape != b.shape or a.is_complex() != b.is_complex():
        return None
    absolute = relative = 0.0
    with torch.no_grad():
        for one, two in _chunks(a, b):
            same = (one == two) | (one.isnan() & two.isnan())
            size = torch.maximum(one.abs(), two.abs())
            difference = torch.where(same, 0.0, (one - two).abs()).nan_to_num(math.inf, posinf=math.inf)
            share = torch.where(same, 0.0, difference / size).nan_to_num(math.inf, posinf=math.inf)
            absolute = max(absolute, float(difference.max()))
            relative = max(relative, float(share.max()))
    return absolute, relative


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def _chunks(a: torch.Tensor, b: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield pieces of two tensors in double precision. Whole tensors might not fit into memory."""
    dtype = torch.complex128 if a.is_complex() else torch.float64
    one, two = a.detach().reshape(-1), b.detach().reshape(-1)
    for start in range(0, one.numel(), _CHUNK):
        yield one[start : start + _CHUNK].to(dtype), two[start : start + _CHUNK].to(dtype)
