"""What a checkpoint holds of the LightningModule's state."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.strategies import Strategy
from torch.nn.parameter import is_lazy

from lightning_dtool.record import Gaps, as_text

MAX_NAMES = 1000
"""Maximum number of missing names that are recorded."""

_MAX_SHOWN = 5
"""Maximum number of names in a gap."""


def missing_from_state(checkpoint: Mapping[str, Any], trainer: LightningTrainer | None, gaps: Gaps) -> list[str] | None:
    """Return the names of the parameters and persistent buffers that a checkpoint lacks.

    A module may leave out parts of its state, for example frozen ones in `on_save_checkpoint`. Loading such a
    checkpoint leaves these parts as `__init__` makes them.

    Args:
        checkpoint: The state that Lightning saves.
        trainer: The Trainer. None if it is not known.
        gaps: Receives a gap if names are missing, if shapes differ, or if the checkpoint has tensors that belong to no
            part of the module.

    Returns:
        All missing names. None if the checkpoint cannot be compared, because the strategy saves something other than
        the state dict of the module.
    """
    if trainer is None or "state_dict" not in checkpoint:
        return None
    saved = checkpoint["state_dict"]
    if type(trainer.strategy).lightning_module_state_dict is not Strategy.lightning_module_state_dict:
        return None
    module = trainer.lightning_module
    if not isinstance(saved, Mapping):
        saved = {}
    expected = _without_pruning(dict(_persistent(module)), saved)
    missing = [name for name in expected if name not in saved]
    extra = [name for name in saved if name not in expected]
    if missing and extra:
        renamed = _renamed(missing, extra, expected, saved, module)
        missing = [name for name in missing if name not in renamed]
    extra = [name for name in extra if not _writes_its_own(module, str(name))]
    differing = [name for name, tensor in expected.items() if name in saved and not _same_shape(tensor, saved[name])]
    reasons = []
    if missing:
        reasons.append(
            f"it lacks {len(missing)} of the module's {len(expected)} parameters and buffers: {_shown(missing)}"
        )
    if extra:
        reasons.append(f"it has {len(extra)} entries that the module does not have: {_shown(extra)}")
    if differing:
        reasons.append(f"{len(differing)} entries have another shape than in the module: {_shown(differing)}")
    if reasons:
        remedy = "save the whole state_dict; or restore the rest in __init__ and load with strict=False"
        gaps.add("; ".join(reasons), remedy)
    return [as_text(name) for name in missing]


def _persistent(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters and persistent buffers under all their names, without calling a user's `state_dict`."""
    for path, part in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name, tensor in part._parameters.items():
            if tensor is not None:
                yield prefix + name, tensor
        for name, buffer in part._buffers.items():
            if buffer is not None and name not in part._non_persistent_buffers_set:
                yield prefix + name, buffer


def _without_pruning(expected: dict[str, torch.Tensor], saved: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the expected entries of a checkpoint in which pruning was made permanent, as ModelPruning does.

    `torch.nn.utils.prune` keeps a pruned parameter `weight` as `weight_orig` and `weight_mask`. A model that is made
    anew has only `weight`.
    """
    pruned = {
        name.removesuffix("_orig")
        for name in expected
        if name.endswith("_orig") and name not in saved and f"{name.removesuffix('_orig')}_mask" in expected
    }
    pruned &= saved.keys()
    masks = {f"{name}_mask" for name in pruned}
    return {
        name.removesuffix("_orig") if name.removesuffix("_orig") in pruned else name: tensor
        for name, tensor in expected.items()
        if name not in masks
    }


def _renamed(
    missing: list[str], extra: list[Any], expected: Mapping[str, torch.Tensor], saved: Mapping[Any, Any], module: Any
) -> set[str]:
    """Return the missing names whose tensors a part of the module saves under other names, as wrappers do."""
    elsewhere = {saved[name].data_ptr() for name in extra if isinstance(saved[name], torch.Tensor)}
    return {name for name in missing if expected[name].data_ptr() in elsewhere and _writes_its_own(module, name)}


def _writes_its_own(module: torch.nn.Module, name: str) -> bool:
    """Return whether a part of the module, at any depth, writes this entry of the state dict in its own way."""
    part: Any = module
    for step in name.split("."):
        part = getattr(part, "_modules", {}).get(step)
        if part is None:
            break
        cls = type(part)
        if (
            cls.state_dict is not torch.nn.Module.state_dict
            or cls._save_to_state_dict is not torch.nn.Module._save_to_state_dict
            or part._state_dict_hooks
        ):
            return True
    return name.endswith("_extra_state")


def _same_shape(tensor: torch.Tensor, saved: Any) -> bool:
    return is_lazy(tensor) or (isinstance(saved, torch.Tensor) and (is_lazy(saved) or saved.shape == tensor.shape))


def _shown(names: Iterable[Any]) -> str:
    every = [as_text(str(name)) for name in names]
    more = len(every) - _MAX_SHOWN
    return ", ".join(every[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")
