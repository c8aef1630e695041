"""Digests of state dicts, which are equal if and only if every name, type, shape and bit is equal.

The format of `state_digest`, so that other programs can compute it: the SHA-256 over the entries, sorted by the UTF-8
bytes of their names. An entry is one line of JSON that ends with a line feed, followed by the entry's bytes. For a
dense tensor the line is `["name", "torch.float32", [2, 3], 24]`: name, dtype, shape and number of bytes. The bytes are
the elements in row-major order in the byte order of the machine (almost always little-endian). Any other tensor is
hashed as a line without bytes, with other facts in place of the number of bytes, followed by the dense tensors that it
consists of, under longer names:

- sparse COO: the layout, then `name/indices` and `name/values` of the coalesced tensor;
- other sparse layouts: the layout, then `name/compressed_indices`, `name/plain_indices` and `name/values`;
- quantised: the scheme, scale and zero point (per channel: the scheme, axis, scales and zero points), then
  `name/int_repr`;
- nested: `nested`, with the number of rows as the shape, then `name/<index>`;
- other tensor classes that PyTorch can take apart (`__tensor_flatten__`): the class and the repr of the context, then
  `name/<attribute>`;
- meta and uninitialised tensors: `meta` or `uninitialised`, and nothing else.

Extra state consists of other values:

- numbers, texts and None: a line with the type and the repr, `["name", "builtins:int", "7"]`;
- dtypes and devices: a line with the type and the text that `str` returns;
- bytes: a line with the type and length, then the bytes;
- NumPy arrays: a line with the type, dtype, shape and number of bytes, then the bytes;
- containers: a line with the type and length, then `name/<key>` in the order of the keys, or `name/<index>`;
- any other object: a line with `opaque`, its class and its repr without memory addresses. A difference that the repr
  does not show does not change the digest (`opaque_names` returns the names of these entries).

Tied weights are hashed under each of their names. The device and strides of the tensors, `requires_grad` and the order
of the state dict make no difference.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from lightning_dtool.values.definitions import without_addresses

_MAX_DEPTH = 20
"""Maximum depth of nested containers."""

_Entry = tuple[list[Any], torch.Tensor | bytes | None]
"""A line of JSON, and the dense tensor or the bytes that follow it."""


def state_digest(state_dict: Mapping[str, Any]) -> str:
    """Return the canonical digest of a state dict.

    Args:
        state_dict: The result of `module.state_dict()`, or any mapping from names to tensors and other values.

    Returns:
        `sha256:` and 64 hexadecimal digits.

    Raises:
        TypeError: If a tensor is sharded across processes, so that this process does not hold all of its bytes.

    Example:
        >>> state_digest({"a": torch.zeros(2), "b": torch.ones(1)}) == state_digest(
        ...     {"b": torch.ones(1), "a": torch.zeros(4)[::2]}
        ... )
        True
    """
    hasher = hashlib.sha256()
    with torch.no_grad():
        for name in sorted(state_dict, key=_name_key):
            for line, content in _entries(str(name), state_dict[name], 0):
                data: Any = content
                if isinstance(content, torch.Tensor):
                    data = _bytes(content)
                    line = [*line, len(data)]
                hasher.update(json.dumps(line).encode() + b"\n")
                if data is not None:
                    hasher.update(data)
    return f"sha256:{hasher.hexdigest()}"


def opaque_names(state_dict: Mapping[str, Any]) -> list[str]:
    """Return the names of the entries of which a digest covers only the repr.

    Args:
        state_dict: The result of `module.state_dict()`.

    Returns:
        Sorted names; empty for a state dict of tensors, numbers and texts.
    """
    return sorted(
        str(name)
        for name, value in state_dict.items()
        if not isinstance(value, torch.Tensor) and any(line[1] == "opaque" for line, _ in _entries(str(name), value, 0))
    )


def nbytes(value: Any) -> int:
    """Return the size of the elements of a tensor or an array, in bytes."""
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else int(value.nbytes)


def digest_of_numbers(value: Any) -> str | None:
    """Return the SHA-256 over dtype, shape and bytes of a tensor or an array.

    Args:
        value: A tensor on any device, or an array. It is not changed.

    Returns:
        64 hexadecimal digits. None for values without plain bytes: sparse, quantised and meta tensors, arrays of
        objects.
    """
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.is_quantized or value.is_meta or value.is_nested:
            return None
        content: Any = _bytes(value.detach())
        header = [str(value.dtype), list(value.shape)]
    else:
        if value.dtype.hasobject:
            return None
        content = np.ascontiguousarray(value).reshape(-1).view(np.uint8) if value.size else b""
        header = [value.dtype.str if value.dtype.names is None else str(value.dtype), list(value.shape)]
    hasher = hashlib.sha256(json.dumps(header).encode() + b"\n")
    hasher.update(content)
    return hasher.hexdigest()


def _name_key(name: object) -> bytes:
    return str(name).encode("utf-8", "surrogatepass")


def _entries(name: str, value: Any, depth: int) -> Iterator[_Entry]:
    if isinstance(value, torch.Tensor):
        yield from _tensor_entries(name, value)
    elif value is None or type(value) in (bool, int, float, str, complex):
        yield [name, _type(value), repr(value)], None
    elif isinstance(value, bytes | bytearray):
        yield [name, _type(value), len(value)], bytes(value)
    elif isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        array = np.ascontiguousarray(value)
        yield [name, _type(value), str(value.dtype), list(np.shape(value)), array.nbytes], array.tobytes()
    elif isinstance(value, Mapping) and depth < _MAX_DEPTH:
        yield [name, _type(value), len(value)], None
        for key in sorted(value, key=_name_key):
            yield from _entries(f"{name}/{key}", value[key], depth + 1)
    elif isinstance(value, list | tuple) and depth < _MAX_DEPTH:
        yield [name, _type(value), len(value)], None
        for index, item in enumerate(value):
            yield from _entries(f"{name}/{index}", item, depth + 1)
    elif isinstance(value, torch.Size | torch.dtype | torch.device):
        yield [name, _type(value), str(value)], None
    else:
        yield [name, "opaque", _type(value), without_addresses(repr(value))], None


def _tensor_entries(name: str, tensor: torch.Tensor) -> Iterator[_Entry]:
    tensor = tensor.detach() if not torch.nn.parameter.is_lazy(tensor) else tensor
    dtype = str(tensor.dtype)
    if torch.nn.parameter.is_lazy(tensor):
        yield [name, dtype, [], "uninitialised"], None
        return
    shape = list(tensor.shape) if not tensor.is_nested else []
    if hasattr(tensor, "to_local"):
        raise TypeError(f"{name} is sharded across processes ({_type(tensor)})")
    if hasattr(tensor, "__tensor_flatten__") and not tensor.is_nested:
        parts, context = tensor.__tensor_flatten__()
        yield [name, dtype, shape, _type(tensor), without_addresses(repr(context))], None
        for part in parts:
            yield from _tensor_entries(f"{name}/{part}", getattr(tensor, part))
    elif tensor.is_meta:
        yield [name, dtype, shape, "meta"], None
    elif tensor.is_nested:
        rows = tensor.unbind()
        yield [name, dtype, [len(rows)], "nested"], None
        for index, row in enumerate(rows):
            yield from _tensor_entries(f"{name}/{index}", row)
    elif tensor.is_quantized:
        yield [name, dtype, shape, *_quantisation(tensor)], None
        yield from _tensor_entries(f"{name}/int_repr", tensor.int_repr())
    elif tensor.layout is torch.sparse_coo:
        whole = tensor.coalesce()
        yield [name, dtype, shape, str(tensor.layout)], None
        yield from _tensor_entries(f"{name}/indices", whole.indices())
        yield from _tensor_entries(f"{name}/values", whole.values())
    elif tensor.layout is not torch.strided:
        yield [name, dtype, shape, str(tensor.layout)], None
        by_row = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
        compressed = tensor.crow_indices() if by_row else tensor.ccol_indices()
        yield from _tensor_entries(f"{name}/compressed_indices", compressed)
        yield from _tensor_entries(f"{name}/plain_indices", tensor.col_indices() if by_row else tensor.row_indices())
        yield from _tensor_entries(f"{name}/values", tensor.values())
    else:
        yield [name, dtype, shape], tensor


def _quantisation(tensor: torch.Tensor) -> list[Any]:
    """Return the parameters that map the integers of a quantised tensor to numbers."""
    scheme = str(tensor.qscheme())
    if "per_tensor" in scheme:
        return [scheme, repr(tensor.q_scale()), tensor.q_zero_point()]
    scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return [scheme, tensor.q_per_channel_axis(), repr(scales.tolist()), repr(zeros.tolist())]


def _bytes(tensor: torch.Tensor) -> Any:
    """Return the elements of a dense tensor as a buffer of bytes. A contiguous tensor on the CPU is not copied."""
    plain = tensor.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    # As bytes, because NumPy has no bfloat16 and no 8-bit floats.
    return plain.view(torch.uint8).numpy().data


def _type(value: object) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"
