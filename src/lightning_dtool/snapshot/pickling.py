"""A trial whether a checkpoint can be pickled, before it is copied and written in the background."""

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.serialization import DEFAULT_PROTOCOL

from lightning_dtool.snapshot.tensors import is_plain

_LEAVES = frozenset({int, float, str, bool, type(None), bytes, complex, torch.dtype, torch.device, torch.Size})
"""Types whose objects can always be pickled."""

_SEQUENCES = frozenset({list, tuple, set, frozenset})

_MAX_DEPTH = 50
"""Containers nested deeper than this are pickled for the trial, since pickling has a limit of depth."""


def pickle_error(checkpoint: Mapping[str, Any]) -> Exception | None:
    """Return the error with which `torch.save` would refuse a checkpoint. None if there is none.

    Only objects that may refuse are pickled, without the content of their tensors. A usual checkpoint has none.

    Args:
        checkpoint: What Lightning's `dump_checkpoint` returns.
    """
    try:
        doubtful = list(_doubtful(checkpoint))
        if doubtful:
            _Trial(io.BytesIO(), protocol=DEFAULT_PROTOCOL).dump(doubtful)
    except MemoryError:  # an error of the machine, not of the state
        return None
    except Exception as error:  # the methods of a foreign class may raise anything
        return error
    return None


class _Trial(pickle.Pickler):
    """Pickles as `torch.save` does, but leaves out the content of tensors."""

    def __init__(self, stream: io.BytesIO, protocol: int) -> None:
        super().__init__(stream, protocol)
        self._dtypes: dict[int, torch.dtype] = {}

    def persistent_id(self, value: Any) -> str | None:
        if not torch.is_storage(value):
            return None
        if isinstance(value, torch.storage.TypedStorage):
            address = value._untyped_storage.data_ptr()
            first = self._dtypes.setdefault(address, value.dtype) if address else value.dtype
            if first != value.dtype:  # as torch.save does
                raise RuntimeError(
                    "Cannot save multiple tensors or storages that view the same data as different types"
                )
        return "storage"


def _doubtful(state: Any) -> Iterator[Any]:
    """Yield the objects in nested containers that pickling may refuse."""
    stack = [iter((state,))]
    seen: set[int] = set()
    dtypes: dict[int, torch.Tensor] = {}
    while stack:
        for value in stack[-1]:
            kind = type(value)
            if kind in _LEAVES or (kind is np.ndarray and not value.dtype.hasobject):
                continue
            if isinstance(value, torch.Tensor) and is_plain(value):
                first = dtypes.setdefault(value.untyped_storage().data_ptr(), value)
                if first.dtype != value.dtype:
                    yield first
                    yield value
                continue
            inner = _inner(value)
            if inner is None or len(stack) > _MAX_DEPTH:
                yield value
            elif id(value) not in seen:
                seen.add(id(value))
                stack.append(inner)
                break
        else:
            stack.pop()


def _inner(value: Any) -> Iterator[Any] | None:
    """Return the parts of a container that can be pickled if they can. None for any other object."""
    kind = type(value)
    if kind is dict or (kind is OrderedDict and value.__dict__.keys() <= {"_metadata"}):
        keys = [key for key in value if type(key) is not str]
        return iter([*keys, *value.values()])
    return iter(value) if kind in _SEQUENCES else None
