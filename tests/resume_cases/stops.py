"""The places where a training of the resume matrix stops."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from resume_cases.models import Training


class Stopped(Exception):
    """Raised where a case stops its training."""


class Stop(Callback):
    """Ends the run that is stopped; the others train without it."""


class StopAfterSave(Stop):
    """Stops a training after the checkpoint of the case is saved."""

    def __init__(self, epoch: int, batch: int | None = None) -> None:
        self.epoch, self.batch, self.saved = epoch, batch, False

    def on_save_checkpoint(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.current_epoch == self.epoch and self.batch in (None, trainer.fit_loop.batch_idx):
            self.saved = True

    def _stop(self, *_: Any) -> None:
        if self.saved:
            raise Stopped

    on_train_batch_start = on_train_epoch_start = on_validation_start = on_train_epoch_end = on_train_end = _stop


class Raise(Stop):
    """Ends a training with an exception or a signal."""

    def __init__(self, hook: str, epoch: int, batch: int, by_signal: bool = False) -> None:
        self.epoch, self.batch, self.by_signal = epoch, batch, by_signal
        setattr(self, hook, self._raise)

    def _raise(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.sanity_checking or trainer.current_epoch != self.epoch or trainer.fit_loop.batch_idx != self.batch:
            return
        if self.by_signal:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            raise Stopped


class TimeIsUp(Stop):
    """Ends a training as `max_time` does, inside an epoch."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1 and trainer.fit_loop.batch_idx == 2:
            trainer.should_stop = True


@dataclass(frozen=True)
class Place:
    """Where a training stops, and how its checkpoint is saved.

    Attributes:
        saves: Arguments of `ModelCheckpoint`.
        stop: Returns the callback that ends the run that is stopped. Default: `until` ends it.
        trainer: Arguments of the Trainer.
        until: Arguments of the Trainer in the run that is stopped.
    """

    saves: dict[str, Any]
    stop: Callable[[], Stop] | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    until: dict[str, Any] = field(default_factory=dict)

    @property
    def ends_by_itself(self) -> bool:
        """Whether `fit` returns in the run that is stopped, without an exception."""
        return self.stop in (None, TimeIsUp)

    def checkpoint(self, folder: Path) -> ModelCheckpoint:
        """Return the callback that saves checkpoints."""
        return ModelCheckpoint(folder / "checkpoints", save_top_k=-1, filename="{epoch}-{step}", **self.saves)


def _exceptional(stop: Callable[[], Stop]) -> Place:
    return Place({"save_on_exception": True, "every_n_epochs": 100}, stop)


STOPS: dict[str, Place] = {
    "end of epoch": Place({"save_on_train_epoch_end": True}, lambda: StopAfterSave(1)),
    "end of epoch, no validation": Place({}, lambda: StopAfterSave(1), {"limit_val_batches": 0}),
    "end of validation": Place({"save_on_train_epoch_end": False}, lambda: StopAfterSave(1)),
    "check_val_every_n_epoch=2": Place({}, lambda: StopAfterSave(1), {"check_val_every_n_epoch": 2}),
    "end of epoch, check_val_every_n_epoch=2": Place(
        {"save_on_train_epoch_end": True}, lambda: StopAfterSave(2), {"check_val_every_n_epoch": 2}
    ),
    "val_check_interval=0.5, mid-epoch": Place({}, lambda: StopAfterSave(1, 2), {"val_check_interval": 0.5}),
    "val_check_interval=0.5, end": Place({}, lambda: StopAfterSave(1, 5), {"val_check_interval": 0.5}),
    # With accumulation or two optimizers a batch is half a step or two steps. These numbers fit the batch in each case.
    "inside an epoch": Place({"every_n_train_steps": 5}, lambda: StopAfterSave(1, 3)),
    "inside an epoch, validation due": Place(
        {"every_n_train_steps": 9}, lambda: StopAfterSave(1, 2), {"val_check_interval": 0.5}
    ),
    "at the last batch": Place({"every_n_train_steps": 6}, lambda: StopAfterSave(1, 5)),
    "on exception in a hook": _exceptional(lambda: Raise("on_train_batch_end", 1, 3)),
    "on exception in a batch": _exceptional(lambda: Raise("on_before_backward", 1, 3)),
    "on exception before a batch": _exceptional(lambda: Raise("on_train_batch_start", 1, 3)),
    "on exception in validation": _exceptional(lambda: Raise("on_validation_batch_start", 1, 5)),
    "SIGTERM": _exceptional(lambda: Raise("on_train_batch_start", 1, 3, by_signal=True)),
    "SIGTERM at the end of an epoch": _exceptional(lambda: Raise("on_train_batch_start", 1, 5, by_signal=True)),
    "after max_epochs, then longer": Place({}, until={"max_epochs": 2}),
    "after max_steps, then longer": Place({}, until={"max_steps": 9}),
    "after max_time, then longer": Place({}, TimeIsUp),
}


def place_of(where: str, training: Training) -> Place:
    """Return where a training stops: a key of `STOPS`, with the batch that fits the steps of the training."""
    place = STOPS[where]
    if where != "inside an epoch" or training.inside == (5, 3):
        return place
    every, batch = training.inside
    return replace(place, saves={"every_n_train_steps": every}, stop=lambda: StopAfterSave(1, batch))
