"""The work of Lightning's loops that was left at a save, done in a resumed run."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning_dtool.resuming.loader_states import set_loaded_epochs
from lightning_dtool.resuming.moment import Moment
from lightning_dtool.resuming.replacing import replace_method


def do_remaining_work(fit_loop: Any, moment: Moment) -> None:
    """Do the work that was left at the save, so that Lightning does not derive it from its counts.

    Args:
        fit_loop: The fit loop that resumes, whose counts `settle` has changed.
        moment: The moment of the save.
    """
    epoch_loop = fit_loop.epoch_loop
    # Otherwise epoch-wise schedulers that monitor a metric would miss the end of this epoch.
    fit_loop._restarting = False
    epoch_loop.val_loop.restarting = False
    if moment is Moment.BETWEEN_EPOCHS or moment is Moment.EPOCH_END:
        for loop in (fit_loop, epoch_loop):
            loop._restarting = loop._resuming_from_checkpoint = loop._loaded_from_state_dict = False
            loop.reset_restart_stage()
        if moment is Moment.EPOCH_END and epoch_loop._num_ready_batches_reached():
            current = fit_loop.epoch_progress.current
            current.completed -= 1  # as at the save: a scheduler's frequency depends on it
            try:
                epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
            finally:
                current.completed += 1
        return
    if moment is Moment.ELSEWHERE:
        return
    if moment in (Moment.BATCH_END, Moment.VALIDATION_END, Moment.INSIDE_VALIDATION):
        epoch_loop._skip_next_val = moment is Moment.VALIDATION_END
        epoch_loop.on_advance_end(fit_loop._data_fetcher)
    # Keep the counts, so that Lightning finds no work left.
    replace_method(epoch_loop, "reset", partial(_reset_once, epoch_loop))


def _reset_once(epoch_loop: Any, original: Callable[[], None]) -> None:
    del epoch_loop.reset
    stepped = epoch_loop._batches_that_stepped
    original()
    epoch_loop._batches_that_stepped = stepped
    epoch_loop._restarting = False
    set_loaded_epochs(epoch_loop.trainer.fit_loop)
