"""Whether weights and buffers have changed between two moments of a run."""

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lightning_dtool.resuming.delivered import STATES, state_tensors
from lightning_dtool.resuming.plain_state.samples import sample_of_tensor
from lightning_dtool.watch.replaced import version


def versions(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Return what torch counts of each weight and persistent buffer: its changes in place. This reads no values.

    Args:
        module: The LightningModule.
    """
    return {name: (id(tensor), version(tensor)) for name, tensor in state_tensors(module)}


def moved(before: Mapping[str, tuple[int, int]], now: Mapping[str, tuple[int, int]]) -> str | None:
    """Return the name of the first tensor that differs between two results of `versions`.

    Args:
        before: The earlier result.
        now: The later result.
    """
    return next((name for name in {**before, **now} if before.get(name) != now.get(name)), None)


def marks(module: nn.Module) -> dict[str, Any]:
    """Return what tells whether a weight or persistent buffer changes, also through `.data`, unless it is trained.

    Args:
        module: The LightningModule.
    """
    return {name: _mark(tensor) for name, tensor in state_tensors(module)}


def moved_and_not_saved(before: Mapping[str, Any], module: nn.Module, checkpoint: Mapping[str, Any]) -> list[str]:
    """Return a reason if weights or buffers have changed that a checkpoint does not contain; else nothing.

    Args:
        before: What `marks` returned when training began.
        module: The LightningModule.
        checkpoint: The checkpoint, as it is written.
    """
    states = [checkpoint[key] for key in STATES if isinstance(checkpoint.get(key), Mapping)]
    saved = {name: value for state in states for name, value in state.items()}
    if not saved:  # another rank saves them
        return []
    # A module may save its weights under other names.
    places = {_place(value) for value in saved.values() if isinstance(value, torch.Tensor)} - {None, 0}
    lacking = [
        name
        for name, tensor in state_tensors(module)
        if name not in saved and not _is_pruned(name, saved) and not is_lazy(tensor) and _place(tensor) not in places
        if before.get(name) != _mark(tensor)
    ]
    if not lacking:
        return []
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    return [f"training has changed {lacking[0]}{more}, which the checkpoint does not contain"]


def _is_pruned(name: str, saved: Container[str]) -> bool:
    """Tell whether a tensor is part of a pruned weight, which ModelPruning saves under its own name; see `pruning`."""
    return name.endswith(("_orig", "_mask")) and name.rpartition("_")[0] in saved


def _mark(tensor: torch.Tensor) -> Any:
    if is_lazy(tensor) or tensor.requires_grad:  # an optimizer changes it
        return (id(tensor), version(tensor))
    return (id(tensor), version(tensor), _place(tensor), sample_of_tensor(tensor))


def _place(tensor: torch.Tensor) -> int | None:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # a tensor without memory of its own, such as a sparse one
        return None
