"""Optimizers and schedulers, which must be those of the save when a run that resumes loads their states.

`load_state_dict` of an optimizer assigns states to parameters by their position, and that of a scheduler takes any
attributes. States of another class, or for parameters in another order, are often loaded without an error.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.callbacks import BaseFinetuning, StochasticWeightAveraging
from torch.optim.swa_utils import SWALR

from lightning_dtool.values.definitions import class_path

_PRUNED = "_orig"
"""What pruning appends to the name of a parameter."""


def describe_optimizers(trainer: Any) -> dict[str, Any]:
    """Return the classes of optimizers and schedulers, and a digest of the names of each optimizer's parameters.

    Args:
        trainer: The Trainer.
    """
    names = {id(each): name.removesuffix(_PRUNED) for name, each in trainer.lightning_module.named_parameters()}
    averages = any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks)
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    return {
        "classes": [class_path(type(optimizer)) for optimizer in trainer.optimizers],
        "parameters": [_digest(optimizer, names) for optimizer in trainer.optimizers],
        # StochasticWeightAveraging installs its scheduler again in a run that resumes.
        "schedulers": [
            None if averages and isinstance(scheduler, SWALR) else class_path(type(scheduler))
            for scheduler in schedulers
        ],
    }


def replaced_since(began: Mapping[str, Any], trainer: Any) -> list[str]:
    """Return the reasons why a run that resumes begins with other optimizers or schedulers than the Trainer has now.

    Args:
        began: What `describe_optimizers` returned when the fit began.
        trainer: The Trainer that saves.
    """
    present = describe_optimizers(trainer)
    reasons = [
        f"{kind} has become {after} (configure_optimizers returned {before}), and a run that resumes begins with the "
        "latter"
        for kind, before, after in _other_classes(began, present)
    ]
    if not any(isinstance(callback, BaseFinetuning) for callback in trainer.callbacks):
        reasons += [
            f"the parameters of optimizer {index} have changed since training began, and a run that resumes begins "
            "with those from configure_optimizers (BaseFinetuning restores the groups that it adds)"
            for index in _other_parameters(began, present)
        ]
    return reasons


def differing_optimizers(saved: Mapping[str, Any], trainer: Any) -> list[str]:
    """Return a reason for each optimizer or scheduler that is not the one whose state the checkpoint holds.

    Args:
        saved: What `describe_optimizers` returned at the save.
        trainer: The Trainer that resumes, before the states are loaded.
    """
    present = describe_optimizers(trainer)
    reasons = [
        f"the checkpoint holds the state of {before} for {kind}, which is {after} now"
        for kind, before, after in _other_classes(saved, present)
    ]
    return reasons + [
        f"optimizer {index} has other parameters than at the save, or in another order, and takes the saved states by "
        "their position"
        for index in _other_parameters(saved, present)
    ]


def _digest(optimizer: Any, names: Mapping[int, str]) -> str:
    found = hashlib.sha256()
    for group in optimizer.param_groups:
        found.update(b"\n".join(names.get(id(each), "?").encode() for each in group["params"]) + b"\0")
    return found.hexdigest()


def _other_classes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for kind, name in (("classes", "optimizer"), ("schedulers", "scheduler")):
        one, other = before[kind], after[kind]
        for index in range(max(len(one), len(other))):
            first, second = (each[index] if index < len(each) else "none" for each in (one, other))
            if first != second and None not in (first, second):
                found.append((f"{name} {index}", first, second))
    return found


def _other_parameters(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[int]:
    pairs = zip(before["parameters"], after["parameters"], strict=False)
    return [index for index, (one, other) in enumerate(pairs) if one != other]
