"""Bounds on what the content of a checkpoint file stands for, compared with the size of the file.

A small file may stand for much: lists that hold one another many times over, or a tensor of one number that claims a
billion elements. Copying or comparing such content would take all memory, or forever.
"""

import collections
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from lightning_dtool.loading.makers import ATTRIBUTES

MAX_DEPTH = 200
"""The largest depth of nested containers."""

MAX_ENTRIES = 2**20
"""The number of entries that a file may stand for in any case; beyond it, as many as it has bytes."""

MAX_BYTES = 2**32
"""The number of bytes of tensors that a file may stand for in any case; beyond it, `_MAX_RATIO` times its size."""

_MAX_RATIO = 16

_VALUES = (dict, list, tuple, collections.deque, *ATTRIBUTES)


def check_bounds(content: Any, file_size: int, containers: tuple[type, ...] = _VALUES, depth: int = MAX_DEPTH) -> None:
    """Raise an error if content stands for much more than its file can hold.

    Args:
        content: The content of the file, which may contain itself.
        file_size: The size of the file in bytes.
        containers: The types that are looked into. Default: the containers among plain values.
        depth: The largest depth that is looked into. Default: the largest that content may have.

    Raises:
        pickle.UnpicklingError: If it is nested too deeply, or holds too much.
    """
    entries = size = 0
    seen: set[int] = set()
    # By levels: each container once with the number of paths that lead to it, so that this takes no longer than the
    # content is large.
    level: dict[int, tuple[Any, int]] = {0: ([content], 1)}
    for _ in range(depth):
        below: dict[int, tuple[Any, int]] = {}
        for container, paths in level.values():
            seen.add(id(container))
            for entry in _entries(container):
                entries += paths
                if isinstance(entry, torch.Tensor):
                    size += paths * _nbytes(entry)
                elif isinstance(entry, containers):
                    below[id(entry)] = (entry, paths + below.get(id(entry), (entry, 0))[1])
        if entries > max(MAX_ENTRIES, file_size):
            raise pickle.UnpicklingError(
                f"its containers hold one another so often that they have {entries:.0e} entries"
            )
        if size > max(MAX_BYTES, _MAX_RATIO * file_size):
            raise pickle.UnpicklingError(f"its tensors have {size:.0e} bytes, and the file {file_size:.0e}")
        level = below
        if not level:
            return
    if depth == MAX_DEPTH and any(key not in seen for key in level):
        raise pickle.UnpicklingError(f"its containers are nested more than {MAX_DEPTH} deep")


def _entries(container: Any) -> Iterable[Any]:
    if isinstance(container, ATTRIBUTES):
        container = vars(container)
    return container.values() if isinstance(container, Mapping) else container


def _nbytes(tensor: torch.Tensor) -> int:
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_nested:
        return 0  # they hold their elements in other tensors, or none
    return tensor.numel() * tensor.element_size()
