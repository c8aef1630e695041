"""The JSON forms of tensors, arrays and their types."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightning_dtool.record import Gaps
from lightning_dtool.values.digests import digest_of_numbers, nbytes
from lightning_dtool.values.registry import Content, Read, Registry

if TYPE_CHECKING:
    from lightning_dtool.values.reading import Reader
    from lightning_dtool.values.writing import Writer

MAX_VALUES = 1000
"""Maximum number of elements of a tensor or an array to record. Of a larger one, only the hash is recorded."""

_MAX_ITEMSIZE = 4000
"""Maximum size in bytes of one element of an array of texts that can be read back."""

_SCALARS = (
    np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
    np.float16, np.float32, np.float64, np.complex64, np.complex128, np.str_,
)  # fmt: skip


def register(registry: Registry) -> None:
    """Register the tensors, arrays, scalars, dtypes, devices and generators of torch and NumPy."""
    registry.add(torch.Tensor, _write_tensor, _read_tensor, name="torch:Tensor")
    registry.add(torch.nn.Parameter, _write_tensor, _read_parameter)
    registry.add(torch.Size, _write_size, lambda content, reader: torch.Size(reader.decode(content["value"])))
    for cls in (torch.dtype, torch.layout, torch.memory_format):
        registry.add(cls, _write_named, _read_named(cls))
    registry.add(torch.device, _write_device, lambda content, reader: torch.device(content["value"]))
    registry.add(np.ndarray, _write_array, _read_array)
    for scalar in _SCALARS:
        registry.add(scalar, _write_scalar, _read_scalar(scalar), name=f"numpy:{scalar.__name__}")
    registry.add(np.datetime64, _write_time, _read_time)
    registry.add(np.timedelta64, _write_time, _read_time)
    registry.add_matching(
        "numpy:dtype", lambda value: isinstance(value, np.dtype), _write_dtype, lambda content, _: _dtype(content)
    )
    registry.add_matching("numpy:ufunc", lambda value: isinstance(value, np.ufunc), _write_ufunc, _read_ufunc)
    registry.add(torch.Generator, _write_generator, _unreadable, name="torch:Generator")
    for generator, name in (
        (np.random.Generator, "numpy.random:Generator"),
        (np.random.RandomState, "numpy.random:RandomState"),
    ):
        registry.add(generator, _write_numpy_generator, _unreadable, name=name)


# -- torch ----------------------------------------------------------------------------------------


def _write_tensor(value: torch.Tensor, writer: "Writer", gaps: Gaps) -> Content:
    content: Content = {"dtype": _short(value.dtype), "shape": list(value.shape)}
    if value.requires_grad:
        content["requires_grad"] = True
    if value.layout is not torch.strided or value.is_meta or value.is_quantized:
        kind = "meta" if value.is_meta else "quantized" if value.is_quantized else _short(value.layout)
        gaps.add(f"only the shape of a {kind} tensor is recorded", "use a dense tensor")
        return {**content, "repr": f"a {kind} tensor"}
    if value.numel() > MAX_VALUES:
        return {**content, **_hashed(value, value.numel(), writer, gaps)}
    if value.numel() == 0:
        return content
    return {**content, "value": writer.encode(value.detach().cpu().tolist(), gaps)}


def _read_tensor(content: Mapping[str, Any], reader: "Reader") -> torch.Tensor:
    dtype = getattr(torch, content["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{content['dtype']} is not a dtype")
    if "value" not in content:
        tensor = torch.empty(_empty_shape(content), dtype=dtype)
    else:
        tensor = torch.tensor(reader.decode(content["value"]), dtype=dtype)
    return tensor.requires_grad_(content.get("requires_grad") is True)


def _read_parameter(content: Mapping[str, Any], reader: "Reader") -> torch.Tensor:
    return torch.nn.Parameter(_read_tensor(content, reader).detach(), content.get("requires_grad") is True)


def _write_size(value: torch.Size, writer: "Writer", gaps: Gaps) -> Content:
    return {"value": list(value)}


def _write_named(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    return {"value": _short(value)}


def _read_named(cls: Any) -> Read:
    def read(content: Mapping[str, Any], reader: "Reader") -> Any:
        found = getattr(torch, content["value"], None)
        if not isinstance(found, cls):
            raise ValueError(f"{content['value']} is not a {cls.__name__} of torch")
        return found

    return read


def _write_device(value: torch.device, writer: "Writer", gaps: Gaps) -> Content:
    return {"value": str(value)}


def _write_generator(value: torch.Generator, writer: "Writer", gaps: Gaps) -> Content:
    writer.add_unreadable(gaps, "only the initial seed of a generator is recorded", "create it in __init__")
    return {"repr": "a generator", "initial_seed": writer.encode(value.initial_seed(), gaps)}


def _write_numpy_generator(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    writer.add_unreadable(gaps, "the state of a generator is not recorded", "create it in __init__")
    return {"repr": "a generator"}


def _unreadable(content: Mapping[str, Any], reader: "Reader") -> Any:
    raise ValueError("the record does not hold its state")


# -- NumPy ----------------------------------------------------------------------------------------


def _write_array(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    content: Content = {"dtype": str(value.dtype), "shape": list(value.shape)}
    if not _is_readable(value.dtype):
        gaps.add(f"only the shape of an array of {content['dtype'][:100]} is recorded", "use an array of numbers")
        return {**content, "dtype": content["dtype"][:100], "repr": "an array"}
    if value.size > MAX_VALUES:
        return {**content, **_hashed(value, value.size, writer, gaps)}
    if value.size == 0:
        return content
    return {**content, "value": writer.encode(value.tolist(), gaps)}


def _read_array(content: Mapping[str, Any], reader: "Reader") -> Any:
    dtype = np.dtype(content["dtype"])
    if not _is_readable(dtype):
        raise ValueError(f"an array of {dtype} cannot be read")
    if "value" not in content:
        return np.empty(_empty_shape(content), dtype)
    return np.array(reader.decode(content["value"]), dtype)


def _write_scalar(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    # `item` drops the null characters at the end of a text.
    plain = str.__str__(value) if isinstance(value, np.str_) else value.item()
    return {"value": writer.encode(plain, gaps)}


def _read_scalar(scalar: Any) -> Read:
    return lambda content, reader: scalar(reader.decode(content["value"]))


def _write_time(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    return {"dtype": str(value.dtype), "value": writer.encode(int(value.astype(np.int64)), gaps)}


def _read_time(content: Mapping[str, Any], reader: "Reader") -> Any:
    dtype = np.dtype(content["dtype"])
    if dtype.kind not in "mM":
        raise ValueError(f"{dtype} is not a dtype of dates or times")
    return np.int64(reader.decode(content["value"])).view(dtype)


def _write_dtype(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    if not _is_readable(value):
        gaps.add("only the repr of a structured dtype is recorded")
        return {"repr": str(value)[:1000]}
    return {"dtype": str(value)}


def _dtype(content: Mapping[str, Any]) -> Any:
    dtype = np.dtype(content["dtype"])
    if not _is_readable(dtype):
        raise ValueError(f"{dtype} cannot be read")
    return dtype


def _write_ufunc(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    name = value.__name__
    if getattr(np, name, None) is not value:
        gaps.add("this NumPy function cannot be imported by name")
        return {"repr": f"{name[:100]} of {value.nin} arguments"}
    return {"name": f"numpy:{name}"}


def _read_ufunc(content: Mapping[str, Any], reader: "Reader") -> Any:
    return reader.imported(content["name"])


def _is_readable(dtype: Any) -> bool:
    """Return whether a dtype is one of plain numbers or of short texts."""
    largest = {"b": 8, "i": 8, "u": 8, "f": 8, "c": 16, "U": _MAX_ITEMSIZE}
    return int(dtype.itemsize) <= largest.get(dtype.kind, -1)


# -- both -----------------------------------------------------------------------------------------


def _hashed(value: Any, size: int, writer: "Writer", gaps: Gaps) -> Content:
    digest = digest_of_numbers(value) if writer.may_hash(nbytes(value)) else None
    if digest is None:
        gaps.add(f"only the shape of its {size} elements is recorded", "keep it as a buffer, or in a dataset")
        return {"repr": f"{size} elements"}
    writer.add_unreadable(
        gaps, f"only the hash of its {size} elements is recorded", "keep it as a buffer, or in a dataset"
    )
    return {"sha256": digest}


def _empty_shape(content: Mapping[str, Any]) -> list[int]:
    shape = content["shape"]
    if 0 not in shape:
        raise ValueError("its elements are missing")
    return list(shape)


def _short(value: Any) -> str:
    return str(value).removeprefix("torch.")
