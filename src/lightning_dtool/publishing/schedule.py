"""Whether a Trainer will save checkpoints by itself."""

from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint


def why_nothing_is_saved(trainer: Any) -> str | None:
    """Return why a fit will not save a checkpoint, unless it ends with an exception. None if it may save one.

    Args:
        trainer: The Trainer, about to fit.
    """
    if trainer.fast_dev_run:
        return "fast_dev_run saves no checkpoints"
    if trainer.barebones:
        return "barebones=True saves no checkpoints"
    if not trainer.checkpoint_callbacks:
        return "the Trainer has no ModelCheckpoint"
    if all(_never_saves(callback, trainer.max_epochs) for callback in trainer.checkpoint_callbacks):
        return "no ModelCheckpoint of the Trainer will save a checkpoint"
    return None


def _never_saves(callback: Any, max_epochs: int | None) -> bool:
    if type(callback) is OnExceptionCheckpoint:
        return True
    if type(callback) is not ModelCheckpoint:  # a subclass may save whenever it wants
        return False
    if callback.save_last:
        return False
    if callback.save_top_k == 0:
        return True
    if callback._every_n_train_steps or callback._train_time_interval is not None:
        return False
    every, known = callback._every_n_epochs, max_epochs is not None and max_epochs >= 0
    return not every or (known and every > (max_epochs or 0))
