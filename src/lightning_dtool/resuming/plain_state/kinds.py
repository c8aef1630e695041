"""Kinds of plain values: which may be saved, which are built anew, and which hold no others."""

import array
import collections
import ctypes
import datetime
import enum
import functools
import pathlib
import random
import re
import types
from typing import Any

import numpy as np
import torch

from lightning_dtool.values.attributes import has_hidden_state
from lightning_dtool.values.definitions import is_users

GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator)

DATES = (datetime.date, datetime.datetime, datetime.time, datetime.timedelta)
"""Types of dates and durations, which may be readings of a clock."""

CONSTANTS = (
    *DATES, range, slice, torch.dtype, torch.device, torch.Size, torch.layout, np.generic, np.dtype, enum.Enum,
    pathlib.PurePath, re.Pattern,
)  # fmt: skip
"""Types whose objects do not change, and hold none that do."""

SCALARS = frozenset({type(None), bool, int, float, str})
"""Types whose values a safe load accepts as they are."""

PLAIN = SCALARS | {bytes, complex}
"""Types whose values do not change, and hold no others."""

FACTORIES = {
    None: "none",
    int: "int",
    float: "float",
    list: "list",
    dict: "dict",
    set: "set",
    str: "str",
    bool: "bool",
}
"""The functions with which a `defaultdict` may be saved, and their names."""


class NotPlainError(Exception):
    """A value that cannot be encoded. The message says why, as the end of a sentence about it."""


class MissingType(enum.Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING = MissingType.MISSING
"""The value of an attribute that does not exist, and of one that holds no state of a training."""


def kind_of(value: Any) -> Any:
    """Return the class of a value, for functions that remember their results.

    Args:
        value: Any value.
    """
    return type(value)


@functools.lru_cache(maxsize=1000)
def family_of(kind: Any) -> Any:
    """Return the built-in class of containers from which a class derives; None if there is none.

    Args:
        kind: The class.
    """
    families = (dict, list, set, collections.deque, bytearray)
    return next((each for each in families if issubclass(kind, each)), None)


@functools.lru_cache(maxsize=1000)
def is_buffer(kind: Any) -> bool:
    """Return whether objects of a class are numbers in memory: `array.array`, or objects of ctypes without pointers.

    `multiprocessing.Value` and `Array` hold such objects.

    Args:
        kind: The class.
    """
    if issubclass(kind, ctypes._SimpleCData):
        return str(getattr(kind, "_type_", "")) in set("bBhHiIlLqQfdg?c")
    if issubclass(kind, ctypes.Array):
        return is_buffer(kind._type_)
    if issubclass(kind, ctypes.Structure | ctypes.Union):
        return all(is_buffer(field[1]) for each in kind.__mro__ for field in vars(each).get("_fields_", ()))
    return issubclass(kind, array.array)


def holds_objects(value: Any) -> bool:
    """Return whether a value is a NumPy array of Python objects.

    Args:
        value: Any value.
    """
    return type(value) is np.ndarray and bool(value.dtype == object)


@functools.lru_cache(maxsize=1000)
def is_named_tuple(kind: Any) -> bool:
    """Return whether a class of the user was made by `namedtuple`, so that a tuple of its fields makes an object.

    Args:
        kind: The class.
    """
    plain = issubclass(kind, tuple) and isinstance(vars(kind).get("_fields"), tuple)
    return plain and kind.__bases__ == (tuple,) and is_users(kind)


@functools.lru_cache(maxsize=1000)
def is_buildable(kind: Any) -> bool:
    """Return whether an object of a class of the user is no more than its attributes.

    Args:
        kind: The class.
    """
    if not is_users(kind) or has_hidden_state(kind) or issubclass(kind, torch.nn.Module):
        return False
    names = set().union(*(vars(each) for each in kind.__mro__ if each is not object))
    slots = any(isinstance(vars(each).get(name), types.MemberDescriptorType) for each in kind.__mro__ for name in names)
    return not slots and "__del__" not in names and kind.__new__ is object.__new__
