"""What a checkpoint delivers, put back after the hooks that run between loading and the first batch.

A resumed run calls `on_fit_start`, the sanity check and `on_train_start` with the loaded model, and a run that never
stopped did not call them at this point. They may reset a buffer, set a learning rate, or move a running statistic.
Lightning also loads a checkpoint before it converts the module to the Trainer's precision, which rounds double
precision. The state at the save counts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import nn
from torch.nn.parameter import is_lazy

STATES = ("state_dict", "current_model_state")
"""The keys of a checkpoint with weights. WeightAveraging loads the second."""

_EXTRA = "_extra_state"
"""The key of `get_extra_state` in a state_dict."""


class Delivered:
    """The tensors and states that a checkpoint delivers to one run.

    Args:
        checkpoint: The checkpoint that Lightning loads. Its weights, and the states of callbacks and of the datamodule,
            stay in memory until `put_back`.
    """

    def __init__(self, checkpoint: Mapping[str, Any]) -> None:
        self._sources = [checkpoint[key] for key in STATES if isinstance(checkpoint.get(key), Mapping)]
        self._callbacks = dict(checkpoint.get("callbacks") or {})
        self._checkpoint = {key: value for key, value in checkpoint.items() if isinstance(value, Mapping)}
        self._tensors: dict[str, torch.Tensor] = {}
        self._options: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._missing: list[str] = []

    def note(self, module: nn.Module) -> None:
        """Note what was loaded. Call it when Lightning has loaded the module and not yet converted it.

        Args:
            module: The LightningModule.
        """
        for name, tensor in state_tensors(module):
            if is_lazy(tensor):
                continue
            saved = [source[name] for source in self._sources if isinstance(source.get(name), torch.Tensor)]
            if not saved:
                if tensor.requires_grad:
                    self._missing.append(name)
                continue
            loaded = next((value for value in saved if _is_loaded(tensor, value)), None)
            # Code of the module may load something else than what the checkpoint says, such as resized weights.
            self._tensors[name] = tensor.detach().clone() if loaded is None else loaded

    def note_options(self, optimizers: Sequence[Any]) -> None:
        """Note the options of the optimizers, such as learning rates. Call it when Lightning has loaded them.

        Args:
            optimizers: The optimizers.
        """
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self._options = [
            (group, {name: deepcopy(value) for name, value in group.items() if name != "params"}) for group in groups
        ]

    def put_back(self, trainer: Any, module: nn.Module) -> list[str]:
        """Put back what has changed since it was loaded, and release the checkpoint.

        Args:
            trainer: The Trainer.
            module: The LightningModule.

        Returns:
            The reasons why the state at the save could not be restored.
        """
        reasons = [
            f"{name} is trained, and the checkpoint does not contain it, so it has the value of this process"
            for name in self._missing
        ]
        present = dict(state_tensors(module))
        for name, saved in self._tensors.items():
            reason = _set(present.get(name), saved)
            if reason is not None:
                reasons.append(f"{name} {reason}")
        for group, options in self._options:
            for name, option in options.items():
                if not same(group.get(name), option):
                    group[name] = option
        self._put_back_extra(module)
        self._put_back_callbacks(trainer)
        self._put_back_datamodule(trainer.datamodule)
        self._sources, self._callbacks, self._checkpoint, self._tensors, self._options = [], {}, {}, {}, []
        return reasons

    def _put_back_extra(self, module: nn.Module) -> None:
        for prefix, child in module.named_modules():
            name = f"{prefix}.{_EXTRA}" if prefix else _EXTRA
            saved = next((source[name] for source in self._sources if name in source), None)
            if saved is not None and not same(child.get_extra_state(), saved):
                child.set_extra_state(deepcopy(saved))

    def _put_back_callbacks(self, trainer: Any) -> None:
        for callback in trainer.callbacks:
            # A ModelCheckpoint's state has paths, and it warns when it is loaded into another folder.
            if _is_foreign(callback) and not isinstance(callback, Checkpoint):
                _reload(callback, self._callbacks.get(callback.state_key))

    def _put_back_datamodule(self, datamodule: Any) -> None:
        if datamodule is not None and _is_foreign(datamodule):
            _reload(datamodule, self._checkpoint.get(type(datamodule).__qualname__))


def state_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters and persistent buffers of a module, by their names in its state_dict.

    Unlike `state_dict`, this runs no code of the module.

    Args:
        module: A module.
    """
    yield from module.named_parameters(remove_duplicate=False)
    for prefix, child in module.named_modules(remove_duplicate=False):
        for name, buffer in child._buffers.items():
            if buffer is not None and name not in child._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer


def load_optimizers(strategy: Any, original: Callable[[Any], None], checkpoint: Mapping[str, Any]) -> None:
    """Replaces the strategy's method that loads the states of optimizers.

    Args:
        strategy: The Trainer's strategy.
        original: The method.
        checkpoint: The checkpoint.
    """
    original(checkpoint)
    # Otherwise the Trainer has another precision than at the save, and the optimizers need converted states.
    if _float_types(checkpoint["state_dict"]) == _float_types(strategy.lightning_module.state_dict()):
        load_optimizer_states(strategy.optimizers, checkpoint["optimizer_states"])


def load_optimizer_states(optimizers: Sequence[Any], states: Sequence[Mapping[str, Any]]) -> None:
    """Set the states that `Optimizer.load_state_dict` has rounded to the types of their parameters.

    An optimizer may keep states with more bits than the parameters have, such as averages in float32 of weights in
    bfloat16.

    Args:
        optimizers: The optimizers that have loaded the states.
        states: The states in the checkpoint, one for each optimizer.
    """
    for optimizer, state in zip(optimizers, states, strict=False):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        indices = [index for group in state["param_groups"] for index in group["params"]]
        for parameter, index in zip(parameters, indices, strict=False):
            present = optimizer.state.get(parameter, {})
            for name, saved in state["state"].get(index, {}).items():
                now = present.get(name)
                rounded = isinstance(now, torch.Tensor) and isinstance(saved, torch.Tensor) and now.dtype != saved.dtype
                if rounded and now.shape == saved.shape:
                    present[name] = saved.to(now.device, copy=True)


def same(one: Any, other: Any) -> bool:
    """Return True if two values are known to be equal: tensors, plain values, and containers of them.

    Args:
        one: A value.
        other: Another value.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device) and _same_bits(one, other)
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return type(one) in (int, float, complex, str, bytes, bool, type(None)) and one == other


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:  # NaN is not equal to itself
    if one.layout is not torch.strided or one.is_quantized:
        return False
    views = (tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return bool(torch.equal(*views))


def _float_types(weights: Mapping[str, Any]) -> set[torch.dtype]:
    return {value.dtype for value in weights.values() if isinstance(value, torch.Tensor) and value.is_floating_point()}


def _is_loaded(tensor: torch.Tensor, saved: torch.Tensor) -> bool:
    return tensor.shape == saved.shape and torch.equal(tensor.detach(), saved.to(tensor.device, tensor.dtype))


def _set(tensor: torch.Tensor | None, saved: torch.Tensor) -> str | None:
    """Set a tensor. Return what prevents this, after the name of the tensor."""
    if tensor is None:
        return "is in the checkpoint, and is no longer part of the module when training begins"
    if tensor.dtype != saved.dtype:
        return f"has the type {saved.dtype} in the checkpoint and {tensor.dtype} in this run"
    try:
        with torch.no_grad():
            tensor.copy_(saved)
    except (RuntimeError, NotImplementedError) as error:
        return f"could not be restored when training began ({error})"
    return None


def _is_foreign(component: Any) -> bool:
    """Return True for objects of classes that belong neither to Lightning nor to this package."""
    return type(component).__module__.partition(".")[0] not in ("lightning", "lightning_dtool")


def _reload(component: Any, saved: Any) -> None:
    if saved and not same(component.state_dict(), saved):
        component.load_state_dict(deepcopy(saved))
