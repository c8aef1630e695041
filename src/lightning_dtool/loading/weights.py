"""A reader of torch checkpoint files that makes tensors and plain values, and imports and runs nothing.

A pickle names classes and functions, and `pickle` imports and calls them. This reader makes tensors, containers,
numbers and texts itself. Every other object becomes an `Unread`, which holds what the file says about the object.
Therefore the weights of a checkpoint can be read safely whatever else the file holds.
"""

import _compat_pickle
import collections
import contextlib
import io
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import default_restore_location

from lightning_dtool.errors import LightningDtoolError, ModuleLoadError, NotACheckpointError, UnsafeCheckpointError
from lightning_dtool.loading.archive import Archive, is_compressed
from lightning_dtool.loading.bounds import check_bounds
from lightning_dtool.loading.makers import ATTRIBUTES, CONSTANTS, MAKERS, MAPPINGS, STORAGE_DTYPES, Storage

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


def load_safely(path: Path, *, map_location: MapLocation = "cpu", mmap: bool = True, uri: str | None = None) -> Any:
    """Load a checkpoint file without running code from it: as torch does, or if torch refuses the file, with `Unread`.

    Args:
        path: The file.
        map_location: Where tensors are loaded, as in `torch.load`. Default: the CPU.
        mmap: Memory-map the tensors, so that they are read when they are used. Default: True.
        uri: The dataset's URI, for errors.

    Raises:
        UnsafeCheckpointError: If neither can read the file, or it stands for much more than it can hold.
    """
    if is_compressed(path):  # torch would unpack any size
        return read_checkpoint(path, map_location=map_location, mmap=mmap, uri=uri)
    try:
        loaded = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except Exception:  # the content may be anything
        return read_checkpoint(path, map_location=map_location, mmap=mmap, uri=uri)
    with _refusing(path, uri):
        check_bounds(loaded, path.stat().st_size)
    return loaded


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
    path: Path,
    *,
    map_location: MapLocation = "cpu",
    mmap: bool = True,
    known: Mapping[str, Any] | None = None,
    uri: str | None = None,
) -> Any:
    """Read a checkpoint file without running code from it.

    Args:
        path: The file, in the zip format that `torch.save` writes since PyTorch 1.6.
        map_location: Where tensors are loaded, as in `torch.load`. Default: the CPU.
        mmap: Memory-map the tensors, so that they are read when they are used. Default: True.
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
    with _refusing(path, uri), Archive(path, mmap) as archive:
        content = _Reader(archive, map_location, known or {}, uri).load()
        check_bounds(content, path.stat().st_size)
        return content


def unknown_names(path: Path, uri: str | None = None) -> set[str]:
    """Return the full names of the classes and functions in a checkpoint file that a safe load does not know.

    Args:
        path: The file.
        uri: The dataset's URI, for errors.

    Raises:
        UnsafeCheckpointError: As for `read_checkpoint`.
    """
    with _refusing(path, uri), Archive(path) as archive:
        reader = _Reader(archive, "cpu", {}, uri)
        reader.load()
        return reader.unknown


@contextlib.contextmanager
def _refusing(path: Path, uri: str | None) -> Iterator[None]:
    try:
        yield
    except LightningDtoolError:
        raise
    except Exception as error:  # the content may be anything
        raise UnsafeCheckpointError(
            f"{path.name} cannot be read safely: {error or type(error).__name__}. It is not a file as torch.save writes"
            " it, or it is damaged. Load it with weights_only=False only if you trust its origin.",
            uri=uri,
            path=path,
        ) from error


def check_objects(content: Any, path: Path, uri: str) -> None:
    """Raise an error if objects that were not made say so much that it cannot be compared.

    Args:
        content: The result of `load_safely`, or parts of it.
        path: The file.
        uri: The dataset's URI, for errors.

    Raises:
        UnsafeCheckpointError: If they do.
    """
    with _refusing(path, uri):
        check_bounds(content, path.stat().st_size, (Mapping, list, tuple), _DEPTH_OF_OBJECTS)


_DEPTH_OF_OBJECTS = 20
"""The depth to which objects are compared. Their parts often refer back to them, so there is no end."""


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
        elif isinstance(item, _CONTAINERS) and id(item) not in seen:
            seen.add(id(item))
            item = vars(item) if isinstance(item, ATTRIBUTES) else item
            named = item.items() if isinstance(item, Mapping) else enumerate(item)
            for key, inner in named:
                if isinstance(key, Unread):
                    found[f"{place} (a key)"] = key.name
                pending.append((f"{place}.{key}" if place else str(key), inner))
    return found


def names_within(value: Any) -> set[str]:
    """Return the names of all objects that were not made, also of those that others contain.

    Args:
        value: The result of `read_checkpoint`, or a part of it.
    """
    names: set[str] = set()
    seen: set[int] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if id(item) in seen or not isinstance(item, _CONTAINERS):
            continue
        seen.add(id(item))
        if isinstance(item, Unread) and item.name not in MAKERS:
            names.add(item.name)
        if isinstance(item, ATTRIBUTES):
            item = vars(item)
        pending += [*item.keys(), *item.values()] if isinstance(item, Mapping) else item
    return names


_CONTAINERS = (Mapping, list, tuple, set, frozenset, collections.deque, *ATTRIBUTES)


def _user_globals() -> dict[str, Any]:
    """Return what the user has allowed for every safe load in this process."""
    found: dict[str, Any] = {}
    for entry in torch.serialization.get_safe_globals():
        value, name = entry if isinstance(entry, tuple) else (entry, f"{entry.__module__}.{entry.__qualname__}")
        found[name] = value
    return found


_NEVER = frozenset({"nt", "os", "posix", "sys"})
"""Modules whose functions torch's safe load does not use either, even where the user allows them."""

_BY_READER = frozenset({"torch._tensor._rebuild_from_type_v2"})
"""Functions that call another function that the file names, which the reader does itself."""

_Unpickler: Any = pickle._Unpickler


class _Reader(_Unpickler):  # type: ignore[misc]
    """Python's own unpickler, with every operation replaced that calls, imports or changes an object.

    Args:
        archive: The file.
        map_location: Where tensors are loaded.
        known: Further classes and functions to use, by name.
        uri: The dataset's URI, for errors.

    Attributes:
        unknown: The names that were found and are not known.
    """

    dispatch = dict(_Unpickler.dispatch)

    def __init__(self, archive: Archive, map_location: MapLocation, known: Mapping[str, Any], uri: str | None) -> None:
        super().__init__(io.BytesIO(archive.read("data.pkl")), encoding="utf-8")
        self._archive = archive
        self._map_location = map_location
        allowed = {**_user_globals(), **known}
        self._known = {name: value for name, value in allowed.items() if name.partition(".")[0] not in _NEVER}
        self._uri = uri
        self.unknown: set[str] = set()
        self._storages: dict[str, torch.UntypedStorage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for, without an import."""
        if self.proto < 3:  # these have Python 2's names
            module, name = _compat_pickle.NAME_MAPPING.get(
                (module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
            )
        path = f"{module}.{name}"
        if path in CONSTANTS:
            return CONSTANTS[path]
        if path in MAKERS or path in _BY_READER:
            return Unread(path)
        if path in self._known:
            return self._known[path]
        self.unknown.add(path)
        return Unread(path)

    def persistent_load(self, saved: Any) -> Any:
        """Return a storage."""
        kind, storage_type, key, location, count = saved
        prefix = storage_type.name.rpartition(".")[2].removesuffix("Storage")
        if kind != "storage" or prefix not in STORAGE_DTYPES:
            raise pickle.UnpicklingError(f"a reference to {kind!r} of {storage_type!r} is not a storage")
        dtype = STORAGE_DTYPES[prefix]
        if key not in self._storages:
            size = count * torch.empty(0, dtype=dtype).element_size()
            self._storages[key] = _located(self._archive.storage(key, size), location, self._map_location)
        return Storage(self._storages[key], dtype)

    def _is_known(self, value: object) -> bool:
        return any(value is known for known in self._known.values())

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("arguments are not a tuple")
        if self._is_known(function):
            with self._naming(function):
                return function(*arguments)
        if not isinstance(function, Unread):
            raise pickle.UnpicklingError(f"a {type(function).__name__} is called")
        if function.arguments is not None:
            return Unread(f"{function.name}()", (function, *arguments))
        if function.name in _BY_READER:
            return self._typed(*arguments)
        maker = MAKERS.get(function.name)
        # What is made from an object that was not made is not known either: `Unread` is a mapping, and would be copied.
        # A container of the numbers of a range could be of any size.
        if maker is None or any(isinstance(argument, Unread | range) for argument in arguments):
            return Unread(function.name, arguments)
        try:
            return maker(*arguments)
        except pickle.UnpicklingError:
            raise
        except Exception:
            if function.name.startswith("torch."):  # a weight that is damaged
                raise
            # Such as a path of another operating system, or the dtype of an array of objects.
            return Unread(function.name, arguments)

    @contextlib.contextmanager
    def _naming(self, value: Any) -> Iterator[None]:
        """Name the class in the error if an object of the user's cannot be made."""
        try:
            yield
        except Exception as error:
            raise ModuleLoadError(
                f"an object of {value.__module__}.{value.__qualname__} in the checkpoint cannot be made:"
                f" {type(error).__name__}: {error}. Its class may have changed since the checkpoint was written.",
                uri=self._uri,
            ) from error

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
        elif type(target) in ATTRIBUTES:
            vars(target).update({str(key): value for key, value in state.items()})
        elif isinstance(target, np.dtype):
            if state[1] not in ("<", ">", "|", "=") or state[2:5] != (None, None, None):
                raise pickle.UnpicklingError("the dtype of a NumPy number is not one of numbers")
            target.__setstate__((3, state[1], None, None, None, -1, -1, 0))  # type: ignore[attr-defined]
        elif self._is_known(type(target)):
            self.stack.append(state)
            with self._naming(type(target)):
                super().load_build()
        else:
            raise pickle.UnpicklingError(f"a {type(target).__name__} is given a state")

    def _add(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) in (list, collections.deque):
            target.extend(items)
        elif self._is_known(type(target)):
            with self._naming(type(target)):
                (target.extend if hasattr(target, "extend") else target.update)(items)
        elif type(target) is set:
            target.update(items)
        elif isinstance(target, Unread) and target.arguments is not None:
            target.items_added += items
        else:
            raise pickle.UnpicklingError(f"a {type(target).__name__} is extended")

    def _set(self, items: list[Any]) -> None:
        target, pairs = self.stack[-1], list(zip(items[::2], items[1::2], strict=True))
        if type(target) in MAPPINGS or self._is_known(type(target)):
            with self._naming(type(target)):
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
        if self._is_known(cls):
            with self._naming(cls):
                self.append(cls.__new__(cls, *arguments))
        else:
            self.append(self._call(cls, arguments))

    def _new_object_with_keywords(self) -> None:
        keywords = self.stack.pop()
        arguments = self.stack.pop()
        cls = self.stack.pop()
        if self._is_known(cls):
            with self._naming(cls):
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
