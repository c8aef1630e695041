"""Weights that were replaced or trained after their module was made, and modules that are older than this package."""

import contextlib
import functools
import gc
import itertools
import sys
import time
from collections.abc import Iterator, MutableMapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary, WeakTensorKeyDictionary

from lightning_dtool.watch import files

# Not a WeakKeyDictionary, because a user's class may define `__eq__` and so have no hash.
_put_in: MutableMapping[nn.Module, dict[int, int]] = WeakIdKeyDictionary()
"""For each module into which `load_state_dict` put values: the version of each tensor afterwards, by `id`."""

_groups: MutableMapping[Optimizer, int] = WeakIdKeyDictionary()
"""The optimizers that have stepped, with the number of parameter groups that were noted."""

_trained: MutableMapping[torch.Tensor, float] = WeakTensorKeyDictionary()
"""The parameters of optimizers that have stepped, with the time of the first step."""

_older: MutableMapping[nn.Module, bool] = WeakIdKeyDictionary()
"""The modules that existed when observing began."""


def put_in(module: nn.Module) -> set[int]:
    """Return the `id` of each tensor that holds what `load_state_dict` put into a module.

    Args:
        module: The module. Values that were put into its children count, too.

    Returns:
        Without the tensors that something has changed in place since then, such as an optimizer or an initialisation.
    """
    noted: dict[int, int] = {}
    for part in module.modules():
        noted.update(_put_in.get(part, {}))
    return {id(tensor) for _, tensor in _tensors(module) if noted.get(id(tensor), -1) == version(tensor)}


def trained(module: nn.Module) -> set[int]:
    """Return the `id` of each parameter of a module that an optimizer has changed."""
    return {id(parameter) for parameter in module.parameters() if parameter in _trained}


def older(module: nn.Module) -> set[int]:
    """Return the `id` of each tensor of those parts of a module that existed when observing began."""
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


def install() -> None:
    """Begin to observe `load_state_dict` and the steps of optimizers."""
    loading = nn.Module.load_state_dict

    @functools.wraps(loading)
    def load_state_dict(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = None
        try:
            result = loading(self, *args, **kwargs)
        finally:  # with an error about one tensor, the others have been replaced
            with contextlib.suppress(Exception):
                _note_put_in(self, frozenset(getattr(result, "missing_keys", ())))
        return result

    nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign]
    register_optimizer_step_post_hook(_note_step)
    # At the end of torch's own import no module exists yet, and the search would take tens of milliseconds.
    if not getattr(sys.modules["torch"].__spec__, "_initializing", False):
        for value in gc.get_objects():
            if issubclass(type(value), nn.Module):
                _older[value] = True


def _note_put_in(module: nn.Module, missing: frozenset[str]) -> None:
    restored = files.restored_by_tuner()
    if restored is not None:
        _note_restored(module, restored)
        return
    files.pin()
    if not missing:  # as fast as possible: a training may do this at every step
        _put_in[module] = {id(tensor): version(tensor) for part in module.modules() for tensor in _own(part)}
        return
    before = _put_in.get(module, {})
    after: dict[int, int] = {}
    for name, tensor in _tensors(module):
        if name not in missing:
            after[id(tensor)] = version(tensor)
        elif id(tensor) in before:
            after[id(tensor)] = before[id(tensor)]
    _put_in[module] = after


def _note_restored(module: nn.Module, file: files.ReadFile) -> None:
    """Forget the trial steps of the tuner, which restores the weights that it found."""
    saved = file.state[1] / 1e9 if file.state is not None else time.time()
    for parameter in module.parameters():
        if _trained.get(parameter, saved - 1) >= saved:
            del _trained[parameter]
    versions = {id(tensor): version(tensor) for _, tensor in _tensors(module)}
    for part in module.modules():
        if part in _put_in:
            _put_in[part] = {key: versions.get(key, value) for key, value in _put_in[part].items()}


def _note_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    count = len(optimizer.param_groups)
    if _groups.get(optimizer) == count:
        return
    with contextlib.suppress(Exception):
        _groups[optimizer] = count
        now = time.time()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                _trained.setdefault(parameter, now)


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return itertools.chain(
        module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    )


def _own(part: nn.Module) -> Iterator[torch.Tensor]:
    for table in (part._parameters, part._buffers):
        for tensor in table.values():
            if tensor is not None:
                yield tensor


def version(tensor: torch.Tensor) -> int:
    """Return a number that grows when a tensor is changed in place."""
    # Tensors made in inference mode count no versions.
    return 0 if tensor.is_inference() else tensor._version
