"""Comparable images of objects, which show quickly whether anything in them has changed.

Two tokens are equal if nothing changed, as far as a walk through attributes and containers can see. An object that was
replaced by an equal one has the same token, so a token contains no memory address, which a later object may reuse. A
walk runs no code of the objects' classes: it reads `__dict__` and slots, and neither properties nor `__repr__`.
"""

import contextlib
import datetime
import decimal
import enum
import functools
import inspect
import itertools
import pathlib
import types
import uuid
import weakref
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.nn.parameter import is_lazy

from lightning_dtool.store import FrozenDataset

Token = Any
"""An image of an object. It is compared with `==`."""

MAX_PARTS = 20_000
"""Maximum number of values that one walk reads."""

MAX_DEPTH = 30
"""Maximum depth of a walk."""

MAX_HASHED = 100_000
"""Maximum length of a list of plain values, and number of bytes of a tensor or array, that is compared as a whole."""

_SAMPLE = 500
"""Number of entries that are compared of a longer container."""

_PLAIN = frozenset({type(None), bool, int, str, float, bytes})

_VALUES = (
    complex, range, slice, enum.Enum, pathlib.PurePath, decimal.Decimal, uuid.UUID, datetime.date, datetime.time,
    datetime.timedelta, torch.dtype, torch.device, torch.Size, torch.layout, np.dtype, np.generic,
)  # fmt: skip
"""Types whose instances do not change and can be compared."""

_OPAQUE = (pl.LightningModule, pl.LightningDataModule, pl.Trainer, FrozenDataset)
"""Objects that are not walked through, because they do not change or have tokens of their own."""


class _Same:
    """A weak reference to an object, equal to another one as long as both refer to the same living object."""

    __slots__ = ("_reference",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: Any) -> None:
        self._reference = weakref.ref(value)

    def __eq__(self, other: object) -> bool:
        mine = self._reference()
        return mine is not None and isinstance(other, _Same) and mine is other._reference()


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
        self._depth = 0

    def token(self, value: Any) -> Token:
        """Return the token of a value, in which an object that was visited before stands for itself.

        Args:
            value: Any value.
        """
        kind = type(value)
        if kind in _PLAIN:
            # In Python 1, 1.0 and True are equal. For Lightning they are different settings.
            return value if kind is str or value is None else (kind, repr(value) if kind is float else value)
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

    def _of_object(self, kind: type, value: Any) -> Token:
        if isinstance(value, torch.Tensor):
            return _of_tensor(kind, value)
        if isinstance(value, np.ndarray):
            return _of_array(kind, value)
        if isinstance(value, list | tuple):
            return (kind, *self._of_sequence(value))
        if isinstance(value, dict):
            return (kind, *self._of_mapping(value), *self._of_attributes(value))
        if isinstance(value, set | frozenset):
            return (kind, len(value), _hash_of_plain(value))
        if isinstance(value, _VALUES):
            return (kind, value)
        if isinstance(value, torch.Generator):
            return (kind, value.initial_seed())
        if isinstance(value, _OPAQUE):
            return _Same(value)
        if isinstance(value, str | int | float | bytes):
            base: Any = next(each for each in (str, int, float, bytes) if isinstance(value, each))
            return (kind, base.__hash__(value))
        if inspect.isroutine(value) or isinstance(value, functools.partial):
            return self._of_function(value)
        attributes = self._of_attributes(value)
        if attributes:
            return (kind, *attributes)
        return self._of_unknown(kind, value)

    def _of_sequence(self, value: list[Any] | tuple[Any, ...]) -> tuple[Token, ...]:
        length = len(value)
        if length <= _SAMPLE:
            return (length, *[self.token(entry) for entry in value])
        if length <= MAX_HASHED and (hashed := _hash_of_plain(value)) is not None:
            return (length, hashed)
        step = length // _SAMPLE
        return (length, *[self.token(value[index]) for index in range(0, length, step)])

    def _of_mapping(self, value: Mapping[Any, Any]) -> tuple[Token, ...]:
        entries = itertools.islice(value.items(), MAX_HASHED if len(value) <= MAX_PARTS else _SAMPLE)
        return (len(value), *[(self.token(key), self.token(entry)) for key, entry in entries])

    def _of_attributes(self, value: Any) -> tuple[Token, ...]:
        found: list[tuple[Any, Any]] = []
        with contextlib.suppress(AttributeError):
            found += list(object.__getattribute__(value, "__dict__").items())
        for name, descriptor in _slots(type(value)):  # type: ignore[arg-type]
            try:
                found.append((name, descriptor.__get__(value)))
            except AttributeError:  # never assigned
                continue
        return tuple([(name, self.token(entry)) for name, entry in found if not _is_bookkeeping(name)])

    def _of_function(self, value: Any) -> Token:
        if isinstance(value, functools.partial):
            return ("partial", self.token(value.func), self.token(value.args), self.token(value.keywords))
        if isinstance(value, types.MethodType):
            return ("method", self.token(value.__func__), self.token(value.__self__))
        if not isinstance(value, types.FunctionType):
            return value  # a built-in function
        cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
        return (
            value.__code__, self.token(cells), self.token(value.__defaults__), self.token(value.__kwdefaults__),
            self.token(value.__dict__),
        )  # fmt: skip

    def _of_unknown(self, kind: type, value: Any) -> Token:
        # pandas keeps its arrays in an object without attributes.
        arrays = getattr(value, "arrays", None) if kind.__module__.startswith("pandas.") else None
        if isinstance(arrays, list | tuple):
            return (kind, *self._of_sequence(arrays))
        try:
            return (kind, _Same(value))
        except TypeError:
            return (kind, id(value))


def _is_bookkeeping(name: Any) -> bool:
    """Return True for attributes that change without a change of what an object does."""
    return name in ("_iterator", "_backward_hooks", "_forward_hooks", "__weakref__", "_update_count", "_computed")


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


def _hash_of_plain(value: Any) -> int | None:
    """Return a hash of a container of plain values, or of pairs of them. None for any other."""
    kinds = set(map(type, value))
    if kinds == {tuple}:
        kinds = set(map(type, itertools.chain.from_iterable(value)))
    if not kinds <= _PLAIN:
        return None
    return hash(frozenset(value) if isinstance(value, set | frozenset) else tuple(value))


def _of_tensor(kind: type, value: torch.Tensor) -> Token:
    shape = None if is_lazy(value) else value.shape
    described = (kind, shape, value.dtype, str(value.device), value.requires_grad)
    if shape is None or isinstance(value, torch.nn.Parameter):
        return described  # training changes the values of a parameter, and a record does not hold them
    if value.device.type == "cpu" and value.layout is torch.strided and 0 < value.nbytes <= MAX_HASHED:
        try:
            return (*described, hash(value.detach().contiguous().view(torch.uint8).numpy().tobytes()))
        except (RuntimeError, TypeError):  # a subclass that holds something else
            pass
    version = None if value.is_inference() else value._version
    return (*described, _Same(value), version)


def _of_array(kind: type, value: np.ndarray[Any, Any]) -> Token:
    described = (kind, value.shape, value.dtype.str)
    if value.dtype.hasobject or isinstance(value, np.memmap):
        return (*described, _Same(value))
    if value.nbytes <= MAX_HASHED:
        return (*described, hash(value.tobytes()))
    if value.flags.c_contiguous:
        step = value.size // _SAMPLE
        return (*described, hash(value.reshape(-1)[:: step or 1].tobytes()), _Same(value))
    return (*described, _Same(value))
