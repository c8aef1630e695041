"""A reader of torch checkpoint files that makes tensors and plain values, and imports and runs nothing.

A pickle names classes and functions, and `pickle` imports and calls them. This reader makes tensors, containers,
numbers and texts itself. Every other object becomes an `Unread`, which holds what the file says about the object.
Therefore the weights of a checkpoint can be read safely whatever else the file holds.
"""

import _compat_pickle
import codecs
import collections
import io
import mmap
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch.serialization import default_restore_location

from lightning_dtool.errors import NotACheckpointError, UnsafeCheckpointError

MapLocation = Any
"""Where tensors are loaded, as in `torch.load`."""


class Unread(Mapping[str, Any]):
    """An object that a checkpoint file holds and that was not made; as a mapping, what the file says about it.

    Args:
        name: The class or function, such as `datetime.date`.
        arguments: What it would be called with. None if the object is the class or function itself.

    Attributes:
        name: As given.
        state: The state that the object would be given after it was made.
        items: The elements that would be added to it then.
    """

    def __init__(self, name: str, arguments: tuple[Any, ...] | None = None) -> None:
        self.name = name
        self.arguments = arguments
        self.state: Any = None
        self.items_added: list[Any] = []

    def __getitem__(self, key: str) -> Any:
        """Return one of the facts."""
        return {"name": self.name, "arguments": self.arguments, "state": self.state, "items": self.items_added}[key]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the facts."""
        return iter(("name", "arguments", "state", "items"))

    def __len__(self) -> int:
        """Return the number of facts."""
        return 4

    def __repr__(self) -> str:
        """Return the name alone, because the rest may be large or contain itself."""
        return f"<unread {self.name}>"

    __eq__ = object.__eq__
    __hash__ = object.__hash__


def load_safely(path: Path, *, map_location: MapLocation = "cpu", uri: str | None = None) -> Any:
    """Load a checkpoint file without running code from it: as torch does, or if torch refuses the file, with `Unread`.

    Args:
        path: The file.
        map_location: Where tensors are loaded, as in `torch.load`. Default: the CPU.
        uri: The dataset's URI, for errors.

    Raises:
        UnsafeCheckpointError: If neither can read the file.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception:  # the content may be anything
        return read_checkpoint(path, map_location=map_location, uri=uri)


def state_dict_of(checkpoint: Any, uri: str) -> Mapping[str, Any]:
    """Return the weights in a Lightning checkpoint.

    Args:
        checkpoint: The content of the file.
        uri: The dataset's URI, for errors.

    Raises:
        NotACheckpointError: If it holds none.
    """
    found = checkpoint.get("state_dict") if isinstance(checkpoint, Mapping) else None
    if not isinstance(found, Mapping) or isinstance(found, Unread):
        held = ", ".join(map(str, checkpoint)) if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise NotACheckpointError(
            f"expected a Lightning checkpoint with a 'state_dict', found {held or 'nothing'}. Only a checkpoint that a"
            " Trainer saved has weights under that name.",
            uri=uri,
        )
    return found


def read_checkpoint(
    path: Path, *, map_location: MapLocation = "cpu", known: Mapping[str, Any] | None = None, uri: str | None = None
) -> Any:
    """Read a checkpoint file without running code from it. Tensors are memory-mapped.

    Args:
        path: The file, in the zip format that `torch.save` writes since PyTorch 1.6.
        map_location: Where tensors are loaded, as in `torch.load`. Default: the CPU.
        known: Classes and functions to use, by the full names that the file may give them, such as `train.Config`.
            They are called with what the file says. Default: none. Those of `torch.serialization.add_safe_globals`
            are used, too.
        uri: The dataset's URI, for errors.

    Returns:
        What was saved, with an `Unread` in place of each object that is neither a tensor nor a plain value.

    Raises:
        UnsafeCheckpointError: If the file cannot be read in this way: it is damaged, compressed, or has the older
            format, or its tensors do not fit their storages.
    """
    try:
        with _Archive(path) as archive:
            reader = _Reader(archive, map_location, {**_user_globals(), **(known or {})})
            return reader.load()
    except Exception as error:  # the content may be anything
        raise UnsafeCheckpointError(
            f"{path.name} cannot be read safely: {error or type(error).__name__}. It is not a file as torch.save writes"
            " it, or it is damaged. Load it with weights_only=False only if you trust its origin.",
            uri=uri,
            path=path,
        ) from error


def unread(value: Any) -> dict[str, str]:
    """Return the names of the objects that were not made, by the places where they stand.

    Args:
        value: The result of `read_checkpoint`, or a part of it.

    Returns:
        For example `{"hyper_parameters.since": "datetime.date"}`. What an object itself contains is left out.
    """
    found: dict[str, str] = {}
    seen: set[int] = set()
    pending: list[tuple[str, Any]] = [("", value)]
    while pending:
        place, item = pending.pop()
        if isinstance(item, Unread):
            found[place] = item.name
        elif isinstance(item, Mapping | list | tuple | set | frozenset) and id(item) not in seen:
            seen.add(id(item))
            named = item.items() if isinstance(item, Mapping) else enumerate(item)
            for key, inner in named:
                if isinstance(key, Unread):
                    found[f"{place} (a key)"] = key.name
                pending.append((f"{place}.{key}" if place else str(key), inner))
    return found


# -- the file ---------------------------------------------------------------------------------------


class _Archive:
    """The zip file: the pickle, and the storages that it refers to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> "_Archive":
        if not zipfile.is_zipfile(self._path):
            raise pickle.UnpicklingError("it is not a zip file; PyTorch before 1.6 wrote another format")
        with self._path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with zipfile.ZipFile(self._path) as opened:
            self._entries = {entry.filename.partition("/")[2]: entry for entry in opened.infolist()}
        if self._entries.keys() & {"constants.pkl"}:
            raise pickle.UnpicklingError("it is a TorchScript program")
        order = self.read("byteorder") if "byteorder" in self._entries else b"little"
        if order != b"little" or torch.tensor([1]).view(torch.uint8)[0] != 1:
            raise pickle.UnpicklingError("it was written on a machine with another byte order")
        self._whole = torch.UntypedStorage.from_file(str(self._path), False, self._path.stat().st_size)
        return self

    def __exit__(self, *_: object) -> None:
        self._bytes.close()

    def read(self, name: str) -> bytes:
        start, size = self._extent(name)
        return self._bytes[start : start + size]

    def storage(self, key: str, size: int) -> torch.UntypedStorage:
        start, available = self._extent(f"data/{key}")
        if not 0 <= size <= available:
            raise pickle.UnpicklingError(f"the storage {key!r} has {available} bytes, expected {size}")
        return self._whole[start : start + size]  # type: ignore[no-any-return]

    def _extent(self, name: str) -> tuple[int, int]:
        """Return where the content of an entry begins, and its size."""
        entry = self._entries.get(name)
        if entry is None:
            raise pickle.UnpicklingError(f"it holds no {name!r}")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"{name!r} in it is compressed")
        header = self._bytes[entry.header_offset : entry.header_offset + 30]
        name_size, extra_size = struct.unpack("<HH", header[26:30])
        start = entry.header_offset + 30 + name_size + extra_size
        if start + entry.file_size > len(self._bytes):
            raise pickle.UnpicklingError(f"{name!r} in it is cut off")
        return start, entry.file_size


# -- tensors ----------------------------------------------------------------------------------------

_DTYPES: Final = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
_LAYOUTS: Final = {str(value): value for value in vars(torch).values() if isinstance(value, torch.layout)}
_SCHEMES: Final = {str(value): value for value in vars(torch).values() if isinstance(value, torch.qscheme)}

_STORAGES: Final = {
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


class _Storage(NamedTuple):
    content: torch.UntypedStorage
    dtype: torch.dtype


def _tensor(
    storage: _Storage,
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
    storage: _Storage,
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
    storage: _Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    quantizer: tuple[Any, ...],
    requires_grad: bool,
    hooks: object,
) -> torch.Tensor:
    _tensor(_Storage(storage.content, torch.uint8), offset, size, stride)  # checks that it fits
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


_MAKERS: Final[dict[str, Callable[..., Any]]] = {
    "_codecs.encode": _bytes,
    "builtins.bytearray": _bytearray,
    "builtins.complex": complex,
    "builtins.frozenset": frozenset,
    "builtins.set": set,
    "collections.Counter": collections.Counter,
    "collections.OrderedDict": collections.OrderedDict,
    "torch.Size": torch.Size,
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
}
"""What makes the objects that are read, by the name in the file. Each of them makes a value and does nothing else."""

_CONSTANTS: Final = {**_DTYPES, **_SCHEMES}


def _user_globals() -> dict[str, Any]:
    """Return what the user has allowed for every safe load in this process."""
    found: dict[str, Any] = {}
    for entry in torch.serialization.get_safe_globals():
        value, name = entry if isinstance(entry, tuple) else (entry, f"{entry.__module__}.{entry.__qualname__}")
        found[name] = value
    return found


# -- the pickle -------------------------------------------------------------------------------------

_NEVER = frozenset({"nt", "os", "posix", "sys"})
"""Modules whose functions torch's safe load does not use either, even where the user allows them."""


_Unpickler: Any = pickle._Unpickler


class _Reader(_Unpickler):  # type: ignore[misc]
    """Python's own unpickler, with every operation replaced that calls, imports or changes an object.

    Args:
        archive: The file.
        map_location: Where tensors are loaded.
        known: Further classes and functions to use, by name.
    """

    dispatch = dict(_Unpickler.dispatch)

    def __init__(self, archive: _Archive, map_location: MapLocation, known: Mapping[str, Any]) -> None:
        super().__init__(io.BytesIO(archive.read("data.pkl")), encoding="utf-8")
        self._archive = archive
        self._map_location = map_location
        self._known = {name: value for name, value in known.items() if name.partition(".")[0] not in _NEVER}
        self._storages: dict[str, torch.UntypedStorage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for, without an import."""
        if self.proto < 3:  # these have Python 2's names
            module, name = _compat_pickle.NAME_MAPPING.get(
                (module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
            )
        path = f"{module}.{name}"
        if path in _CONSTANTS:
            return _CONSTANTS[path]
        return Unread(path) if path in _MAKERS or path not in self._known else self._known[path]

    def persistent_load(self, saved: Any) -> Any:
        """Return a storage."""
        kind, storage_type, key, location, count = saved
        prefix = storage_type.name.rpartition(".")[2].removesuffix("Storage")
        if kind != "storage" or prefix not in _STORAGES:
            raise pickle.UnpicklingError(f"a reference to {kind!r} of {storage_type!r} is not a storage")
        dtype = _STORAGES[prefix]
        if key not in self._storages:
            size = count * torch.empty(0, dtype=dtype).element_size()
            self._storages[key] = _located(self._archive.storage(key, size), location, self._map_location)
        return _Storage(self._storages[key], dtype)

    def _is_known(self, value: object) -> bool:
        return any(value is known for known in self._known.values())

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("arguments are not a tuple")
        if self._is_known(function):
            return function(*arguments)
        if not isinstance(function, Unread):
            raise pickle.UnpicklingError(f"a {type(function).__name__} is called")
        if function.arguments is not None:
            return Unread(f"{function.name}()", (function, *arguments))
        if function.name == "torch._tensor._rebuild_from_type_v2":
            return self._typed(*arguments)
        maker = _MAKERS.get(function.name)
        # What is made from an object that was not made is not known either: `Unread` is a mapping, and would be copied.
        if maker is None or any(isinstance(argument, Unread) for argument in arguments):
            return Unread(function.name, arguments)
        return maker(*arguments)

    def _typed(self, function: Any, cls: Any, arguments: Any, state: Any) -> Any:
        """Return a tensor of a subclass; without its class and attributes, unless the class is known."""
        tensor = self._call(function, arguments)
        if self._is_known(cls) and isinstance(tensor, torch.Tensor):
            return torch._tensor._rebuild_from_type_v2(lambda: tensor, cls, (), state)  # type: ignore[no-untyped-call]
        return tensor

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Unread) and target.arguments is not None:
            target.state = state
        elif type(target) is collections.OrderedDict:
            # The versions of a state dict's modules. Any other attribute could hide a method.
            if isinstance(state, dict) and "_metadata" in state:
                target._metadata = state["_metadata"]  # type: ignore[attr-defined]
        elif self._is_known(type(target)):
            self.stack.append(state)
            super().load_build()
        else:
            raise pickle.UnpicklingError(f"a {type(target).__name__} is given a state")

    def _add(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list or self._is_known(type(target)):
            target.extend(items)
        elif type(target) is set:
            target.update(items)
        elif isinstance(target, Unread) and target.arguments is not None:
            target.items_added += items
        else:
            raise pickle.UnpicklingError(f"a {type(target).__name__} is extended")

    def _set(self, items: list[Any]) -> None:
        target, pairs = self.stack[-1], list(zip(items[::2], items[1::2], strict=True))
        if type(target) in (dict, collections.OrderedDict, collections.Counter) or self._is_known(type(target)):
            for key, value in pairs:
                target[key] = value
        elif isinstance(target, Unread) and target.arguments is not None:
            target.items_added += pairs
        else:
            raise pickle.UnpicklingError(f"an element of a {type(target).__name__} is set")

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _new_object(self) -> None:
        arguments = self.stack.pop()
        cls = self.stack.pop()
        self.append(cls.__new__(cls, *arguments) if self._is_known(cls) else self._call(cls, arguments))

    def _new_object_with_keywords(self) -> None:
        keywords = self.stack.pop()
        arguments = self.stack.pop()
        cls = self.stack.pop()
        if self._is_known(cls):
            self.append(cls.__new__(cls, *arguments, **keywords))
        else:
            self.append(Unread(getattr(cls, "name", "?"), (*arguments, keywords)))

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("it uses an operation of pickle that torch.save does not use")

    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.NEWOBJ[0]] = _new_object
    dispatch[pickle.NEWOBJ_EX[0]] = _new_object_with_keywords
    dispatch[pickle.APPEND[0]] = lambda self: self._add([self.stack.pop()])
    dispatch[pickle.APPENDS[0]] = lambda self: self._add(self.pop_mark())
    dispatch[pickle.ADDITEMS[0]] = lambda self: self._add(self.pop_mark())
    dispatch[pickle.SETITEM[0]] = lambda self: self._set([self.stack.pop(-2), self.stack.pop()])
    dispatch[pickle.SETITEMS[0]] = lambda self: self._set(self.pop_mark())
    for _code in (
        pickle.INST,
        pickle.OBJ,
        pickle.PERSID,
        pickle.EXT1,
        pickle.EXT2,
        pickle.EXT4,
        pickle.BYTEARRAY8,
        pickle.NEXT_BUFFER,
        pickle.READONLY_BUFFER,
    ):
        dispatch[_code[0]] = _refuse
    del _code


def _located(storage: torch.UntypedStorage, location: str, map_location: MapLocation) -> torch.UntypedStorage:
    """Return a storage where `map_location` says, with the same meaning as in `torch.load`."""
    if callable(map_location):
        moved = map_location(storage, location)
        if moved is not None:
            return moved  # type: ignore[no-any-return]
    elif isinstance(map_location, Mapping):
        location = map_location.get(location, location)
    elif map_location is not None:
        location = str(map_location)
    return default_restore_location(storage, location)  # type: ignore[no-untyped-call, no-any-return]
