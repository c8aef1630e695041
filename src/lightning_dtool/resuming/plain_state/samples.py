"""Hashes of tensors and arrays, by which a change is seen: of all values of a small one, of some of a large one."""

import hashlib
from typing import Any

import numpy as np
import torch

_SMALL = 4096
"""Maximum number of bytes of a tensor that is compared as a whole. A larger one counts its changes."""

_MAX_ARRAY = 2**20
"""Maximum number of bytes of an array that is compared as a whole."""

_SAMPLE = 512
"""Number of values of a larger tensor that are hashed."""


def sample_of_tensor(value: torch.Tensor) -> Any:
    """Return a hash of the values of a small tensor, or of some values of a larger one.

    A change through `.data` is not counted by torch.

    Args:
        value: The tensor.
    """
    try:
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            return None
        found = value.detach()
        if value.nbytes > _SMALL:
            flat = found.reshape(-1) if found.is_contiguous() else found.flatten()[:_SAMPLE]
            found = flat[:: max(1, flat.numel() // _SAMPLE)]
        if found.device.type != "cpu":
            found = found.cpu()
        if found.dtype == torch.bfloat16:
            found = found.view(torch.int16)
        return (tuple(value.shape), str(value.dtype), _hash(found.numpy().tobytes()))
    except (RuntimeError, TypeError):  # a tensor without values, or of a type that NumPy does not have
        return None


def sample_of_array(value: np.ndarray[Any, Any]) -> Any:
    """Return a hash of the values of an array, or of some values of a large one.

    Args:
        value: The array.
    """
    if value.dtype.hasobject:
        return None
    found = value
    if value.nbytes > _MAX_ARRAY:
        flat = value.reshape(-1) if value.flags.c_contiguous else value.flat[: 64 * _SAMPLE]
        found = flat[:: max(1, len(flat) // (64 * _SAMPLE))]
    return (value.shape, value.dtype.str, _hash(found.tobytes()))


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
