"""Weights that were replaced or trained after their module was made, and modules that are older than this package."""

import contextlib
import copy
import functools
import gc
import itertools
import sys
import time
import types
import weakref
from collections import deque
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary, WeakTensorKeyDictionary

from lightning_dtool.watch import files


class _Filled(NamedTuple):
    """How a tensor was last filled.

    Attributes:
        version: Its version then.
        load: The number of the load.
        times: How often it has been filled.
    """

    version: int
    load: int
    times: int


_put_in: MutableMapping[torch.Tensor, _Filled] = WeakTensorKeyDictionary()
"""The tensors into which values were put that do not come from the code of a module."""

_NEVER = _Filled(-1, 0, 0)

# Not a dictionary of weak keys: a user's class may define `__eq__` and so have no hash, and torch's own such dictionary
# takes as long for a look-up as all else that is observed in a step.
_groups: dict[int, tuple[weakref.ref[Optimizer], int]] = {}
"""The optimizers that have stepped, by `id`, with the number of parameter groups that were noted."""

_trained: MutableMapping[torch.Tensor, float] = WeakTensorKeyDictionary()
"""The parameters of optimizers that have stepped, with the time of the first step."""

_arrived: deque[tuple[int, tuple[Any, ...], weakref.ref[torch.Tensor]]] = deque(maxlen=256)
"""Some of the tensors into which values were put after files were read: the number of the load, their key, the tensor.

The key is the one of `files.sample_key`.
"""

_reads = 0
"""How often files had been opened when values were last put in."""

_made: MutableMapping[torch.Tensor, tuple[bytes, int] | None] = WeakTensorKeyDictionary()
"""What tensors held before `load_state_dict` filled them for the first time. None if a training has made that."""

_WORD = 8
"""Number of bytes that are added at a time."""

_SAMPLES = 64

_LARGEST = 4
"""Number of tensors of a load that are noted."""

_loads = 0
"""How often values have been put into modules."""

_older: MutableMapping[nn.Module, bool] = WeakIdKeyDictionary()
"""The modules that existed when observing began."""


def put_in(module: nn.Module, since: int = 0) -> set[int]:
    """Return the `id` of each tensor of a module that `load_state_dict`, or unpickling the module, has filled.

    Args:
        module: The module.
        since: The result of `loads` before. Default: at any time.

    Returns:
        Without the tensors that something has changed in place since then, such as an optimizer or an initialisation,
        and without those that hold again what the code of the module made.
    """
    if not _put_in:
        return set()
    filled = []
    for tensor in _own(module):
        last = _put_in.get(tensor, _NEVER)
        if last.version == version(tensor) and last.load > since:
            filled.append(tensor)
    return {id(tensor) for tensor in filled if since or not _is_as_made(tensor)}


def went_elsewhere(key: tuple[Any, ...], module: nn.Module, since: int) -> bool:
    """Return True if values went into other modules, or into a module in which other values have replaced them.

    Args:
        key: The `files.sample_key` of the values.
        module: The module.
        since: The result of `loads` before.
    """
    found = [(load, place()) for load, other, place in _arrived if other == key and load > since]
    own = {id(tensor) for tensor in _own(module)} if found else set()
    return any(
        tensor is None or id(tensor) not in own or _put_in.get(tensor, _NEVER).load > load for load, tensor in found
    )


def times_filled(tensor: torch.Tensor) -> int:
    """Return how often values have been put into a tensor."""
    return _put_in.get(tensor, _NEVER).times


def loads() -> int:
    """Return how often values have been put into modules in this process."""
    return _loads


def trained(module: nn.Module) -> set[int]:
    """Return the `id` of each parameter of a module that an optimizer has changed."""
    if not _trained:
        return set()
    return {id(parameter) for parameter in module.parameters() if parameter in _trained}


def older(module: nn.Module) -> set[int]:
    """Return the `id` of each tensor of those parts of a module that existed when observing began."""
    if not _older:
        return set()
    parts = [part for part in module.modules() if part in _older]
    return {id(tensor) for part in parts for _, tensor in _tensors(part)}


def accounted_for(module: nn.Module) -> None:
    """Forget which parameters of a module were trained: its weights as they are now are known.

    Args:
        module: The module.
    """
    _groups.clear()  # an optimizer may be used again
    for parameter in module.parameters():
        _trained.pop(parameter, None)
    for tensor in _own(module):
        _made.setdefault(tensor, None)


def install() -> None:
    """Begin to observe what fills and changes the tensors of modules."""
    _observe_load_state_dict()
    _observe_unpickling()
    _observe_torchscript()
    register_optimizer_step_post_hook(_note_step)
    # At the end of torch's own import no module exists yet, and the search would take tens of milliseconds.
    if not getattr(sys.modules["torch"].__spec__, "_initializing", False):
        for value in gc.get_objects():
            if issubclass(type(value), nn.Module):
                _older[value] = True


def _observe_load_state_dict() -> None:
    original = nn.Module.load_state_dict

    @functools.wraps(original)
    def load_state_dict(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = None
        with contextlib.suppress(Exception):
            _note_made(self)
        try:
            result = original(self, *args, **kwargs)
        finally:  # with an error about one tensor, the others have been replaced
            with contextlib.suppress(Exception):
                _note_put_in(self, frozenset(getattr(result, "missing_keys", ())))
        return result

    nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign]


def _observe_unpickling() -> None:
    original = nn.Module.__setstate__

    @functools.wraps(original)
    def __setstate__(self: nn.Module, state: Any) -> None:  # noqa: N807
        original(self, state)  # type: ignore[no-untyped-call]
        with contextlib.suppress(Exception):
            _note_revived(self, sys._getframe(1))

    nn.Module.__setstate__ = __setstate__  # type: ignore[method-assign]


def _observe_torchscript() -> None:
    original = torch.jit.load

    @functools.wraps(original)
    def load(f: Any, *args: Any, **kwargs: Any) -> Any:
        path = files.note_opened(f)
        module = original(f, *args, **kwargs)  # type: ignore[no-untyped-call]
        with contextlib.suppress(Exception):
            _note_put_in(module, frozenset())
            files.note_loaded(dict(_tensors(module)), path)
        return module

    torch.jit.load = load


def _note_put_in(module: nn.Module, missing: frozenset[str]) -> None:
    global _loads
    _loads += 1
    restored = files.restored_by_tuner()
    if restored is not None:
        _note_restored(module, restored)
        return
    files.pin()
    # A training may do this at every step, so names are looked up only if they are needed.
    filled = [*_own(module)] if not missing else [tensor for name, tensor in _tensors(module) if name not in missing]
    for tensor in filled:
        _put_in[tensor] = _Filled(version(tensor), _loads, times_filled(tensor) + 1)
    _note_arrival(filled)


def _note_arrival(filled: Sequence[torch.Tensor]) -> None:
    global _reads
    if _reads == files.reads():
        return
    _reads = files.reads()
    for tensor in sorted(filled, key=torch.Tensor.numel)[-_LARGEST:]:
        _arrived.append((_loads, files.sample_key(tensor, files.sample_of(tensor)), weakref.ref(tensor)))


def _note_made(module: nn.Module) -> None:
    """Note what a module holds before values are put into it. Often the same is put in again, as to begin anew."""
    first = [tensor for tensor in _own(module) if tensor not in _put_in and tensor not in _made]
    if first and not any(parameter in _trained for parameter in module.parameters()):
        for tensor in first:
            _made[tensor] = _content(tensor)


def _is_as_made(tensor: torch.Tensor) -> bool:
    made = _made.get(tensor)
    return made is not None and made == _content(tensor)


def _content(tensor: torch.Tensor) -> tuple[bytes, int] | None:
    """Return some bytes of a tensor, and the sum of all of them, which takes less time than a hash."""
    if type(tensor) not in (torch.Tensor, nn.Parameter, nn.Buffer) or tensor.layout is not torch.strided:
        return None
    if tensor.is_meta or tensor.is_quantized or tensor.is_complex() or not tensor.numel():
        return None
    flat = tensor.detach().reshape(-1)
    if flat.storage_offset() * flat.element_size() % _WORD:
        flat = flat.clone()
    data = flat.view(torch.uint8)
    words = data[: len(data) // _WORD * _WORD].view(torch.int64)
    some = torch.cat(
        [data[len(words) * _WORD :], words[:: max(1, len(words) // _SAMPLES)].contiguous().view(torch.uint8)]
    )
    return some.cpu().numpy().tobytes(), int(words.sum())


def _note_restored(module: nn.Module, file: files.ReadFile) -> None:
    """Forget the trial steps of the tuner, which restores the weights that it found."""
    saved = file.state[1] / 1e9 if file.state is not None else time.time()
    for tensor in _own(module):
        if _trained.get(tensor, saved - 1) >= saved:
            del _trained[tensor]
        if tensor in _put_in:
            _put_in[tensor] = _put_in[tensor]._replace(version=version(tensor))


def _note_revived(part: nn.Module, caller: types.FrameType) -> None:
    """Note a module whose state was set as a whole: a copy has the marks of its original, any other was unpickled."""
    global _loads
    original = _original_of_copy(part, caller)
    if original is None:
        _loads += 1
        files.pin()
        filled = [*_own_of(part)]
        for tensor in filled:
            _put_in[tensor] = _Filled(version(tensor), _loads, 1)
        if filled:
            _note_arrival(filled)
        return
    if original in _older:
        _older[part] = True
    for before, after in zip(_own_of(original), _own_of(part), strict=True):
        last = _put_in.get(before, _NEVER)
        if last.version == version(before):
            _put_in[after] = last._replace(version=version(after))
        if before in _trained:
            _trained[after] = _trained[before]
        if before in _made:
            _made[after] = _made[before]


def _original_of_copy(part: nn.Module, caller: types.FrameType | None) -> nn.Module | None:
    """Return the module that `copy` is copying. A class may have a `__setstate__` that calls the one of `Module`."""
    for _ in range(5):
        if caller is None:
            break
        if caller.f_code is copy._reconstruct.__code__ and caller.f_locals.get("y") is part:  # type: ignore[attr-defined]
            original = caller.f_locals.get("x")
            return original if isinstance(original, nn.Module) else None
        caller = caller.f_back
    return None


def _note_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    key, count = id(optimizer), len(optimizer.param_groups)
    known = _groups.get(key)
    if known is not None and known[0]() is optimizer and known[1] == count:
        return
    with contextlib.suppress(Exception):
        _groups[key] = weakref.ref(optimizer, lambda _: _groups.pop(key, None)), count
        now = time.time()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    _trained.setdefault(parameter, now)


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return itertools.chain(
        module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    )


def _own(module: nn.Module) -> Iterator[torch.Tensor]:
    return (tensor for part in module.modules() for tensor in _own_of(part))


def _own_of(part: nn.Module) -> Iterator[torch.Tensor]:
    for table in (part._parameters, part._buffers):
        for tensor in table.values():
            if tensor is not None:
                yield tensor


def version(tensor: torch.Tensor) -> int:
    """Return a number that grows when a tensor is changed in place."""
    # Tensors made in inference mode count no versions, and a lazy parameter has none until it gets its shape.
    return 0 if is_lazy(tensor) or tensor.is_inference() else tensor._version
