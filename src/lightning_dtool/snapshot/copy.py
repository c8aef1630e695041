"""The copy of a checkpoint's state, taken while training waits, and the comparison of two states.

A checkpoint that Lightning hands out shares its tensors with the running model. It is therefore copied to the CPU
before it is written in the background. Each storage is copied once, so that tied weights stay tied and the file does
not grow. The objects around the tensors are copied too.
"""

import copy
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from lightning_dtool.items import without_dataset
from lightning_dtool.snapshot.staging import Staging
from lightning_dtool.snapshot.tensors import is_plain

_BOOKKEEPING = ("ModelCheckpoint", "ModelCheckpoint{")
"""A state key that equals the first or begins with the second holds the state of a ModelCheckpoint: its paths, which
differ between best and last. A subclass with another name may hold more, and is compared."""

_CONTAINERS = (dict, list, tuple, Mapping)
"""The abstract class comes last, because asking it takes longest."""

_LEAVES = frozenset({int, float, str, bool, type(None)})
"""Types of values that hold no tensors. The state of one random number generator has 625 of them."""


def snapshot(checkpoint: Mapping[str, Any], staging: Staging | None = None) -> dict[str, Any]:
    """Copy a checkpoint, so that further training does not change it.

    Args:
        checkpoint: What Lightning's `dump_checkpoint` returns.
        staging: Memory for the tensors. It overwrites the previous copy, and the new one may be read after
            `staging.wait()`. Default: new memory, and a copy that may be read at once.

    Returns:
        The same structure, with tensors on the CPU.

    Raises:
        MemoryError: If the tensors take more than `staging` may hold.
    """
    copies = staging if staging is not None else Staging()
    copies.recycle()
    storages: dict[int, torch.UntypedStorage] = {}
    # deepcopy copies what is not in its memo. With the copied tensors there, it copies only the rest, and does so
    # correctly (attributes of an OrderedDict, dataclasses, tuples that hold tensors).
    # The list keeps every tensor alive: the id of an object may be reused once the object is gone.
    found = list(_tensors(checkpoint))
    if not copies.fits(nbytes := sum(_sizes(found))):
        raise MemoryError(f"a copy of {nbytes} bytes is more than may be used for it")
    memory: dict[Any, Any] = {id(tensor): _copy(tensor, storages, copies) for tensor in found}
    # For tensors that only deepcopy finds: torch looks here for storages that have already been copied.
    memory["torch"] = {
        tensor.untyped_storage()._cdata: storages[tensor.untyped_storage()._cdata]
        for tensor in found
        if tensor.device.type == "cpu"
    }
    copies.finish()
    if staging is None:
        copies.wait()
    return copy.deepcopy(dict(checkpoint), memory)


def snapshot_if_possible(checkpoint: Mapping[str, Any], staging: Staging) -> dict[str, Any] | None:
    """Return a snapshot. None, with all memory released, if there is not enough, or if an object cannot be copied.

    Args:
        checkpoint: What Lightning's `dump_checkpoint` returns.
        staging: Memory for the tensors.
    """
    try:
        return snapshot(checkpoint, staging)
    except BaseException as error:
        staging.release()
        if isinstance(error, Exception):
            return None
        raise


def storage_sizes(value: Any) -> list[int]:
    """Return the bytes of each storage behind the tensors in nested containers.

    Args:
        value: A checkpoint, or a part of one.
    """
    return _sizes(_tensors(value))


def _sizes(tensors: Iterable[torch.Tensor]) -> list[int]:
    storages = (tensor.untyped_storage() for tensor in tensors)
    return list({storage._cdata: storage.nbytes() for storage in storages}.values())


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the plain tensors in nested containers, which may hold themselves."""
    # Without recursion, which takes three times as long: training waits for this, also at a tiny checkpoint.
    seen: set[int] = set()
    pending = [value]
    while pending:
        found = pending.pop()
        if isinstance(found, torch.Tensor):
            if is_plain(found):
                yield found
        elif isinstance(found, _CONTAINERS) and id(found) not in seen:
            seen.add(id(found))
            items = found if isinstance(found, list | tuple) else found.values()
            pending += [item for item in items if type(item) not in _LEAVES][::-1]


def _copy(tensor: torch.Tensor, storages: dict[int, torch.UntypedStorage], copies: Staging) -> torch.Tensor:
    storage = tensor.untyped_storage()
    if storage._cdata not in storages:
        storages[storage._cdata] = copies.copy(storage)
    copied = torch.empty(0, dtype=tensor.dtype)
    copied.set_(storages[storage._cdata], tensor.storage_offset(), tensor.size(), tensor.stride())
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(copied, requires_grad=tensor.requires_grad)
    return copied.requires_grad_(tensor.requires_grad)


def same_state(taken: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> bool:
    """Return True if a checkpoint equals an earlier snapshot.

    The states of ModelCheckpoint callbacks are not compared: best and last of one step differ only there, in paths.

    Args:
        taken: The snapshot.
        checkpoint: What Lightning's `dump_checkpoint` returns.
    """
    return _same(_without_bookkeeping(taken), _without_bookkeeping(checkpoint))


def same_training(taken: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> bool:
    """Return True if a checkpoint has the step, the weights and the optimizer states of an earlier snapshot.

    Loops, schedulers and callbacks are not compared: they change when an epoch ends, and training has gone no further.

    Args:
        taken: The snapshot.
        checkpoint: What Lightning's `dump_checkpoint` returns.
    """
    return _same(_trained(taken), _trained(checkpoint))


def _same(a: Any, b: Any) -> bool:
    try:
        return _equal(a, b)
    except RecursionError:  # a state that holds itself
        return False


def _trained(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    optimizers = checkpoint.get("optimizer_states")
    return {
        "global_step": checkpoint.get("global_step"),
        "state_dict": checkpoint.get("state_dict"),
        "optimizers": None if optimizers is None else [optimizer.get("state") for optimizer in optimizers],
    }


def _without_bookkeeping(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    callbacks = checkpoint.get("callbacks", {})
    kept = {key: state for key, state in callbacks.items() if not _is_bookkeeping(key)}
    return {**without_dataset(checkpoint), "callbacks": kept}


def _is_bookkeeping(key: object) -> bool:
    name, prefix = _BOOKKEEPING
    return isinstance(key, str) and (key == name or key.startswith(prefix))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return _same_bytes(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, np.ndarray) and not a.dtype.hasobject:
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    try:
        return bool(a == b)
    except Exception:  # a foreign __eq__ may raise anything; then the values count as different
        return False


def _same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Compare by bits: a NaN equals itself, and -0.0 is not 0.0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if not (is_plain(a) and is_plain(b)):
        return False
    a, b = a.detach().cpu().contiguous(), b.detach().cpu().contiguous()
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
