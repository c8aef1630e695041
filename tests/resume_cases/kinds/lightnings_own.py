"""Callbacks and settings of Lightning that act in the middle of a training."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateFinder,
    ModelPruning,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resume_cases.data import Plain
from resume_cases.models import Net, PlateauOnValidation, Training


class Tuned(Net):
    lr = 0.02

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class SteppingBatches(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)
        steps = self.trainer.estimated_stepping_batches
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=int(steps))
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


class PlateauOnValidationByStep(PlateauOnValidation):
    interval = "step"


class WithBackbone(Net):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(self.backbone(x.flatten(1)))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([each for each in self.parameters() if each.requires_grad], lr=0.05, momentum=0.9)


class Compiled(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layers[4] = torch.compile(self.layers[4], backend="eager")


class Reloaded(Plain):
    """Adds noise that grows with the number of loaders made so far."""

    def __init__(self) -> None:
        super().__init__("DataLoader", "0", 4)
        self.made = 0

    def train_dataloader(self) -> DataLoader:
        self.made += 1
        x, y = self.train
        return DataLoader(TensorDataset(x + 0.1 * self.made, y), batch_size=4, shuffle=True)


class TwoLoaders(Plain):
    def __init__(self) -> None:
        super().__init__("DataLoader", "0", 4)

    def train_dataloader(self) -> Any:
        return {name: super(TwoLoaders, self).train_dataloader() for name in ("labelled", "unlabelled")}


class OfTwoLoaders(Net):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        other = self(batch["unlabelled"][0]).std()
        return super().training_step(batch["labelled"], batch_idx) + 0.1 * other


def _tuner_of_rates() -> dict[str, Any]:
    return {"callbacks": [LearningRateFinder(1e-3, 0.1, num_training_steps=20, early_stop_threshold=None)]}


def _tuner_of_batches() -> dict[str, Any]:
    return {"callbacks": [BatchSizeFinder("power", steps_per_trial=1, init_val=2, max_trials=1)]}


def _finetuning() -> dict[str, Any]:
    return {"callbacks": [BackboneFinetuning(1, backbone_initial_lr=0.01, verbose=False)]}


def _pruning() -> dict[str, Any]:
    return {"callbacks": [ModelPruning("l1_unstructured", amount=0.1, parameter_names=["weight"])]}


def _counting() -> dict[str, Any]:
    calls: list[int] = []

    def cool(trainer: L.Trainer, *_: Any) -> None:
        calls.append(1)
        if len(calls) % 5 == 0:
            trainer.optimizers[0].param_groups[0]["lr"] = 0.05 / len(calls)

    return {"callbacks": [LambdaCallback(on_train_batch_end=cool)]}


KINDS = {
    "LearningRateFinder": Training(Tuned, _tuner_of_rates),
    "BatchSizeFinder": Training(settings=_tuner_of_batches, inside=(5, None)),
    "OneCycleLR with estimated_stepping_batches": Training(SteppingBatches),
    "GradientAccumulationScheduler": Training(
        settings=lambda: {"callbacks": [GradientAccumulationScheduler({0: 1, 1: 2})]}, inside=(8, 3)
    ),
    "val_check_interval across epochs": Training(
        PlateauOnValidationByStep, lambda: {"val_check_interval": 7, "check_val_every_n_epoch": None}
    ),
    "BackboneFinetuning": Training(WithBackbone, _finetuning),
    "ModelPruning": Training(settings=_pruning),
    "precision 64-true": Training(settings=lambda: {"precision": "64-true"}),
    "LambdaCallback with a counting closure": Training(settings=_counting),
    "a submodule that is compiled": Training(Compiled),
    "reload_dataloaders_every_n_epochs, with a count": Training(
        settings=lambda: {"reload_dataloaders_every_n_epochs": 1}, data=Reloaded
    ),
    "two loaders": Training(OfTwoLoaders, data=TwoLoaders),
}
