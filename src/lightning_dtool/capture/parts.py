"""The parts of values, read without calling a method that a user has overridden."""

import collections
import enum
import types
from typing import Any

import numpy as np
import torch

from lightning_dtool.capture.data_around import is_data
from lightning_dtool.record import as_text
from lightning_dtool.values.attributes import attributes_of
from lightning_dtool.values.definitions import is_library, is_users
from lightning_dtool.values.surroundings import is_setting

_CONTAINERS: Any = (list, tuple, set, frozenset, collections.deque)

_MAY_HAVE_ATTRIBUTES = (
    *_CONTAINERS, dict, torch.Tensor, np.ndarray, str, int, float, bytes, bytearray
)  # fmt: skip


def plain_part(value: Any) -> Any:
    """Return a text or a number without the class that was derived from `str`, `int` or `float`.

    Args:
        value: The text or the number.
    """
    if isinstance(value, str):
        return str.__str__(value)
    return int.__int__(value) if isinstance(value, int) else float.__float__(value)


def elements(value: Any) -> list[Any]:
    """Return the elements of a list, a tuple, a set or a deque.

    Args:
        value: The container.
    """
    kind = next(kind for kind in _CONTAINERS if isinstance(value, kind))
    return list(kind.__iter__(value))


def pairs(value: dict[Any, Any]) -> dict[Any, Any]:
    """Return the keys of a dict with their values, in order.

    Args:
        value: The dict.
    """
    if isinstance(value, collections.OrderedDict):
        return dict(collections.OrderedDict.items(value))
    return dict(dict.items(value))


def settings_of(module: types.ModuleType) -> dict[str, Any]:
    """Return the settings in a module of the user, such as a configuration, by name.

    Args:
        module: Any module. One of a library has none.
    """
    if is_library(module.__name__):
        return {}
    return {
        as_text(name): value
        for name, value in vars(module).items()
        if not name.startswith("__") and (is_data(value) or is_setting(value))
    }


def attributes_beside(value: Any) -> dict[str, Any]:
    """Return the attributes that a tensor, an array, a container or a plain value has beside its elements, by name.

    Args:
        value: Any object. Any other kind has none.
    """
    cls = type(value)
    if not issubclass(cls, _MAY_HAVE_ATTRIBUTES) or issubclass(cls, enum.Enum | np.generic):
        return {}
    if issubclass(cls, torch.Tensor) and value.is_nested:  # torch keeps notes of its own
        return {}
    if cls in (list, tuple, dict, set, np.ndarray) or (isinstance(value, np.ndarray) and not is_users(cls)):
        return {}
    kept = attributes_of(value) or {}
    if cls in (torch.Tensor, torch.nn.Parameter):  # torch keeps notes of its own
        kept = {name: entry for name, entry in kept.items() if not name.startswith("_")}
    return {as_text(name): entry for name, entry in kept.items()}
