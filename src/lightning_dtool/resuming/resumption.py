"""The state that Lightning leaves out of a checkpoint, in a section of its own.

Lightning saves weights, optimizers, schedulers, callbacks, and the counts of its loops. It does not save random states,
the metrics of an unfinished epoch, gradients that are being accumulated, or which work of the batch and the epoch is
left to do (https://github.com/Lightning-AI/pytorch-lightning/issues/17543). `Resumption` saves these in each
checkpoint. When a run resumes, it restores them just before training continues, after every hook and loader that draws
random numbers at the start of a run.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_dtool import rerun
from lightning_dtool.capture.generator_states import RandomStates, encoded_states, random_states, restore
from lightning_dtool.errors import ProvenanceWarning, RecordError
from lightning_dtool.items import RESUMPTION_SECTION
from lightning_dtool.random_states import raw_states
from lightning_dtool.resuming.averaging import begin_averaging, remove_functions
from lightning_dtool.resuming.delivered import Delivered, load_optimizers
from lightning_dtool.resuming.generators import (
    restore_generators,
    restore_seeds,
    running_workers,
    save_generators,
    save_seeds,
    start_workers,
)
from lightning_dtool.resuming.gradients import restore_gradients, save_gradients
from lightning_dtool.resuming.loader_states import (
    repeat_last_batch,
    restore_between_epochs,
    restore_inside_epoch,
)
from lightning_dtool.resuming.measured import reset_ended, restore_measured, save_measured
from lightning_dtool.resuming.moment import Moment, moment_of, settle
from lightning_dtool.resuming.of_the_process import changed_in_the_process, of_the_process
from lightning_dtool.resuming.optimizers import describe_optimizers, differing_optimizers, replaced_since
from lightning_dtool.resuming.plain_state.remembered import Remembered
from lightning_dtool.resuming.pruning import restore_pruning, save_pruning
from lightning_dtool.resuming.reasons import inexact_reasons
from lightning_dtool.resuming.remaining_hooks import Remaining, remaining, run_remaining
from lightning_dtool.resuming.remaining_work import do_remaining_work
from lightning_dtool.resuming.replacing import replace_method
from lightning_dtool.resuming.searches import Searches, in_trial
from lightning_dtool.resuming.settings import differing_settings, restore_settings, save_settings, settings_of
from lightning_dtool.resuming.stopped import Stop
from lightning_dtool.resuming.weights_moved import marks, moved, moved_and_not_saved, versions

VERSION = 1
"""The version of the format of the section."""


class Resumption:
    """Saves the state for an exact resume in each checkpoint of one fit, and restores it when that fit resumes."""

    def __init__(self) -> None:
        self._requests: dict[str, RandomStates] = {}
        self._before_batch: Any = None
        self._before_validation: dict[str, Any] | None = None
        self._versions_before_validation: dict[str, Any] = {}
        self._loader_states: list[Any] = []
        self._validated = True
        self._exception: BaseException | None = None
        self._moment: Moment | None = None
        self._saved: dict[str, Any] | None = None
        self._delivered: Delivered | None = None
        self._awaited: dict[str, RandomStates] = {}
        self._initial_settings: dict[str, Any] = {}
        self._initial_optimizers: dict[str, Any] | None = None
        self._expected_optimizers: dict[str, Any] | None = None
        self._searches = Searches()
        self._stop = Stop()
        self._remembered = Remembered()
        self._of_the_process: dict[str, Any] = {}
        self._marks: dict[str, Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out all that was observed: a copy of a Trainer holds this object, and is another run."""
        return type(self), ()

    # -- observing the run ----------------------------------------------------------------------

    def install(self, trainer: Any) -> None:
        """Replace methods of the Trainer's loops, to observe them and to restore the state before training continues.

        Args:
            trainer: The Trainer, in `setup` of a fit.
        """
        epoch_loop = trainer.fit_loop.epoch_loop
        self._initial_settings = settings_of(trainer)
        self._searches.install(trainer)
        replace_method(trainer.fit_loop._data_source, "dataloader", partial(self._create_loader, "train"))
        replace_method(epoch_loop.val_loop._data_source, "dataloader", partial(self._create_loader, "val"))
        replace_method(epoch_loop.val_loop, "reset", partial(self._begin_validation, trainer))
        replace_method(epoch_loop.val_loop, "_on_evaluation_end", self._end_validation)
        replace_method(trainer.strategy, "setup", self._set_up)
        replace_method(trainer.strategy, "load_optimizer_state_dict", partial(self._load_optimizers, trainer))
        replace_method(
            trainer.fit_loop,
            "on_advance_end",
            partial(self._stop.before_epoch_end, trainer, partial(self._before_epoch_end, trainer)),
        )
        replace_method(trainer.fit_loop, "on_run_end", partial(self._stop.around_training_end, trainer))
        replace_method(trainer.strategy, "on_train_start", partial(self._continue, trainer))
        replace_method(trainer.strategy, "save_checkpoint", partial(self._write, trainer))
        if any(map(_saves_on_exception, trainer.callbacks)):
            # Takes some microseconds in each step, and only a save on an exception needs it.
            replace_method(epoch_loop, "_on_before_fetch", self._before_fetch)

    def failed(self, exception: BaseException) -> None:
        """Note that an exception ends the run. Checkpoints that are saved after it may hold an unfinished batch."""
        self._exception = exception

    # -- saving ---------------------------------------------------------------------------------

    def save(self, trainer: Any, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the section to a checkpoint. Called on every rank.

        Args:
            trainer: The Trainer.
            module: The LightningModule.
            checkpoint: The checkpoint that Lightning is about to save; changed in place.
        """
        moment = moment_of(trainer, self._validated)
        if self._stop.state is not None and not moment.inside_epoch:
            moment = Moment.STOPPED
        remove_functions(checkpoint)
        reasons: list[str] = []
        mine: dict[str, Any] | None = None
        left: Remaining | None = None
        try:
            if not (moment is Moment.VALIDATION_END and self._stop.validates):  # a longer training omits these hooks
                left, reasons = remaining(trainer, moment, self._exception)
            remembered, not_remembered = self._remembered.save(trainer)
            reasons += not_remembered
            mine = {
                **self._changing(trainer, moment, left),
                "remaining": None if left is None else left.saved(),
                "requests": dict(self._requests),
                "running_workers": running_workers(trainer),
                "seeds": save_seeds(trainer),
                "gradients": save_gradients(trainer, module, moment),
                "pruning": save_pruning(trainer, module),
                "settings": save_settings(trainer, self._initial_settings),
                "optimizers": describe_optimizers(trainer),
                "searches": self._searches.save(trainer, module),
                "remembered": remembered,
            }
            reasons += self._reasons(trainer, module, moment, remembered)
            if moment is Moment.INSIDE_BATCH:
                repeat_last_batch(trainer, checkpoint)
        except Exception as error:  # Lightning's internals may change, and a metric of the user may raise any error
            reasons.append(f"the state for an exact resume could not be collected ({type(error).__name__}: {error})")
        ranks = self._from_all_ranks(mine, trainer)
        if trainer.is_global_zero and None in ranks:
            reasons.append(
                "an exception ended the run, so the random states of the other processes could not be collected"
            )
        fit_loop = trainer.fit_loop
        checkpoint[RESUMPTION_SECTION] = {
            "version": VERSION,
            "moment": moment.value,
            "ranks": ranks,
            "reloaded": {
                "train": fit_loop._last_train_dl_reload_epoch,
                "val": fit_loop.epoch_loop.val_loop._last_val_dl_reload_epoch,
            },
            "inexact": reasons,
        }

    def _changing(self, trainer: Any, moment: Moment, left: Remaining | None) -> dict[str, Any]:
        """Return the state that changes with each batch.

        If a validation was interrupted, or a longer training omits it, this is the state before it. If a batch was
        interrupted, only the random states are those before it.
        """
        state = self._stop.state if moment is Moment.STOPPED else None
        if moment is Moment.INSIDE_VALIDATION or (moment is Moment.VALIDATION_END and self._stop.validates):
            state = self._before_validation
        if state is None:
            state = _changing_state(trainer, moment.inside_epoch, needed=left is not None)
            if moment is Moment.INSIDE_BATCH and self._before_batch is not None:
                state["random"] = self._before_batch
        return {**state, "random": encoded_states(state["random"])}

    def _reasons(self, trainer: Any, module: LightningModule, moment: Moment, remembered: Any) -> list[str]:
        """Return the reasons why the state that is saved is not enough for an exact resume."""
        reasons = [*inexact_reasons(trainer, moment), *self._stop.reasons(trainer, moment)]
        if self._of_the_process:  # not before training has begun
            reasons += changed_in_the_process(self._of_the_process)
        if self._initial_optimizers is not None:
            reasons += replaced_since(self._initial_optimizers, trainer)
        if moment is Moment.INSIDE_VALIDATION:
            name = moved(self._versions_before_validation, versions(module))
            if name is not None:
                reasons.append(
                    f"the checkpoint was saved inside a validation, which had changed {name} and is repeated"
                )
        if moment is Moment.INSIDE_BATCH:
            if self._before_batch is None:
                reasons.append("the checkpoint was saved inside a batch, which is repeated with other random numbers")
            reasons += self._remembered.changed_by_fetching(trainer, remembered)
        omitted = self._stop.validates and moment in (Moment.VALIDATION_END, Moment.STOPPED)
        if moment is Moment.INSIDE_VALIDATION or omitted:
            reasons += self._remembered.changed_by_validation(remembered)
        return reasons

    def _from_all_ranks(self, mine: dict[str, Any] | None, trainer: Any) -> list[Any]:
        """Return the state of every rank, with None for ranks whose state cannot be collected."""
        if trainer.world_size == 1 or not (dist.is_available() and dist.is_initialized()):
            return [mine]
        ranks: list[Any] = [None] * trainer.world_size
        if self._exception is None or isinstance(self._exception, SIGTERMException):
            # Only the rank that writes receives them, because the gradients of all ranks take much memory.
            dist.gather_object(mine, ranks if dist.get_rank() == 0 else None, dst=0)
        else:  # the other ranks may be anywhere in the program, so waiting for them might never end
            ranks[trainer.global_rank] = mine
        return ranks

    def _write(self, trainer: Any, original: Callable[..., Any], checkpoint: Any, *args: Any, **kwargs: Any) -> Any:
        """Replaces the strategy's method that writes a checkpoint, from which hooks may have taken weights."""
        section = checkpoint.get(RESUMPTION_SECTION) if isinstance(checkpoint, dict) else None
        if section is not None and self._marks is not None:
            section["inexact"] += moved_and_not_saved(self._marks, trainer.lightning_module, checkpoint)
        return original(checkpoint, *args, **kwargs)

    # -- resuming -------------------------------------------------------------------------------

    def load(self, trainer: Any, checkpoint: dict[str, Any]) -> None:
        """Read the section of a checkpoint from which training resumes, and settle the loops' counts.

        Warns if the resume cannot be exact.

        Args:
            trainer: The Trainer.
            checkpoint: The checkpoint that Lightning is about to restore; changed in place.

        Raises:
            RecordError: If the section is damaged.
        """
        section = checkpoint.get(RESUMPTION_SECTION)
        if section is None:
            _warn(["the checkpoint was saved without DtoolProvenanceCallback and holds no random states"])
            return
        try:
            moment, ranks, reasons = Moment(section["moment"]), list(section["ranks"]), list(section["inexact"])
            known = next((state for state in ranks if state is not None), None)
            if section["version"] != VERSION:
                reasons.append(
                    f"the resume section of the checkpoint has version {section['version']}, and this release of "
                    f"lightning-dtool reads version {VERSION}"
                )
            if section["version"] != VERSION or known is None:
                _warn(reasons)
                return
            rank, loops = trainer.global_rank, checkpoint["loops"]["fit_loop"]
            mine = ranks[rank] if rank < len(ranks) else None
            # Metrics and remaining work must be the same on every rank. Otherwise ranks wait for each other.
            self._saved = {**(mine or {**known, "random": None}), "reloaded": section["reloaded"]}
            self._awaited = dict(self._saved["requests"])
            self._loader_states = loops["state_dict"].get("combined_loader", [])
            self._moment = moment
            self._searches.expect(self._saved["searches"])
            self._expected_optimizers = self._saved["optimizers"]
            reasons += differing_settings(self._saved["settings"], self._initial_settings)
            settle(loops, moment)
            self._delivered = Delivered(checkpoint)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecordError(
                f"The checkpoint's section {RESUMPTION_SECTION!r} cannot be read ({type(error).__name__}: {error}). It "
                "was not written by this package, or is damaged. To resume without it, delete this key from the file."
            ) from error
        if len(ranks) != trainer.world_size:
            reasons.append(f"the number of processes was {len(ranks)} at the save and is {trainer.world_size} now")
        if reasons and trainer.is_global_zero:
            _warn(reasons)

    def _set_up(self, original: Callable[[Any], None], trainer: Any) -> None:
        """Replaces the strategy's `setup`, which converts the module to the Trainer's precision."""
        if self._delivered is not None:
            self._delivered.note(trainer.lightning_module)
        original(trainer)
        self._initial_optimizers = describe_optimizers(trainer)
        self._remembered.begin(trainer)  # before `on_fit_start`, in which finders search and callbacks begin

    def _load_optimizers(self, trainer: Any, original: Callable[[Any], None], checkpoint: Mapping[str, Any]) -> None:
        """Replaces the strategy's method that loads the states of optimizers."""
        expected, self._expected_optimizers = self._expected_optimizers, None
        reasons = differing_optimizers(expected, trainer) if expected is not None else []
        if reasons and trainer.is_global_zero:
            _warn(reasons)  # before loading, which may end in an error that does not say why
        load_optimizers(trainer.strategy, original, checkpoint)
        if self._delivered is not None:
            self._delivered.note_options(trainer.strategy.optimizers)

    def _create_loader(self, stage: str, original: Callable[[], Any]) -> Any:
        """Replaces the method that creates a loader, which may draw random numbers."""
        awaited = self._awaited.get(stage)
        if awaited is not None:
            restore(awaited)
        self._requests[stage] = awaited or random_states()
        created = original()
        self._remembered.loader_created(stage, created)
        return created

    def _before_fetch(self, original: Callable[[], Any]) -> Any:
        """Replaces the hook before a batch is fetched."""
        self._before_batch = raw_states()
        return original()

    def _begin_validation(self, trainer: Any, original: Callable[[], Any]) -> Any:
        """Replaces the method that begins a validation, since a checkpoint may be saved before it ends."""
        self._before_validation = _changing_state(trainer, inside_epoch=True)
        self._stop.before_validation(trainer)
        self._versions_before_validation = versions(trainer.lightning_module)
        self._validated = False
        if not trainer.sanity_checking:
            self._remembered.note_before_validation()
        return original()

    def _before_epoch_end(self, trainer: Any) -> dict[str, Any]:
        """Return the state from which a longer training goes on, when an epoch ends before its last batch."""
        if self._stop.validates and self._before_validation is not None:
            return self._before_validation
        return _changing_state(trainer, inside_epoch=True)

    def _end_validation(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Replaces the method that calls the hooks `on_validation_end`, so that it runs before any callback's."""
        self._validated = True
        return original(*args, **kwargs)

    def _continue(self, trainer: Any, original: Callable[[], Any]) -> Any:
        """Replaces the strategy's `on_train_start`, the last hook before the first epoch."""
        result = original()
        if in_trial(trainer):
            return result
        self._remembered.start()
        self._of_the_process = of_the_process()
        saved, self._saved = self._saved, None
        if saved is not None and self._moment is not None:
            self._awaited = {}
            module, moment = trainer.lightning_module, self._moment
            reasons = self._delivered.put_back(trainer, module) if self._delivered is not None else []
            self._delivered = None
            reasons += restore_pruning(trainer, module, saved["pruning"])
            reasons += self._searches.restore(trainer, module)
            reasons += restore_settings(trainer, saved["settings"], self._initial_settings)
            reasons += self._remembered.restore(trainer, saved["remembered"])
            reasons += restore_measured(trainer, module, saved["measured"])
            restore_gradients(module, saved["gradients"])
            fit_loop = trainer.fit_loop
            fit_loop._last_train_dl_reload_epoch = saved["reloaded"]["train"]
            fit_loop.epoch_loop.val_loop._last_val_dl_reload_epoch = saved["reloaded"]["val"]
            if moment.inside_epoch:
                restore_inside_epoch(fit_loop)
            else:
                restore_between_epochs(fit_loop, self._loader_states)
            self._loader_states = []
            start_workers(trainer, saved["running_workers"])
            restore_seeds(trainer, saved["seeds"])
            if moment.inside_epoch:
                begin_averaging(trainer)
            restore_generators(trainer, saved["generators"])
            if saved["random"] is not None:
                restore(saved["random"])
            if saved["remaining"] is not None:
                reasons += run_remaining(trainer, saved["remaining"])
                reset_ended(module, saved["measured"])
            do_remaining_work(fit_loop, moment)
            if reasons and trainer.is_global_zero:
                _warn(reasons)
        self._marks = marks(trainer.lightning_module)
        return result


def _changing_state(trainer: Any, inside_epoch: bool, needed: bool = False) -> dict[str, Any]:
    """Return the state that changes with each batch, with the random states not encoded yet."""
    return {
        "random": raw_states(),
        "generators": save_generators(trainer),
        "measured": save_measured(trainer, trainer.lightning_module, inside_epoch, needed),
    }


def _saves_on_exception(callback: Any) -> bool:
    if isinstance(callback, ModelCheckpoint):
        return bool(getattr(callback, "save_on_exception", False))
    return type(callback).__name__ == "OnExceptionCheckpoint"


def _warn(reasons: list[str]) -> None:
    rerun.report("doubts", reasons=reasons)
    text = "; ".join(dict.fromkeys(reasons))
    warnings.warn(
        f"Training resumes, but may differ from an uninterrupted run: {text}.",
        ProvenanceWarning,
        stacklevel=2,
    )
