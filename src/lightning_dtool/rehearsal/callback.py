"""The callback that starts a fit in the recorded state and stops it at the recorded checkpoint."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lightning_dtool import rerun
from lightning_dtool.capture.generator_states import restore
from lightning_dtool.checkpoint_io import DtoolCheckpointIO
from lightning_dtool.record import Data
from lightning_dtool.rehearsal.class_recall import recall_by_class
from lightning_dtool.rehearsal.likeness import Likeness, likeness_of
from lightning_dtool.rehearsal.progress import ends_epoch, is_same_place, progress_of, recorded_progress
from lightning_dtool.rehearsal.recognition import claim, has_arguments
from lightning_dtool.rehearsal.trainer_patch import patch_trainer
from lightning_dtool.rerun.seeds import recorded_states, reseed_samplers, set_threads
from lightning_dtool.sandbox.protection import is_below
from lightning_dtool.values.digests import state_digest

_present: list["RehearsalCallback"] = []
"""The callback of the fit that is rerun. Empty before that fit begins."""


def begin_rehearsal(
    trainer: Trainer, module: LightningModule, io: DtoolCheckpointIO, fit_index: int
) -> "RehearsalCallback | None":
    """Prepare the fit that is rerun. For any other fit, and without a plan, do nothing.

    Args:
        trainer: The Trainer, about to fit.
        module: The LightningModule.
        io: Its DtoolCheckpointIO.
        fit_index: Number of the recorded fit in this process, from 0.

    Returns:
        The callback that was added to the Trainer. None if nothing was done.
    """
    plan = rerun.current_plan()
    if plan is None:
        return None
    # The processes of a distributed fit run the same script, and count the same fits.
    in_pool = trainer.world_size == 1 and rerun.in_worker_process()
    numbered = fit_index == (plan.target.fit_index or 0)
    is_target = has_arguments(module, plan.target.arguments) if in_pool else numbered
    rerun.report("fit", fit_index=fit_index, is_target=is_target, in_pool=in_pool)
    for earlier in _present:
        earlier.stop_if_reached(trainer)
    if not is_target:
        return None
    if trainer.world_size > 1:
        reseed_samplers()
    rehearsal = RehearsalCallback(plan, io, in_pool)
    if plan.parent is not None:
        _resume_from(trainer, plan.parent)
    # The last callback, so that it acts after those that save. In a new list: Lightning is iterating over this one.
    trainer.callbacks = [*trainer.callbacks, rehearsal]  # type: ignore[attr-defined]
    loop = trainer.fit_loop.epoch_loop
    loop.on_advance_end = partial(_between_batches, trainer, rehearsal, loop.on_advance_end)  # type: ignore[method-assign]
    _present[:] = [rehearsal]
    return rehearsal


def report_last_checkpoint() -> None:
    """Report a checkpoint that the script saved after training. Called when the script has ended."""
    for rehearsal in _present:
        rehearsal.report_recall()


def _between_batches(
    trainer: Trainer, rehearsal: "RehearsalCallback", original: Callable[..., None], *args: Any
) -> None:
    """Replaces the method after which SIGTERM ends a run. No hook is called there."""
    original(*args)
    rehearsal.after_saving(trainer)


def _resume_from(trainer: Any, uri: str) -> None:
    """Resume from a checkpoint even if the script finds none, for example with `ckpt_path="last"` in a new folder."""
    connector = trainer._checkpoint_connector
    original = connector.resume_start

    def resume_start(checkpoint_path: Any = None, *args: Any, **kwargs: Any) -> Any:
        connector.resume_start = original  # only this fit resumes from there
        return original(checkpoint_path or uri, *args, **kwargs)

    connector.resume_start = resume_start


class RehearsalCallback(Checkpoint):
    """Starts a fit in the recorded state, and ends the process once the recorded checkpoint is saved again.

    At the recorded moment a script may save several checkpoints, with other weights in each: at the end of an epoch and
    by hand after training, for example. The one whose file has the recorded name is the target. If there is none, it is
    one whose name differs in numbers only, or else the first, or else the one that this callback saves.

    It is a Checkpoint because Lightning calls the `on_train_epoch_end` of those last, after that of the module, which
    may still change weights.

    Args:
        plan: The plan.
        io: The DtoolCheckpointIO of the Trainer.
        in_pool: Whether this process is one of several that the script has started, any of which may make the recorded
            fit.
    """

    def __init__(self, plan: rerun.Plan, io: DtoolCheckpointIO, in_pool: bool = False) -> None:
        self._plan = plan
        self._io = io
        self._in_pool = in_pool
        self._is_another = False
        self._progress = recorded_progress(plan.checkpoint)
        self._own_path = str(Path(plan.scratch) / "rerun.ckpt")
        self._reached = False
        self._likeness = Likeness.NONE
        self._reported = Likeness.NONE
        self._trainer: Trainer | None = None
        self.traces = plan.trace
        self.parent = plan.parent

    # -- the start ------------------------------------------------------------------------------

    def restore_start(self, module: LightningModule) -> None:
        """Restore threads, random states and initial weights, and report whether the weights were already equal.

        With other seeds, only the threads are restored. With another source, the plan has neither states nor weights.

        Args:
            module: The LightningModule, not wrapped by a strategy.
        """
        plan = self._plan
        if plan.threads_forced:
            set_threads()
        if plan.seed_offset is not None:
            rerun.report("begin", initial_weights="other seed")
            return
        states = recorded_states("fit_start")
        if states is not None and module.trainer.is_global_zero:
            restore(states)
        if plan.initial_digest is None:
            rerun.report("begin", initial_weights="unknown")
            return
        if state_digest(module.state_dict()) == plan.initial_digest:
            rerun.report("begin", initial_weights="equal")
        elif plan.initial_weights is not None:
            module.load_state_dict(torch.load(plan.initial_weights, map_location="cpu", weights_only=True))
            equal = state_digest(module.state_dict()) == plan.initial_digest
            rerun.report("begin", initial_weights="loaded" if equal else "different")
        else:
            rerun.report("begin", initial_weights="different")

    def recognise(self, data: Data) -> None:
        """Decide whether this fit of a pool is the recorded one. If it is not, do nothing more in it.

        Args:
            data: The data that it trains on.
        """
        recorded = self._plan.target.data
        if self._in_pool:
            same = not recorded or data.training_identity() == recorded
            self._is_another = not (same and claim(self._plan.scratch))
            rerun.report("recognised", same_data=same, is_target=not self._is_another)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let each ModelCheckpoint go on as in the folder where it saved: it resets its scores in another folder."""
        states = checkpoint.get("callbacks")
        if self.parent is None or not isinstance(states, dict):
            return
        for callback in trainer.checkpoint_callbacks:
            state, folder = states.get(callback.state_key), getattr(callback, "dirpath", None)
            if isinstance(state, dict) and isinstance(state.get("dirpath"), str) and folder is not None:
                states[callback.state_key] = _moved(state, state["dirpath"], str(folder))

    # -- the target -----------------------------------------------------------------------------

    def is_target(self, checkpoint: Mapping[str, Any], path: str) -> bool:
        """Return True for a checkpoint of the recorded moment that is more like the recorded one than those before it.

        Args:
            checkpoint: The checkpoint that is saved.
            path: Where the Trainer wants it.
        """
        if not self._is_moment(checkpoint):
            return False
        likeness = Likeness.OWN if path == self._own_path else likeness_of(path, self._plan.target.filename)
        if likeness <= self._likeness:
            return False
        self._reached = True
        self._likeness = likeness
        return True

    def _is_moment(self, checkpoint: Mapping[str, Any]) -> bool:
        target = self._plan.target
        if self._is_another or checkpoint.get("epoch") != target.epoch:
            return False
        progress = progress_of(checkpoint)
        if self._plan.kind == rerun.REPLICATE and ends_epoch(self._progress):
            # With other data, epochs have other numbers of batches, so only the place in the epoch is compared.
            return is_same_place(progress, self._progress)
        if checkpoint.get("global_step") != target.global_step:
            return False
        return progress.items() >= self._progress.items()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Recognise the target on ranks that write no checkpoints."""
        if not trainer.is_global_zero and self._is_moment(checkpoint):
            self._reached = True

    def after_saving(self, trainer: Trainer) -> None:
        """Save the target if no other callback has, since a metric may select another epoch. Stop if it is saved."""
        self._trainer = trainer
        if not self._reached and self._progress and self._is_now(trainer):
            trainer.save_checkpoint(self._own_path)
        self.stop_if_reached(trainer)

    def _is_now(self, trainer: Any) -> bool:
        loops = {"fit_loop": trainer.fit_loop.state_dict()}
        return self._is_moment({"epoch": trainer.current_epoch, "global_step": trainer.global_step, "loops": loops})

    def stop_if_reached(self, trainer: Trainer) -> None:
        """End the process if the target is saved and the script will save no other that is more like it."""
        if not self._reached:
            return
        # Other ranks do not know the names of files, so all of them wait until the moment is over.
        known = self._likeness == Likeness.SAME and trainer.world_size == 1
        if known or not self._is_now(trainer):
            self.report_recall()
            rerun.report("done")
            raise rerun.TargetReachedError

    def report_checkpoint(self) -> None:
        """Report the URI of the published target, unless it is reported already."""
        if self._likeness <= self._reported or not self._io.publications:
            return
        self._reported = self._likeness
        self._io.flush()
        rerun.report("target", uri=self._io.publications[-1].uri)

    def report_recall(self) -> None:
        """Report the target, and the recall of each class if the plan asks for it."""
        self.report_checkpoint()
        if self._plan.recall and self._reported > Likeness.NONE and self._trainer is not None:
            file = self._io.publications[-1].local_file
            found = recall_by_class(self._trainer, str(file), self._plan.checkpoint) if file is not None else {}
            rerun.report("recall", **found)

    # -- Lightning's hooks, after those of every other callback ---------------------------------

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop if this is the target, or before the next batch once it is reached."""
        self.after_saving(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if this is the target."""
        self.after_saving(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if this is the target: a run that was interrupted in this validation."""
        if not trainer.sanity_checking:
            self.after_saving(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if this is the target."""
        if not trainer.sanity_checking:
            self.after_saving(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the progress, and stop if this is the target."""
        rerun.report("epoch", epoch=trainer.current_epoch, global_step=trainer.global_step)
        self.after_saving(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the end of training, and stop if this is the target. The script may still save a checkpoint."""
        rerun.report("end", epoch=trainer.current_epoch, global_step=trainer.global_step)
        self.after_saving(trainer)
        self.report_checkpoint()  # the script may end with an error, or never

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Report the target, if it is saved. The script may end with the exception, as the recorded one has."""
        self._trainer = trainer
        self.report_checkpoint()


def _moved(value: Any, before: str, now: str) -> Any:
    """Return a value with each path in a folder replaced by the path in another folder."""
    if isinstance(value, str) and is_below(value, [before]):
        return f"{now}{value.removeprefix(before)}"
    if isinstance(value, dict):
        return {_moved(key, before, now): _moved(item, before, now) for key, item in value.items()}
    return value


# A process that another rank starts does not run `child`.
patch_trainer(Trainer)
