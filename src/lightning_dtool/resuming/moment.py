"""The moment of a run at which a checkpoint is saved, which determines what work is left.

It is derived from the counts of Lightning's loops.
"""

from enum import Enum
from typing import Any


class Moment(str, Enum):
    """The moment of a run at which a checkpoint was saved."""

    BETWEEN_EPOCHS = "between epochs"
    """No work is left: training has not begun, an epoch is complete, or the run has ended."""

    EPOCH_END = "epoch end"
    """In `on_train_epoch_end`. Schedulers that monitor a metric step after it."""

    BATCH_END = "batch end"
    """In `on_train_batch_end`. A validation that is due, and schedulers that monitor a metric, run after it."""

    VALIDATION_END = "validation end"
    """In `on_validation_end`, inside an epoch or at its end."""

    BETWEEN_BATCHES = "between batches"
    """A batch is complete, with its validation and schedulers. SIGTERM ends a run here."""

    INSIDE_BATCH = "inside a batch"
    """On an exception while a batch is fetched or computed."""

    INSIDE_VALIDATION = "inside a validation"
    """On an exception during validation."""

    STOPPED = "stopped inside an epoch"
    """At the end of an epoch that ended before its last batch, or after it. Training goes on inside the epoch."""

    ELSEWHERE = "elsewhere"
    """In a hook in which none of Lightning's own callbacks saves."""

    @property
    def inside_epoch(self) -> bool:
        """Whether the epoch is unfinished, so that a resume needs its metrics so far."""
        return self not in (Moment.BETWEEN_EPOCHS, Moment.EPOCH_END)


def moment_of(trainer: Any, validated: bool) -> Moment:
    """Return the present moment of a Trainer.

    Args:
        trainer: The Trainer, in `fit`.
        validated: Whether the present or last validation has reached `on_validation_end`.
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
    """Change the counts of a checkpoint's loops so that they describe whole batches and epochs.

    When Lightning resumes, it derives the work that is left from these counts, and misses validations that were due and
    steps of schedulers (https://github.com/Lightning-AI/pytorch-lightning/issues/17543). With whole batches and epochs
    it finds no work left, and `Resumption` does that work.

    Args:
        fit_loop: `checkpoint["loops"]["fit_loop"]`; changed in place.
        moment: The moment at which the checkpoint was saved.
    """
    epoch, batch = fit_loop["epoch_progress"], fit_loop["epoch_loop.batch_progress"]
    if moment is Moment.EPOCH_END:
        _complete(epoch)
    elif moment is Moment.BATCH_END:
        _complete(batch)
    elif moment is Moment.STOPPED:
        for counts in (epoch["total"], epoch["current"]):
            counts["processed"] = counts["completed"] = counts["ready"] - 1
    elif moment is Moment.INSIDE_BATCH:
        for counts in (batch["total"], batch["current"]):
            counts.update(ready=counts["completed"], started=counts["completed"], processed=counts["completed"])
        batch["is_last_batch"] = False


def _complete(progress: dict[str, Any]) -> None:
    for counts in (progress["total"], progress["current"]):
        counts["completed"] = counts["processed"]
