"""What makes the tensors and plain values of a checkpoint file from what the file says about them.

Each function makes a value and does nothing else, whatever it is called with: no import, no call of an argument, no
access outside the tensor's storage, no allocation of more than the value needs.
"""

import argparse
import codecs
import collections
import datetime
import decimal
import fractions
import pathlib
import pickle
import types
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from lightning.fabric.utilities.data import AttributeDict

_DTYPES: Final = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
_LAYOUTS: Final = {str(value): value for value in vars(torch).values() if isinstance(value, torch.layout)}
_SCHEMES: Final = {str(value): value for value in vars(torch).values() if isinstance(value, torch.qscheme)}

STORAGE_DTYPES: Final = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "QInt8": torch.qint8,
    "QUInt8": torch.quint8,
    "QInt32": torch.qint32,
    "QUInt4x2": torch.quint4x2,
    "QUInt2x4": torch.quint2x4,
    "Untyped": torch.uint8,
}
"""The dtype of each class of storage, by the first part of its name."""


class Storage(NamedTuple):
    """A storage and the type of its elements."""

    content: torch.UntypedStorage
    dtype: torch.dtype


def _tensor(
    storage: Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool = False,
    hooks: object = None,
    metadata: dict[str, bool] | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    empty = torch.empty(0, dtype=dtype or storage.dtype, device=storage.content.device)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if offset < 0 or min((*size, *stride, 0)) < 0:
        raise pickle.UnpicklingError("a tensor has a negative size")
    # Torch would make a storage larger instead.
    if 0 not in size and (last + 1) * empty.element_size() > storage.content.nbytes():
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    tensor = empty.set_(storage.content, offset, size, stride)
    if metadata:
        bits = {key: True for key in ("conj", "neg") if metadata.get(key)}
        torch._utils.set_tensor_metadata(tensor, bits)  # type: ignore[no-untyped-call]
    return tensor.requires_grad_(bool(requires_grad))


def _tensor_with_dtype(
    storage: Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: object,
    dtype: torch.dtype,
    metadata: dict[str, bool] | None = None,
) -> torch.Tensor:
    return _tensor(storage, offset, size, stride, requires_grad, hooks, metadata, dtype)


def _parameter(data: torch.Tensor, requires_grad: bool = True, *_: object) -> torch.nn.Parameter:
    return torch.nn.Parameter(data, bool(requires_grad))


def _quantised(
    storage: Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    quantizer: tuple[Any, ...],
    requires_grad: bool,
    hooks: object,
) -> torch.Tensor:
    _tensor(Storage(storage.content, torch.uint8), offset, size, stride)  # checks that it fits
    typed = torch.TypedStorage(wrap_storage=storage.content, dtype=storage.dtype, _internal=True)  # type: ignore[no-untyped-call]
    return torch._utils._rebuild_qtensor(  # type: ignore[no-untyped-call, no-any-return]
        typed, offset, size, stride, quantizer, bool(requires_grad), collections.OrderedDict()
    )


def _sparse(layout: torch.layout, data: tuple[Any, ...]) -> torch.Tensor:
    # Indices that are out of range would be read as addresses later.
    if layout is torch.sparse_coo:
        indices, values, size, *coalesced = data
        return torch.sparse_coo_tensor(
            indices, values, size, check_invariants=True, is_coalesced=coalesced[0] if coalesced else None
        )
    compressed, plain, values, size = data
    return torch.sparse_compressed_tensor(compressed, plain, values, size, layout=layout, check_invariants=True)


def _nested(buffer: torch.Tensor, sizes: torch.Tensor, strides: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    last = offsets + ((sizes - 1) * strides).sum(1)
    if min(map(_least, (sizes, strides, offsets))) < 0 or (len(last) and int(last.max()) >= buffer.numel()):
        raise pickle.UnpicklingError("a nested tensor reaches beyond its storage")
    return torch._nested_view_from_buffer(buffer, sizes, strides, offsets)


def _least(tensor: torch.Tensor) -> int:
    return int(tensor.min()) if tensor.numel() else 0


def _meta(dtype: torch.dtype, size: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool) -> torch.Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="meta", requires_grad=bool(requires_grad))


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are encoded as {encoding!r}")
    return codecs.encode(text, "latin1")


def _bytearray(content: bytes = b"") -> bytearray:
    if not isinstance(content, bytes):  # a number would be a size
        raise pickle.UnpicklingError("a bytearray is made from something other than bytes")
    return bytearray(content)


def _fraction(*parts: Any) -> fractions.Fraction:
    # 1e999999999 has a billion digits.
    if any("e" in str(part).lower() for part in parts if isinstance(part, str | decimal.Decimal)):
        raise pickle.UnpicklingError("a fraction has an exponent")
    return fractions.Fraction(*parts)


def _attribute_dict(*content: Any) -> AttributeDict:
    if any(type(part) is not dict for part in content):  # a pair of it could be a range of any size
        raise pickle.UnpicklingError("an AttributeDict is made from something other than a dict")
    return AttributeDict(*content)


def _numpy_dtype(code: str, *_: object) -> np.dtype[Any]:
    found = np.dtype(str(code), copy=True)  # a state may change its byte order
    if found.kind not in "biufc":
        raise ValueError(f"the dtype {code!r} is not one of numbers")  # an array of it is not made
    return found


def _numpy_scalar(dtype: np.dtype[Any], content: bytes) -> Any:
    if not isinstance(dtype, np.dtype) or len(content) != dtype.itemsize:
        raise pickle.UnpicklingError("a NumPy number has another size than its dtype")
    return np.frombuffer(content, dtype)[0]


MAKERS: Final[dict[str, Callable[..., Any]]] = {
    "_codecs.encode": _bytes,
    "argparse.Namespace": argparse.Namespace,
    "builtins.bytearray": _bytearray,
    "builtins.complex": complex,
    "builtins.frozenset": frozenset,
    "builtins.range": range,
    "builtins.set": set,
    "builtins.slice": slice,
    "collections.Counter": collections.Counter,
    "collections.deque": collections.deque,
    "collections.OrderedDict": collections.OrderedDict,
    "datetime.date": datetime.date,
    "datetime.datetime": datetime.datetime,
    "datetime.time": datetime.time,
    "datetime.timedelta": datetime.timedelta,
    "datetime.timezone": datetime.timezone,
    "decimal.Decimal": decimal.Decimal,
    "fractions.Fraction": _fraction,
    "lightning.fabric.utilities.data.AttributeDict": _attribute_dict,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy.dtype": _numpy_dtype,
    "pathlib._local.PosixPath": pathlib.PosixPath,
    "pathlib._local.PurePosixPath": pathlib.PurePosixPath,
    "pathlib._local.PureWindowsPath": pathlib.PureWindowsPath,
    "pathlib._local.WindowsPath": pathlib.WindowsPath,
    "pathlib.PosixPath": pathlib.PosixPath,
    "pathlib.PurePosixPath": pathlib.PurePosixPath,
    "pathlib.PureWindowsPath": pathlib.PureWindowsPath,
    "pathlib.WindowsPath": pathlib.WindowsPath,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_nested_tensor": _nested,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_with_dtype,
    "torch.device": torch.device,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.serialization._get_layout": _LAYOUTS.__getitem__,
    "torch.Size": torch.Size,
    "types.SimpleNamespace": types.SimpleNamespace,
}
"""What makes each kind of value, by the name in the file."""

CONSTANTS: Final = {**_DTYPES, **_SCHEMES}
"""The values that a file names without a call."""

ATTRIBUTES: Final = (argparse.Namespace, types.SimpleNamespace)
"""The types whose state is the dictionary of their attributes."""

MAPPINGS: Final = (dict, collections.OrderedDict, collections.Counter, AttributeDict)
"""The types to which entries are added after they are made."""
