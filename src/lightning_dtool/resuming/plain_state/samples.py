"""Hashes of tensors and arrays, by which a change is seen: of all values of a small one, of some of a large one."""

import zlib
from typing import Any

import numpy as np
import torch

SMALL = 4096
"""Maximum number of bytes of a tensor that is compared as a whole. A larger one counts its changes."""

MAX_ARRAY = 2**20
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
        if value.nbytes > SMALL:
            flat = found.reshape(-1) if found.is_contiguous() else found.flatten()[:_SAMPLE]
            found = flat[:: max(1, flat.numel() // _SAMPLE)]
        if found.device.type != "cpu":
            found = found.cpu()
        if found.dtype == torch.bfloat16:
            found = found.view(torch.int16)
        return (tuple(value.shape), str(value.dtype), zlib.crc32(found.numpy().tobytes()))
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
    if value.nbytes > MAX_ARRAY:
        flat = value.reshape(-1) if value.flags.c_contiguous else value.flat[: 64 * _SAMPLE]
        found = flat[:: max(1, len(flat) // (64 * _SAMPLE))]
    return (value.shape, value.dtype.str, zlib.crc32(found.tobytes()))


def hash_of_all(value: Any) -> int | None:
    """Return a quick hash of all values of a tensor or an array; None if they are not in the memory of the CPU.

    Args:
        value: The tensor or array.
    """
    try:
        if isinstance(value, torch.Tensor):
            if value.device.type != "cpu" or not value.is_contiguous():
                return None
            return zlib.crc32(value.detach().reshape(-1).view(torch.uint8).numpy().data)
        if value.dtype.hasobject:
            return None
        found = value.T if value.flags.f_contiguous else np.ascontiguousarray(value)
        return zlib.crc32(found.reshape(-1).view(np.uint8).data)
    except (RuntimeError, TypeError, ValueError):  # a tensor without values, or of a type that NumPy does not have
        return None


def sample_of_buffer(value: Any) -> Any:
    """Return a hash of the numbers of a buffer, and what is needed to tell another kind of buffer.

    Args:
        value: An `array.array`, or an object of ctypes without pointers.
    """
    return (str(getattr(value, "typecode", "")), memoryview(value).nbytes, zlib.crc32(value))
