"""The data that code of the user takes from around it: from its class, its module or the function that encloses it."""

import types
from typing import Any

import numpy as np
import torch

from lightning_dtool.capture.tables import blocks_of
from lightning_dtool.record import as_text
from lightning_dtool.values.definitions import closure, is_users, names_used


def data_around_class(cls: type) -> dict[str, Any]:
    """Return the data that a user's class holds itself, or that its methods use from around them, by name.

    Args:
        cls: The class. Base classes that are the user's count, too.
    """
    found: dict[str, Any] = {}
    for each in filter(is_users, cls.__mro__):
        for name, entry in vars(each).items():
            function = entry.fget if isinstance(entry, property) else getattr(entry, "__func__", entry)
            if isinstance(function, types.FunctionType):
                found |= {**global_data(function), **_only_data(closure(function))}
            elif not name.startswith("__"):
                found |= _only_data({name: entry})
    return found


def global_data(function: types.FunctionType) -> dict[str, Any]:
    """Return the data among the global variables that a function uses, by name.

    Args:
        function: The function. Functions inside it count, too.
    """
    return _only_data({name: function.__globals__.get(name) for name in names_used(function.__code__)})


def _only_data(values: dict[str, Any]) -> dict[str, Any]:
    return {as_text(name): value for name, value in values.items() if _is_data(value)}


def _is_data(value: Any) -> bool:
    if isinstance(value, list | tuple | dict | set | frozenset):
        return len(value) > 0
    return isinstance(value, torch.Tensor | np.ndarray) or (
        not isinstance(value, type) and blocks_of(value) is not None
    )
