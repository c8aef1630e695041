"""The objects inside an object, found without running any of its code."""

import array
import collections
import functools
import inspect
import itertools
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from lightning_dtool.data.dataset import DtoolDataset
from lightning_dtool.values.attributes import attributes_of
from lightning_dtool.values.definitions import closure, is_users

_MAX_OBJECTS = 2000
"""Maximum number of objects that are looked at."""

_MAX_DEPTH = 12
"""Maximum depth of nested objects."""

_MAX_ENTRIES = 200
"""Maximum number of entries of one container that are looked at."""

_LEAVES = (
    str, bytes, bytearray, int, float, complex, range, slice, array.array, torch.Tensor, np.ndarray, np.generic, type,
    types.ModuleType, weakref.ReferenceType, weakref.ProxyType, weakref.CallableProxyType, type(None),
    pl.LightningModule, pl.LightningDataModule, pl.Trainer,
)  # fmt: skip
"""Objects that hold no others, or that other parts of the record describe."""


def reachable(value: Any, *, beyond: Callable[[Any], bool] = lambda value: True) -> Iterator[tuple[str, Any]]:
    """Yield the objects inside an object, each with its place and once, the outer ones first.

    It looks into containers, attributes, the arguments of partial functions, the variables of closures, and those of
    generators that have started. Tensors, arrays and texts are passed over. Of a DtoolDataset, it looks only into the
    transforms.

    Args:
        value: Any object; it is yielded first, with an empty place.
        beyond: Whether to look into an object that was yielded.
    """
    waiting = collections.deque([("", value, 0)])
    seen: dict[int, Any] = {}  # keeps the objects, so that no other one gets the identity of one that was deleted
    while waiting and len(seen) < _MAX_OBJECTS:
        place, found, depth = waiting.popleft()
        if issubclass(type(found), _LEAVES) or id(found) in seen:
            continue
        seen[id(found)] = found
        yield place, found
        if depth < _MAX_DEPTH and beyond(found):
            waiting.extend((f"{place}{name}", inner, depth + 1) for name, inner in _inside(found))


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    if issubclass(type(value), dict):
        for key, entry in itertools.islice(dict.items(value), _MAX_ENTRIES):
            yield (f"[{key!r}]" if isinstance(key, str | int) else "[…]"), entry
    elif issubclass(type(value), list | tuple | collections.deque | set | frozenset):
        for index, entry in enumerate(itertools.islice(value, _MAX_ENTRIES)):
            yield f"[{index}]", entry
    elif isinstance(value, DtoolDataset):
        yield from ((f".{name}", getattr(value, name)) for name in ("transform", "target_transform"))
        return
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, types.GeneratorType):
        frame = value.gi_frame
        yield from ((f".{name}", entry) for name, entry in (frame.f_locals if frame is not None else {}).items())
    elif inspect.isroutine(value):
        yield ".__self__", getattr(value, "__self__", None)
        function = getattr(value, "__func__", value)
        if isinstance(function, types.FunctionType):
            yield from ((f".{name}", entry) for name, entry in closure(function).items())
            if is_users(function):
                yield from ((f".{index}", entry) for index, entry in enumerate(function.__defaults__ or ()))
        return
    for name, entry in (attributes_of(value) or {}).items():
        yield f".{name}", entry
