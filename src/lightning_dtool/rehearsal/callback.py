"""A recorded training, conducted again: from the same beginning to the same moment, and no further."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_dtool import rerun
from lightning_dtool.capture.randomness import restore
from lightning_dtool.rehearsal.class_recall import recall_by_class
from lightning_dtool.rehearsal.trainer_patch import patch_trainer
from lightning_dtool.rerun.seeds import recorded_states, set_threads
from lightning_dtool.values.digests import state_digest

_present: list["Rehearsal"] = []
"""The rehearsal whose fit is the recorded one."""


def rehearse(trainer: Trainer, io: Any, fit_index: int) -> "Rehearsal | None":
    """Prepare a fit for its part in a rerun; does nothing without a plan.

    Args:
        trainer: The Trainer, about to fit.
        io: Its DtoolCheckpointIO.
        fit_index: Which recorded fit of this process it is.

    Returns:
        The rehearsal, if this fit is the one that is rerun.
    """
    plan = rerun.current_plan()
    if plan is None:
        return None
    target = plan.target.fit_index or 0
    rerun.report("fit", fit_index=fit_index, is_target=fit_index == target)
    if fit_index != target:
        return None
    rehearsal = Rehearsal(plan, io)
    io.wanted = rehearsal.wants
    io.strict = True
    if plan.parent is not None:
        io.instead = plan.parent
        _resume_from(trainer, plan.parent)
    # At the end of another list (Lightning is walking through this one): after the callbacks that save.
    trainer.callbacks = [*trainer.callbacks, rehearsal]  # type: ignore[attr-defined]
    _present[:] = [rehearsal]
    return rehearsal


def conclude() -> None:
    """Report a checkpoint that the script has saved after its training had ended; called when the script has."""
    for rehearsal in _present:
        rehearsal.tell()


def _resume_from(trainer: Any, uri: str) -> None:
    """Resume from a checkpoint, also where the script finds none: `ckpt_path="last"` in a new folder, say."""
    connector = trainer._checkpoint_connector
    original = connector.resume_start

    def resume_start(checkpoint_path: Any = None, *args: Any, **kwargs: Any) -> Any:
        connector.resume_start = original  # what the script tests or fits afterwards is its own affair
        return original(checkpoint_path or uri, *args, **kwargs)

    connector.resume_start = resume_start


class Rehearsal(Callback):
    """Waits for the moment at which the recorded checkpoint was saved, and ends the process after it.

    Args:
        plan: The plan.
        io: The DtoolCheckpointIO of the Trainer.
    """

    def __init__(self, plan: rerun.Plan, io: Any) -> None:
        self._plan = plan
        self._io = io
        self._progress = _recorded_progress(plan)
        self._reached = False
        self._told = False
        self.traces = plan.trace

    # -- the beginning --------------------------------------------------------------------------

    def begin_as_recorded(self, module: LightningModule) -> None:
        """Set random numbers, threads and initial weights as they were; tell whether the weights were so already.

        Args:
            module: The LightningModule, not wrapped by a strategy.
        """
        plan = self._plan
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

    # -- the moment -----------------------------------------------------------------------------

    def wants(self, checkpoint: Mapping[str, Any]) -> bool:
        """Tell whether a checkpoint is the recorded one's counterpart; the first that is."""
        if self._reached or not self._is_moment(checkpoint):
            return False
        self._reached = True
        return True

    def _is_moment(self, checkpoint: Mapping[str, Any]) -> bool:
        target = self._plan.target
        if checkpoint.get("epoch") != target.epoch:
            return False
        progress = dict(_counters(checkpoint.get("loops", {}).get("fit_loop", {})))
        if self._plan.kind == rerun.REPLICATE and self._progress.get(_LAST_BATCH, 1):
            # Other data has other numbers of batches: the same place in the epoch.
            return all(progress.get(name) == self._progress[name] for name in _PLACE if name in self._progress)
        if checkpoint.get("global_step") != target.global_step:
            return False
        return not self._progress or progress == self._progress

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Learn of the moment on every rank: only one of them writes checkpoints."""
        if not trainer.is_global_zero and self._is_moment(checkpoint):
            self._reached = True

    def _after_saving(self, trainer: Trainer) -> None:
        """Save at the moment, if nothing else did: another metric may have chosen another epoch. Then stop."""
        if not self._reached and self._is_now(trainer):
            trainer.save_checkpoint(Path(self._plan.scratch) / "rerun.ckpt")
        self._stop_if_reached(trainer)

    def _is_now(self, trainer: Any) -> bool:
        target = self._plan.target
        if trainer.current_epoch != target.epoch or not self._progress:
            return False
        loops = {"fit_loop": trainer.fit_loop.state_dict()}
        return self._is_moment({"epoch": trainer.current_epoch, "global_step": trainer.global_step, "loops": loops})

    def _stop_if_reached(self, trainer: Trainer) -> None:
        if self._reached:
            self.tell()
            if self._plan.recall and trainer.is_global_zero:
                found = recall_by_class(trainer, trainer.lightning_module, self._plan.checkpoint)
                rerun.report("recall", **found)
            rerun.report("done")
            raise rerun.TargetReachedError

    def tell(self) -> None:
        """Report the published checkpoint, once."""
        if not self._reached or self._told or not self._io.publications:
            return
        self._told = True
        self._io.flush()
        publication = self._io.publications[-1]
        rerun.report("target", uri=publication.dataset.uri if publication.dataset is not None else None)

    # -- Lightning's hooks, after those of every other callback ---------------------------------

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop before another batch."""
        self._stop_if_reached(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look whether this is the moment."""
        self._after_saving(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether this is the moment."""
        if not trainer.sanity_checking:
            self._after_saving(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell how far training is, and look whether this is the moment."""
        rerun.report("epoch", epoch=trainer.current_epoch, global_step=trainer.global_step)
        self._after_saving(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether this is the moment; what a script saves after its training comes later."""
        rerun.report("end", epoch=trainer.current_epoch, global_step=trainer.global_step)
        self._after_saving(trainer)


_LAST_BATCH = "epoch_loop.batch_progress.is_last_batch"
_PLACE = (
    *(f"epoch_progress.current.{name}" for name in ("ready", "started", "processed", "completed")),
    _LAST_BATCH,
)


_COUNTED = ("epoch_progress", "batch_progress")
"""What counts epochs and batches. How often an optimizer evaluates its closure may depend on the numbers."""


def _recorded_progress(plan: rerun.Plan) -> dict[str, int]:
    """Return the loops' counters in the recorded checkpoint; empty if it cannot be read safely."""
    if plan.checkpoint is None:
        return {}
    try:
        content = torch.load(plan.checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return dict(_counters(content.get("loops", {}).get("fit_loop", {})))
    except Exception:  # what a stranger's file may raise is not ours to list: epoch and step have to do
        return {}


def _counters(state: Any, path: str = "", inside: bool = False) -> Iterator[tuple[str, int]]:
    """Yield the counters of Lightning's loops, by path; the rest of their state may differ between two runs."""
    if isinstance(state, Mapping):
        for key, value in state.items():
            place = f"{path}.{key}" if path else str(key)
            yield from _counters(value, place, inside or str(key).endswith(_COUNTED))
    elif inside and isinstance(state, int):
        yield path, int(state)


# A process that another rank has started has no bootstrap.
patch_trainer(Trainer)
