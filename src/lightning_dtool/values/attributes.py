"""What an object holds: its attributes, and whether there is more than these."""

import enum
import struct
import types
from typing import Any

import numpy as np
import torch

from lightning_dtool.values.numbers import MAX_VALUES

OF_EVERY_MODULE = frozenset(vars(torch.nn.Module()))
"""The attributes of every `nn.Module`. Its parameters, children and mode are described separately."""

OF_LIGHTNING = "__pl_"
"""The beginning of attributes in which Lightning keeps the arguments of loaders and samplers."""

_NO_ATTRIBUTES = frozenset({"__dict__", "__weakref__", "__pydantic_fields_set__"})
"""Slots that hold no value of an object's own."""

_HEAP_TYPE = 1 << 9
"""The flag of every class that was defined in Python, and of some that were written in C."""

_SIZE_OF_AN_OBJECT = type("Plain", (), {}).__basicsize__
"""Size of an object of a class without slots that was defined in Python."""

_SIZE_OF_A_SLOT = struct.calcsize("P")


def attribute(value: Any, name: str) -> Any:
    """Return an attribute of an object. None if it has no such attribute, or if reading it raises.

    Args:
        value: Any object. Its `__getattr__` and properties may run.
        name: The attribute.
    """
    try:
        return getattr(value, name, None)
    except Exception:  # a user's code may raise anything
        return None


def attributes_of(value: Any) -> dict[str, Any] | None:
    """Return an object's attributes by name, without the bookkeeping of an `nn.Module` and of Lightning.

    None if it cannot have any.

    Args:
        value: Any object. None of its code runs.
    """
    kept: dict[str, Any] = {}
    # Not `getattr`, which may call a user's `__getattr__`.
    for each in reversed(type(value).__mro__):
        slots = vars(each).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in _NO_ATTRIBUTES and isinstance(name, str):
                if name.startswith("__") and not name.endswith("__"):  # a private name is mangled
                    name = f"_{each.__name__.lstrip('_')}{name}"
                try:
                    kept[name] = object.__getattribute__(value, name)
                except AttributeError:  # never assigned
                    continue
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return kept or None
    if isinstance(value, torch.nn.Module):
        own = {name: entry for name, entry in own.items() if name not in OF_EVERY_MODULE}
        own = {**own, **value._parameters, **value._buffers, **value._modules}
    own = {name: entry for name, entry in own.items() if isinstance(name, str) and not name.startswith(OF_LIGHTNING)}
    return {**kept, **own}


def has_hidden_state(cls: type) -> bool:
    """Return whether a class derives from one that was written in C, whose instances hold more than attributes.

    Args:
        cls: The class.
    """
    slots = sum(isinstance(entry, types.MemberDescriptorType) for each in cls.__mro__ for entry in vars(each).values())
    if cls.__basicsize__ > _SIZE_OF_AN_OBJECT + slots * _SIZE_OF_A_SLOT:
        return True
    return any(not each.__flags__ & _HEAP_TYPE for each in cls.__mro__ if each is not object)


def is_constant(value: Any) -> bool:
    """Return whether the value of a module's variable is plain, like that of a constant."""
    if isinstance(value, list | tuple | set | frozenset):
        return len(value) <= MAX_VALUES and all(map(is_constant, value))
    if isinstance(value, dict):
        return len(value) <= MAX_VALUES and all(map(is_constant, value.values()))
    return isinstance(value, bool | int | float | str | enum.Enum | torch.Tensor | np.ndarray | None)
