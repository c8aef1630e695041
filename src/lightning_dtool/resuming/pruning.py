"""Pruned weights, whose masks ModelPruning leaves out of a checkpoint.

ModelPruning saves weights with the masks applied. The weights below the masks, and the masks, are lost, and a resumed
run would train weights that had been pruned.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelPruning
from torch import nn
from torch.nn.utils import prune


def save_pruning(trainer: Any, module: nn.Module) -> dict[str, Any] | None:
    """Return the masks and weights of the pruned parameters, and what ModelPruning resets them to.

    Args:
        trainer: The Trainer.
        module: The LightningModule.

    Returns:
        Tensors and plain values. None if no ModelPruning removes masks from the checkpoint.
    """
    callbacks = [each for each in trainer.callbacks if isinstance(each, ModelPruning) and each._make_pruning_permanent]
    if not callbacks:
        return None
    masks = {
        name: {
            "mask": _copied(getattr(child, f"{tensor}_mask")),
            "orig": _copied(getattr(child, f"{tensor}_orig")),
            # What the last forward pass has used. The next pruning begins with it, not with the present weights.
            "value": _copied(getattr(child, tensor)),
        }
        for name, child, tensor in _pruned(module)
    }
    return {"masks": masks, "initial": [_initial(callback) for callback in callbacks]}


def restore_pruning(trainer: Any, module: nn.Module, saved: Mapping[str, Any] | None) -> list[str]:
    """Prune parameters again, as they were at the save.

    Args:
        trainer: The Trainer.
        module: The LightningModule.
        saved: What `save_pruning` returned.

    Returns:
        The reasons why this run's pruning differs from that of the save.
    """
    if saved is None:
        return []
    reasons = []
    children, pruned = dict(module.named_modules()), {name for name, _, _ in _pruned(module)}
    for name, tensors in saved["masks"].items():
        prefix, _, tensor = name.rpartition(".")
        child = children.get(prefix)
        if child is None or name in pruned or not isinstance(getattr(child, tensor, None), nn.Parameter):
            reasons.append(f"{name} was pruned, and its mask cannot be restored in this run")
            continue
        device = getattr(child, tensor).device
        prune.custom_from_mask(child, tensor, tensors["mask"].to(device))  # type: ignore[no-untyped-call]
        with torch.no_grad():
            getattr(child, f"{tensor}_orig").copy_(tensors["orig"])
        setattr(child, tensor, tensors["value"].to(device, copy=True))
    callbacks = [each for each in trainer.callbacks if isinstance(each, ModelPruning) and each._make_pruning_permanent]
    for callback, initial in zip(callbacks, saved["initial"], strict=False):
        _restore_initial(callback, initial)
    if len(callbacks) != len(saved["initial"]):
        reasons.append("the run has another number of ModelPruning callbacks than at the save")
    return reasons


def _pruned(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for prefix, child in module.named_modules():
        for hook in child._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                tensor = hook._tensor_name
                yield (f"{prefix}.{tensor}" if prefix else tensor), child, tensor


def _layers(callback: ModelPruning) -> Iterator[tuple[nn.Module, nn.Module, str]]:
    """Yield the copies of layers with which the lottery ticket hypothesis begins again, and the layers themselves."""
    for layer in (callback._original_layers or {}).values():
        for index, name in layer["names"]:
            yield layer["data"], callback._parameters_to_prune[index][0], name


def _present(layer: nn.Module, name: str) -> torch.Tensor:
    tensor: torch.Tensor = getattr(layer, f"{name}_orig" if hasattr(layer, f"{name}_orig") else name)
    return tensor


def _initial(callback: ModelPruning) -> list[torch.Tensor | None]:
    """Return the tensors of the copies, with None for those that share their memory with the weights since a reset."""
    return [
        None if getattr(copy, name).data_ptr() == _present(layer, name).data_ptr() else _copied(getattr(copy, name))
        for copy, layer, name in _layers(callback)
    ]


def _restore_initial(callback: ModelPruning, initial: list[torch.Tensor | None]) -> None:
    for (copy, layer, name), saved in zip(_layers(callback), initial, strict=False):
        present = _present(layer, name)
        getattr(copy, name).data = present.data if saved is None else saved.to(present.device, copy=True)


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().clone()
