"""Comparable images of objects, which show quickly whether anything in them has changed.

Two tokens are equal if nothing changed, as far as a walk through attributes and containers can see. An object that was
replaced by an equal one has the same token, so a token contains no memory address, which a later object may reuse. A
walk runs no code of the objects' classes: it reads `__dict__` and slots, and neither properties nor `__repr__`. The
entries of a container are read with the methods of the built-in type that it inherits from.
"""

import contextlib
import datetime
import decimal
import enum
import functools
import itertools
import operator
import pathlib
import types
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.nn.parameter import is_lazy

from lightning_dtool.store import FrozenDataset
from lightning_dtool.values.attributes import is_constant
from lightning_dtool.values.definitions import is_library, names_used

Token = Any
"""An image of an object. It is compared with `==`."""

MAX_PARTS = 20_000
"""Maximum number of values that one walk reads."""

MAX_DEPTH = 30
"""Maximum depth of a walk."""

MAX_HASHED = 100_000
"""Maximum length of a list of plain values, and number of bytes of a tensor, that is compared as a whole."""

MAX_ARRAY = 4 * 2**20
"""Maximum number of bytes of the arrays that one walk compares as a whole. An array does not count its changes."""

_SAMPLE = 500
"""Number of entries that are compared of a longer container."""

_PLAIN = frozenset({type(None), bool, int, str, float, bytes})

_VALUES = (
    complex, range, slice, enum.Enum, pathlib.PurePath, decimal.Decimal, uuid.UUID, datetime.date, datetime.time,
    datetime.timedelta, torch.dtype, torch.device, torch.Size, torch.layout, np.dtype, np.generic,
)  # fmt: skip
"""Types whose instances do not change and can be compared."""

_FUNCTIONS = (
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.MethodDescriptorType,
    types.WrapperDescriptorType, types.MethodWrapperType, types.ClassMethodDescriptorType, functools.partial,
)  # fmt: skip

_BOOKKEEPING = frozenset(
    {"_iterator", "_backward_hooks", "_forward_hooks", "__weakref__", "_update_count", "_computed"}
)
"""Attributes that change without a change of what an object does."""

_OPAQUE = (pl.LightningModule, pl.LightningDataModule, pl.Trainer, FrozenDataset)
"""Objects that are not walked through, because they do not change or have tokens of their own."""


class Same:
    """Weak references to objects. They are equal to new references to the same objects in the same order."""

    __slots__ = ("_references",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, values: Iterable[Any]) -> None:
        # A living object has only one plain weak reference, and a later one at the same address has another.
        self._references = list(map(weakref.ref, values))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Same) or len(self._references) != len(other._references):
            return False
        return all(map(operator.is_, self._references, other._references))


def token_of(value: Any) -> Token:
    """Return the token of a value.

    Args:
        value: Any value.

    Example:
        >>> dropout = torch.nn.Dropout(0.1)
        >>> before = token_of(dropout)
        >>> token_of(torch.nn.Dropout(0.1)) == before
        True
        >>> dropout.p = 0.5
        >>> token_of(dropout) == before
        False
    """
    return TokenWalk().token(value)


class TokenWalk:
    """One walk, which visits an object once and stops after `MAX_PARTS` values."""

    def __init__(self) -> None:
        self._visited: dict[int, int] = {}
        self._alive: list[Any] = []
        self._left = MAX_PARTS
        self._array_bytes_left = MAX_ARRAY
        self._depth = 0

    def token(self, value: Any) -> Token:
        """Return the token of a value, in which an object that was visited before stands for itself.

        Args:
            value: Any value.
        """
        kind = type(value)
        if kind in _PLAIN:
            # In Python 1, 1.0 and True are equal, and 0.0 and -0.0. For Lightning they are different settings.
            if kind is float:
                return (kind, value if value and value == value else repr(value))
            return value if kind is str or value is None else (kind, value)
        if isinstance(value, type):
            return value
        visited = self._visited.get(id(value))
        if visited is not None:
            return ("visited", visited)
        self._left -= 1
        if self._left < 0 or self._depth > MAX_DEPTH:
            return "…"
        self._visited[id(value)] = len(self._visited)
        self._alive.append(value)  # so that its id is not used again during the walk
        self._depth += 1
        try:
            return self._of_object(kind, value)
        finally:
            self._depth -= 1

    def tokens(self, values: Iterable[Any]) -> list[Token]:
        """Return the tokens of several values, which is quicker than one call for each.

        Args:
            values: Any values.
        """
        found: list[Token] = []
        for value in values:
            kind = type(value)
            if value is None or kind is str:
                found.append(value)
            elif kind is bool or kind is int:
                found.append((kind, value))
            else:
                found.append(self.token(value))
        return found

    def _of_object(self, kind: type, value: Any) -> Token:
        family = _family(kind)
        if family is object:
            attributes = self._of_attributes(value)
            return (kind, *attributes) if attributes else self._of_unknown(kind, value)
        if family is list or family is tuple:
            attributes = self._of_attributes(value) if kind is not family else ()
            return (kind, *self._of_sequence(family, value), *attributes)
        if family is dict or family is OrderedDict:
            attributes = self._of_attributes(value) if kind is not dict else ()
            return (kind, *self._of_mapping(family, value), *attributes)
        if family is torch.Tensor:
            return _of_tensor(kind, value)
        if family is np.ndarray:
            return self._of_array(kind, value)
        if family is types.FunctionType:
            return self._of_function(value)
        if family is set or family is frozenset:
            attributes = self._of_attributes(value) if kind is not family else ()
            return (kind, family.__len__(value), _hash_of_plain(family, value), *attributes)
        if family is torch.Generator:
            return (kind, value.initial_seed())
        if family is Same:
            return Same([value])
        if family is type(None):
            return (kind, value)
        return (kind, family.__hash__(value))  # a subclass of a plain type

    def _of_sequence(self, family: Any, value: Any) -> tuple[Token, ...]:
        length = family.__len__(value)
        if length <= _SAMPLE:
            return (length, self.tokens(family.__iter__(value)))
        if length <= MAX_HASHED and (hashed := _hash_of_plain(family, value)) is not None:
            return (length, hashed)
        step = length // _SAMPLE
        return (length, self.tokens(family.__getitem__(value, index) for index in range(0, length, step)))

    def _of_mapping(self, family: Any, value: Any) -> tuple[Token, ...]:
        length = dict.__len__(value)
        if length <= _SAMPLE:
            return (length, self.tokens(list(family.keys(value))), self.tokens(list(family.values(value))))
        entries: list[tuple[Any, Any]]
        entries = list(itertools.islice(family.items(value), MAX_HASHED if length <= MAX_PARTS else _SAMPLE))
        return (length, self.tokens([key for key, _ in entries]), self.tokens([entry for _, entry in entries]))

    def _of_attributes(self, value: Any) -> tuple[Token, ...]:
        try:
            found = dict(object.__getattribute__(value, "__dict__"))
        except AttributeError:
            found = {}
        for name, descriptor in _slots(type(value)):  # type: ignore[arg-type]
            with contextlib.suppress(AttributeError):  # never assigned
                found[name] = descriptor.__get__(value)
        if not _BOOKKEEPING.isdisjoint(found):
            found = {name: entry for name, entry in found.items() if name not in _BOOKKEEPING}
        return (tuple(found), self.tokens(found.values())) if found else ()

    def _of_function(self, value: Any) -> Token:
        if isinstance(value, functools.partial):
            return ("partial", self.token(value.func), self.token(value.args), self.token(value.keywords))
        if isinstance(value, types.MethodType):
            return ("method", self.token(value.__func__), self.token(value.__self__))
        if not isinstance(value, types.FunctionType):
            return value  # a built-in function
        constants = _constants_of(value)
        if not (value.__closure__ or value.__defaults__ or value.__kwdefaults__ or value.__dict__ or constants):
            return value.__code__
        cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
        return (
            value.__code__, self.token(cells), self.token(value.__defaults__), self.token(value.__kwdefaults__),
            self.token(value.__dict__), self.token(constants),
        )  # fmt: skip

    def _of_array(self, kind: type, value: np.ndarray[Any, Any]) -> Token:
        described = (kind, value.shape, value.dtype.str)
        if value.dtype.hasobject or isinstance(value, np.memmap):
            return (*described, Same([value]))
        if value.nbytes <= self._array_bytes_left:
            self._array_bytes_left -= value.nbytes
            return (*described, hash(value.tobytes()))
        if value.flags.c_contiguous:
            step = value.size // _SAMPLE
            return (*described, hash(value.reshape(-1)[:: step or 1].tobytes()), Same([value]))
        return (*described, Same([value]))

    def _of_unknown(self, kind: type, value: Any) -> Token:
        # pandas keeps its arrays in an object without attributes.
        arrays = getattr(value, "arrays", None) if kind.__module__.startswith("pandas.") else None
        if isinstance(arrays, list | tuple):
            return (kind, *self._of_sequence(list if isinstance(arrays, list) else tuple, arrays))
        try:
            return (kind, Same([value]))
        except TypeError:
            return (kind, id(value))


@functools.lru_cache(maxsize=1000)
def _family(kind: Any) -> Any:
    """Return the type by which the walk treats a class."""
    if issubclass(kind, torch.Tensor | np.ndarray | torch.Generator):
        return next(each for each in (torch.Tensor, np.ndarray, torch.Generator) if issubclass(kind, each))
    if issubclass(kind, list | tuple):
        return type(None) if issubclass(kind, _VALUES) else list if issubclass(kind, list) else tuple
    if issubclass(kind, dict):
        return OrderedDict if issubclass(kind, OrderedDict) else dict  # the order of a dict is another one
    if issubclass(kind, set | frozenset):
        return set if issubclass(kind, set) else frozenset
    if issubclass(kind, _VALUES):
        return type(None)
    if issubclass(kind, _OPAQUE):
        return Same
    if issubclass(kind, str | int | float | bytes):
        return next(each for each in (str, int, float, bytes) if issubclass(kind, each))
    return types.FunctionType if issubclass(kind, _FUNCTIONS) else object


def _constants_of(function: types.FunctionType) -> list[Any]:
    """Return the constants of its module that a user's function uses, which a record shows with its source."""
    module = function.__module__
    if not isinstance(module, str) or _is_library(module):
        return []
    around = function.__globals__
    return [around[name] for name in _names_used(function.__code__) if name in around and is_constant(around[name])]


_is_library = functools.lru_cache(maxsize=1000)(is_library)


@functools.lru_cache(maxsize=1000)
def _names_used(code: types.CodeType) -> list[str]:
    return sorted(names_used(code))


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


@functools.lru_cache(maxsize=1000)
def _slots(kind: Any) -> list[tuple[str, Any]]:
    """Return the descriptors of a class's slots."""
    found = []
    for each in kind.__mro__:
        if each.__module__ == "builtins":
            continue
        found += [(name, entry) for name, entry in vars(each).items() if isinstance(entry, types.MemberDescriptorType)]
    return found


def _hash_of_plain(family: Any, value: Any) -> int | None:
    """Return a hash of a container of plain values, or of pairs of them. None for any other."""
    entries: tuple[Any, ...] = tuple(family.__iter__(value))
    kinds = set(map(type, entries))
    if kinds == {tuple}:
        kinds = set(map(type, itertools.chain.from_iterable(entries)))
    if not kinds <= _PLAIN:
        return None
    # With the types, as 1 and 1.0 have the same hash.
    return hash((frozenset(kinds), frozenset(entries) if family in (set, frozenset) else entries))


def _of_tensor(kind: type, value: torch.Tensor) -> Token:
    shape = value.shape if kind is torch.Tensor or not is_lazy(value) else None
    described = (kind, shape, value.dtype, value.device, value.requires_grad)
    if shape is None or (kind is not torch.Tensor and isinstance(value, torch.nn.Parameter)):
        return described  # training changes the values of a parameter, and a record does not hold them
    if value.is_cpu and value.layout is torch.strided and 0 < value.nbytes <= MAX_HASHED:
        try:
            return (*described, hash(_bytes_of(value)))
        except (RuntimeError, TypeError):  # a subclass that holds something else
            pass
    version = None if value.is_inference() else value._version
    return (*described, Same([value]), version)


def _bytes_of(tensor: torch.Tensor) -> bytes:
    tensor = tensor.detach() if tensor.requires_grad else tensor
    try:
        return tensor.numpy().tobytes()
    except (RuntimeError, TypeError):  # a type that NumPy does not have
        return tensor.contiguous().view(torch.uint8).numpy().tobytes()
