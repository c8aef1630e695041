"""A model of any size that is cheap to train, and a Trainer for it."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
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


class SaveTimer:
    """Measures how long training waits at the end of each epoch for a ModelCheckpoint to choose and to save.

    The ModelCheckpoint is exactly Lightning's: a subclass may read the file at once, so that no checkpoint would be in
    flight. Two callbacks, before and after it, read the clock.

    Args:
        checkpoints: The ModelCheckpoint.
    """

    def __init__(self, checkpoints: ModelCheckpoint) -> None:
        # The run would remember numbers in a list as state of the callbacks.
        self._kept = threading.local()
        self._kept.seconds, self._kept.begun = [], None
        self.callbacks: list[Callback] = [_Moment(self._begin), checkpoints, _Moment(self._end)]
        """The callbacks for the Trainer."""

    @property
    def seconds(self) -> list[float]:
        """The time of each save."""
        found: list[float] = self._kept.seconds
        return found

    @property
    def is_saving(self) -> bool:
        """Whether a save is being measured."""
        return self._kept.begun is not None

    def _begin(self) -> None:
        self._kept.begun = time.perf_counter()

    def _end(self) -> None:
        self.seconds.append(time.perf_counter() - self._kept.begun)
        self._kept.begun = None


class _Moment(Checkpoint):
    """A callback that stays where it is among the ModelCheckpoints."""

    def __init__(self, act: Callable[[], None]) -> None:
        # Under another name than the argument's: a record describes arguments that are kept, with all that they hold.
        self._at_the_end = act

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do what was asked for."""
        self._at_the_end()


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
