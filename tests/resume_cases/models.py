"""The models of the resume matrix, and their Trainer settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging
from torch import nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

EPOCHS, BATCHES = 4, 6


class Net(L.LightningModule):
    """A model with dropout, batch norm, and metrics logged per step and per epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
        self.accuracy = MulticlassAccuracy(3)
        self.val_accuracy = MulticlassAccuracy(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.flatten(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        out = self(x)
        loss = functional.cross_entropy(out, y)
        self.accuracy(out, y)
        self.log("train_loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        self.log("train_acc", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        out = self(x) + torch.rand(1, device=x.device) * 1e-3  # validation also draws random numbers
        self.val_accuracy(out, y)
        self.log("val_loss", functional.cross_entropy(out, y), sync_dist=True)
        self.log("val_acc", self.val_accuracy)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.02)


class OneCycle(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=EPOCHS * BATCHES + 4)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


class Plateau(Net):
    monitor, interval = "train_loss_epoch", "epoch"

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.5)
        scheduler = {"scheduler": plateau, "monitor": self.monitor, "interval": self.interval, "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


class PlateauByStep(Plateau):
    monitor, interval = "train_loss_step", "step"


class PlateauOnValidation(Plateau):
    monitor = "val_loss"


class Gan(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Linear(4, 8)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        one, two = self.optimizers()  # type: ignore[misc]
        fake = self.generator(torch.randn(len(x), 4))
        loss = functional.cross_entropy(self(fake), y)
        self.log("train_loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        one.zero_grad()
        self.manual_backward(loss)
        one.step()
        two.zero_grad()
        self.manual_backward(functional.cross_entropy(self(x), y) - 0.1 * self(fake.detach()).std())
        two.step()

    def configure_optimizers(self) -> Any:
        layers = torch.optim.Adam(self.layers.parameters(), lr=0.01)
        return [torch.optim.Adam(self.generator.parameters(), lr=0.01), layers]


class Lbfgs(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)


@dataclass(frozen=True)
class Training:
    """A model and what it is trained with.

    Attributes:
        module: The class of the LightningModule.
        settings: Returns arguments of the Trainer. Called for each run, because callbacks have state.
        data: Returns the DataModule. Default: the data that the case names.
        transform: Returns a `train_transform` for DtoolDataModule. Default: none.
        begin: Sets what a new process begins with: global variables and class attributes.
        inside: The number of steps between saves, and the batch of epoch 1 after which one of them is saved, for the
            stop inside an epoch. They differ if a batch is not a step. None: after the first that is saved in epoch 1.
        same_seed: Whether the run that resumes makes its objects with the same seed, as the same script does. Otherwise
            they begin with other random numbers.
    """

    module: type[Net] = Net
    settings: Callable[[], dict[str, Any]] = dict
    data: Callable[[], L.LightningDataModule] | None = None
    transform: Callable[[], Callable[[Any], Any]] | None = None
    begin: Callable[[], None] | None = None
    inside: tuple[int, int | None] = (5, 3)
    same_seed: bool = False


def _ema() -> dict[str, Any]:
    from lightning.pytorch.callbacks import EMAWeightAveraging

    return {"callbacks": [EMAWeightAveraging(decay=0.9)]}


MODELS: dict[str, Training] = {
    "dropout and batch norm": Training(),
    "OneCycleLR": Training(OneCycle),
    "ReduceLROnPlateau": Training(Plateau),
    "ReduceLROnPlateau on validation": Training(PlateauOnValidation),
    "ReduceLROnPlateau by step": Training(PlateauByStep),
    "EarlyStopping": Training(settings=lambda: {"callbacks": [EarlyStopping("val_loss", patience=9, strict=False)]}),
    "SWA": Training(settings=lambda: {"callbacks": [StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)]}),
    "EMA weight averaging": Training(settings=_ema),
    "gradient accumulation": Training(settings=lambda: {"accumulate_grad_batches": 2}),
    "GAN with two optimizers": Training(Gan),
    "LBFGS": Training(Lbfgs),
    "bf16": Training(settings=lambda: {"precision": "bf16-mixed"}),
    "max_steps": Training(settings=lambda: {"max_steps": EPOCHS * BATCHES, "max_epochs": -1}),
}
