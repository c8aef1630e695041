"""An unpickler for torch checkpoint files that makes tensors and plain values, and imports and runs nothing.

A pickle names classes and functions, and `pickle` imports and calls them. This unpickler makes tensors, containers,
numbers and texts itself. Every other object becomes an `Unread`, which holds what the file says about the object.
Therefore the weights of a checkpoint can be read safely whatever else the file holds.
"""

import _compat_pickle
import collections
import contextlib
import io
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.serialization import default_restore_location

from lightning_dtool.errors import ModuleLoadError
from lightning_dtool.loading.archive import Archive
from lightning_dtool.loading.makers import ATTRIBUTES, CONSTANTS, MAKERS, MAPPINGS, STORAGE_DTYPES, Storage
from lightning_dtool.loading.unread import Unread

MapLocation = Any
"""Where tensors are loaded, as in `torch.load`."""


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


class Reader(_Unpickler):  # type: ignore[misc]
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
