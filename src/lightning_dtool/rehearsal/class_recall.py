"""The recall of each class, because an accuracy within tolerance may hide that a class is no longer recognised."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_dtool.data.datamodule import DtoolDataModule
from lightning_dtool.loading.weights import load_safely

MAX_CLASSES = 200
"""Maximum number of classes. With more classes, no recall is computed."""


def recall_by_class(trainer: Trainer, rerun: str, recorded: str | None) -> dict[str, dict[str, float]]:
    """Return the recall of each class on the validation data, or on the test data if there is none.

    The Trainer must have a DtoolDataModule with classes, and the module's `forward` must return a score for each class.
    The weights of the Trainer's module are replaced.

    Args:
        trainer: The Trainer.
        rerun: Local file of the rerun's checkpoint.
        recorded: Local file of the recorded checkpoint, which is evaluated on the same data.

    Returns:
        Recall by class name, for `rerun` and `recorded`. Empty if it cannot be computed.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, DtoolDataModule):
        return {}
    try:
        classes = data.classes
        loader = data.val_dataloader() or data.test_dataloader()
        if not classes or len(classes) > MAX_CLASSES or isinstance(loader, list):
            return {}
        numbers = _numbers(data)
        module = trainer.lightning_module
        found = {}
        for whose, file in (("rerun", rerun), ("recorded", recorded)):
            if file is not None:
                module.load_state_dict(load_safely(Path(file))["state_dict"])
                found[whose] = _recall(module, loader, numbers)
    except Exception:  # not a classifier that can be evaluated in this way
        return {}
    return found


def _numbers(data: DtoolDataModule) -> Mapping[int, str]:
    facts: dict[str, int] = data.description()["stages"]["train"]["class_to_idx"] or {}
    return {number: name for name, number in facts.items()}


@torch.no_grad()
def _recall(module: LightningModule, loader: Any, names: Mapping[int, str]) -> dict[str, float]:
    module.eval()
    right: dict[int, int] = dict.fromkeys(names, 0)
    all_: dict[int, int] = dict.fromkeys(names, 0)
    for x, y in loader:
        scores = module(x.to(module.device))
        if scores.dim() != 2 or scores.shape[1] < len(names):
            raise ValueError("no score for each class")
        for truth, guess in zip(y.tolist(), scores.argmax(1).tolist(), strict=True):
            all_[truth] += 1
            right[truth] += truth == guess
    return {name: right[number] / all_[number] for number, name in names.items() if all_[number]}
