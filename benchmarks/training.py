"""What several benchmarks train: a model of a wanted size that is cheap to train."""

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
    """A model whose training costs little for its size: a step reads and changes a part of the weights only.

    Args:
        megabytes: Size of a checkpoint's tensors.
        adam: Whether they are those of Adam, that is weights and twice as much besides; else plain SGD, which has none.
        tensors: Into how many tensors the weights are divided.
    """

    def __init__(self, megabytes: float, adam: bool = True, tensors: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        numbers = int(megabytes * 2**20 / 4 / (3 if adam else 1) / tensors)
        rows = max(1, numbers // WIDTH)
        self.tables = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(WIDTH, rows)) for _ in range(tensors)])
        self.adam = adam

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return something to learn."""
        x = batch[0]
        return sum((x @ table[:, :WIDTH]).square().mean() for table in self.tables)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam or plain SGD."""
        if self.adam:
            return torch.optim.Adam(self.parameters(), lr=1e-4)
        return torch.optim.SGD(self.parameters(), lr=1e-4)


class TimedCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that knows how long training stood still for each save."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seconds: list[float] = []

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        start = time.perf_counter()
        super()._save_checkpoint(trainer, filepath)
        self.seconds.append(time.perf_counter() - start)


def batches(steps: int) -> DataLoader[Any]:
    """Return an epoch of so many batches."""
    return DataLoader(TensorDataset(torch.ones(8 * steps, WIDTH)), batch_size=8)


def quiet_trainer(folder: Path, callbacks: Sequence[Callback], **options: Any) -> L.Trainer:
    """Return a Trainer that shows and logs nothing."""
    return L.Trainer(
        accelerator="cpu",
        logger=options.pop("logger", False),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **options,
    )
