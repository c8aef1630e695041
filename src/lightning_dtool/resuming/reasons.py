"""The reasons why a run cannot resume exactly from a checkpoint."""

from collections.abc import Iterator
from typing import Any

from lightning.fabric.utilities.data import sized_len
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from lightning_dtool.resuming.generators import (
    generators_in_workers,
    has_persistent_workers,
    is_known_to_resume,
    loaders,
    resumes_inside_epoch,
)
from lightning_dtool.resuming.moment import Moment
from lightning_dtool.resuming.stopped import stopped_inside_epoch


def inexact_reasons(trainer: Any, moment: Moment) -> list[str]:
    """Return the reasons why a resume from a checkpoint is not exact, or may not be exact; empty if it is exact.

    Args:
        trainer: The Trainer that saves the checkpoint.
        moment: The moment of the save.
    """
    reasons: list[str] = []
    for name, loader in loaders(trainer):
        kind = type(loader).__name__
        unfinished = name.startswith("train") and moment.inside_epoch and not _epoch_is_over(trainer, moment)
        if unfinished and not resumes_inside_epoch(loader):
            reasons.append(
                f"the checkpoint was saved inside an epoch, and the {kind} {name} starts that epoch from its beginning "
                "(loaders of DtoolDataModule continue with the next batch)"
            )
        elif unfinished and not is_known_to_resume(loader):
            reasons.append(
                f"the checkpoint was saved inside an epoch, and whether the {kind} {name} continues with the next "
                "batch is up to its own state_dict and load_state_dict"
            )
        if has_persistent_workers(loader):
            reasons.append(
                f"the {kind} {name} has persistent workers, whose random states cannot be saved "
                "(DtoolDataModule seeds its workers for each batch)"
            )
        elif unfinished or getattr(loader, "persistent_workers", False):
            held = generators_in_workers(loader)
            if held:
                reasons.append(
                    f"each worker of the {kind} {name} draws from its own copy of the random generator {held[0]}, "
                    "whose state cannot be saved (draw from the global generators, which are seeded for each batch)"
                )
    reasons += _positions(trainer, moment.inside_epoch and not _epoch_is_over(trainer, moment))
    if getattr(trainer, "_val_check_time_interval", None) is not None:
        reasons.append("validations are due by the clock (val_check_interval), and so after other batches")
    if moment in (Moment.EPOCH_END, Moment.BETWEEN_EPOCHS) and stopped_inside_epoch(trainer):
        reasons.append(
            "training stopped inside an epoch (max_steps, max_time, or a callback), and a longer run begins with the "
            "next epoch, without the rest of this one"
        )
    batch = trainer.fit_loop.epoch_loop.batch_progress.current
    if moment is Moment.INSIDE_BATCH and batch.started == batch.ready:
        buffer = next((f" (such as {name})" for name, _ in trainer.lightning_module.named_buffers()), "")
        reasons.append(
            "the checkpoint was saved inside a batch, which is repeated: changes that this batch had already made to "
            f"weights, gradients, metrics or buffers{buffer} remain"
        )
    for callback in trainer.callbacks:
        if moment is Moment.INSIDE_VALIDATION and callable(getattr(callback, "_swap_models", None)):
            reasons.append(f"{type(callback).__name__} had swapped the weights for a validation that was interrupted")
        ending = isinstance(callback, StochasticWeightAveraging) and trainer.current_epoch > callback.swa_end
        if ending and moment.inside_epoch:
            reasons.append("the checkpoint was saved in the epoch where StochasticWeightAveraging updates batch norm")
    if moment is Moment.ELSEWHERE:
        reasons.append("the checkpoint was saved in a hook from which Lightning cannot resume")
    return reasons


def _positions(trainer: Any, unfinished: bool) -> Iterator[str]:
    """Yield the reasons why loaders that save their position do not resume at it."""
    combined = trainer.fit_loop._combined_loader
    if not isinstance(combined, CombinedLoader):
        return
    lengths = [sized_len(loader) for loader in combined.flattened if resumes_inside_epoch(loader)]
    if None in lengths:
        # Also between epochs: the resumed run fetches a batch, and then restores the random states and begins again.
        yield "the training data has no length, so that Lightning fetches a batch ahead, which a resumed run may lose"
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    if unfinished and combined._mode == "max_size" and any(length and length <= batches for length in lengths):
        yield "a training loader had ended before the others, and begins again (CombinedLoader in the mode max_size)"


def _epoch_is_over(trainer: Any, moment: Moment) -> bool:
    """Return True if the last batch of the epoch has been fetched and is complete."""
    epoch_loop = trainer.fit_loop.epoch_loop
    return moment is not Moment.INSIDE_BATCH and bool(epoch_loop._num_ready_batches_reached())
