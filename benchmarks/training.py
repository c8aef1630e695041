"""A model of any size that is cheap to train, and a Trainer for it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

WIDTH = 64


class Wide(L.LightningModule):
    """A model that is cheap to train for its size: each step uses only part of the weights.

    Args:
        megabytes: The size of the tensors in a checkpoint, in MiB.
        adam: Whether to train with Adam, whose states take twice the size of the weights, or with plain SGD, which has
            none. True by default.
        tensors: The number of tensors that hold the weights. 16 by default.
    """

    def __init__(self, megabytes: float, adam: bool = True, tensors: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        numbers = int(megabytes * 2**20 / 4 / (3 if adam else 1) / tensors)
        rows = max(1, numbers // WIDTH)
        self.tables = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(WIDTH, rows)) for _ in range(tensors)])
        self.adam = adam

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return a loss that depends on all tensors."""
        x = batch[0]
        return sum((x @ table[:, :WIDTH]).square().mean() for table in self.tables)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam or plain SGD."""
        if self.adam:
            return torch.optim.Adam(self.parameters(), lr=1e-4)
        return torch.optim.SGD(self.parameters(), lr=1e-4)


class TimedCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that measures how long training waits for each save.

    Attributes:
        seconds: The time of each save.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seconds: list[float] = []

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        start = time.perf_counter()
        super()._save_checkpoint(trainer, filepath)
        self.seconds.append(time.perf_counter() - start)


def batches(steps: int) -> DataLoader[Any]:
    """Return a loader with the given number of batches."""
    return DataLoader(TensorDataset(torch.ones(8 * steps, WIDTH)), batch_size=8)


def quiet_trainer(folder: Path, callbacks: Sequence[Callback], **options: Any) -> L.Trainer:
    """Return a Trainer without progress bar, summary and, by default, logger."""
    return L.Trainer(
        accelerator="cpu",
        logger=options.pop("logger", False),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **options,
    )
