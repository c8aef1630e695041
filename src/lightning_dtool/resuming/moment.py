"""When was a checkpoint taken? What Lightning still had to do at that moment depends on it.

Pure functions of the progress that Lightning's loops count, as objects or as the plain dictionaries of a checkpoint.
"""

from enum import Enum
from typing import Any


class Moment(str, Enum):
    """Where in the life of a run a checkpoint was taken."""

    BETWEEN_EPOCHS = "between epochs"
    """Nothing is left to do: training has not begun, an epoch is complete, or the run has ended."""

    EPOCH_END = "epoch end"
    """In `on_train_epoch_end`; schedulers that watch a metric come after it."""

    BATCH_END = "batch end"
    """In `on_train_batch_end`; the validation that may be due, and schedulers that watch a metric, come after it."""

    VALIDATION_END = "validation end"
    """In `on_validation_end`, inside an epoch or at its end."""

    BETWEEN_BATCHES = "between batches"
    """A batch is complete with all that belongs to it: SIGTERM ends a run here."""

    INSIDE_BATCH = "inside a batch"
    """An exception came while a batch was fetched or computed."""

    INSIDE_VALIDATION = "inside a validation"
    """An exception came while validation ran."""

    ELSEWHERE = "elsewhere"
    """In a hook where no policy of Lightning's saves."""

    @property
    def inside_epoch(self) -> bool:
        """Whether batches of an epoch are counted already, so that what the epoch has measured so far is needed."""
        return self not in (Moment.BETWEEN_EPOCHS, Moment.EPOCH_END)


def moment_of(trainer: Any, validated: bool) -> Moment:
    """Return the moment at which a Trainer is.

    Args:
        trainer: The Trainer, in `fit`.
        validated: Whether the present or last validation has reached its end.
    """
    loop = trainer.fit_loop
    epoch, batch = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current
    if trainer.validating:
        return Moment.VALIDATION_END if validated else Moment.INSIDE_VALIDATION
    if epoch.ready == epoch.completed:
        return Moment.BETWEEN_EPOCHS
    if epoch.ready == epoch.started == epoch.processed:
        return Moment.EPOCH_END
    if epoch.started != epoch.ready:
        return Moment.ELSEWHERE
    if batch.ready == batch.started == batch.processed:
        return Moment.BETWEEN_BATCHES if batch.completed == batch.processed else Moment.BATCH_END
    return Moment.INSIDE_BATCH


def settle(fit_loop: dict[str, Any], moment: Moment) -> None:
    """Count as done what was done, in the loops' state of a checkpoint that training is about to resume from.

    Lightning's own way to resume is to guess from these counts what is left to do; it leaves out validations that were
    due and schedulers' steps (https://github.com/Lightning-AI/pytorch-lightning/issues/17543). With whole batches and
    epochs there is nothing to guess, and `Resumption` does what is left.

    Args:
        fit_loop: `checkpoint["loops"]["fit_loop"]`; changed in place.
        moment: When the checkpoint was taken.
    """
    epoch, batch = fit_loop["epoch_progress"], fit_loop["epoch_loop.batch_progress"]
    if moment is Moment.EPOCH_END:
        _complete(epoch)
    elif moment is Moment.BATCH_END:
        _complete(batch)
    elif moment is Moment.INSIDE_BATCH:
        for counts in (batch["total"], batch["current"]):
            counts.update(ready=counts["completed"], started=counts["completed"], processed=counts["completed"])
        batch["is_last_batch"] = False


def _complete(progress: dict[str, Any]) -> None:
    for counts in (progress["total"], progress["current"]):
        counts["completed"] = counts["processed"]
