"""Epochs that `max_steps`, `max_time` or a callback ended before their last batch.

Lightning then runs the hooks of the end of the epoch and of training, and often a validation. A longer training would
have gone on with the next batch. The state before all that work is kept, so that a checkpoint that is saved in it, or
after it, resumes with the next batch.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    ThroughputMonitor,
    Timer,
)  # fmt: skip
from lightning.pytorch.core.hooks import ModelHooks

from lightning_dtool.resuming.moment import Moment
from lightning_dtool.resuming.searches import in_trial

_OBSERVERS = (DeviceStatsMonitor, LearningRateMonitor, ModelCheckpoint, ProgressBar, ThroughputMonitor, Timer)
"""Callbacks of Lightning whose hooks change nothing that a training computes."""

_VALIDATION_HOOKS = (
    "on_validation_start", "on_validation_epoch_start", "on_validation_batch_start", "on_validation_batch_end",
    "on_validation_epoch_end", "on_validation_end",
)  # fmt: skip


def stopped_inside_epoch(trainer: Any) -> bool:
    """Return True if the present or last epoch ended before its last batch, because training was to stop.

    Args:
        trainer: The Trainer.
    """
    epoch_loop = trainer.fit_loop.epoch_loop
    stopped = trainer.should_stop or (trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps)
    return stopped and epoch_loop.batch_progress.current.ready > 0 and not epoch_loop._num_ready_batches_reached()


class Stop:
    """The state of a fit before the work that only its stop has caused."""

    def __init__(self) -> None:
        self.state: dict[str, Any] | None = None
        """The state from which a longer training goes on, or None if training has not stopped inside an epoch."""

        self.validates = False
        """Whether the present or last validation would not have run in a longer training."""

        self._ending = self._ended = False

    def before_validation(self, trainer: Any) -> None:
        """Find out if a validation that begins is due only because training stops.

        Args:
            trainer: The Trainer.
        """
        fit_loop = trainer.fit_loop
        self.validates = False
        if trainer.sanity_checking or not (trainer.should_stop and fit_loop._can_stop_early):
            return
        trainer.should_stop = False
        try:
            self.validates = not fit_loop.epoch_loop._should_check_val_fx(fit_loop._data_fetcher)
        finally:
            trainer.should_stop = True

    def before_epoch_end(
        self, trainer: Any, collect: Callable[[], dict[str, Any]], original: Callable[[], None]
    ) -> None:
        """Replaces the method that ends an epoch.

        Args:
            trainer: The Trainer.
            collect: Returns the state.
            original: The method.
        """
        self.state = None
        if stopped_inside_epoch(trainer) and not in_trial(trainer):
            with contextlib.suppress(Exception):  # a metric of the user may raise any error; it is a reason at the save
                self.state = collect()
        original()

    def around_training_end(self, trainer: Any, original: Callable[[], None]) -> None:
        """Replaces the method that ends training.

        Args:
            trainer: The Trainer.
            original: The method.
        """
        self._ending = not in_trial(trainer)
        original()
        self._ended = self._ending

    def reasons(self, trainer: Any, moment: Moment) -> Iterator[str]:
        """Yield the reasons why a training that goes on from a save may differ from one that did not stop.

        Args:
            trainer: The Trainer that saves.
            moment: The moment of the save.
        """
        callbacks, module = trainer.callbacks, [trainer.lightning_module]
        ran: list[tuple[str, list[Any]]] = []
        if self.validates and moment in (Moment.VALIDATION_END, Moment.STOPPED):
            ran += [(hook, [*callbacks, *module]) for hook in _VALIDATION_HOOKS]
            if any(config.reduce_on_plateau and config.interval == "step" for config in trainer.lr_scheduler_configs):
                yield "training stopped, and a validation that only the stop caused may have changed a learning rate"
        if moment is Moment.STOPPED:
            ran.append(("on_train_epoch_end", [*callbacks, *module]))
        if self._ending:  # the module's own hook runs after those of the callbacks
            ran.append(("on_train_end", [*callbacks, *(module if self._ended else [])]))
        for hook, owners in ran:
            for owner in owners:
                if _acts(owner, hook):
                    name = type(owner).__name__
                    yield f"training stopped, and {hook} of {name} has run, which a longer training omits"


def _acts(owner: Any, hook: str) -> bool:
    """Return True if code that may change a training runs in a hook of a callback or a module."""
    definer = next((base for base in type(owner).__mro__ if hook in vars(base)), Callback)
    base = definer in (Callback, LightningModule, ModelHooks)
    observes = issubclass(definer, _OBSERVERS) and definer.__module__.startswith("lightning.")
    ours = definer.__module__.partition(".")[0] == "lightning_dtool"
    idle = definer is EarlyStopping and owner._check_on_train_epoch_end == hook.startswith("on_validation")
    return hook in vars(owner) or not (base or observes or ours or idle)
