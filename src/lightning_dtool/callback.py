"""The callback that records a run from Lightning's hooks. Other modules do the work of each hook."""

import contextlib
import os
import warnings
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from torch.optim import Optimizer

from lightning_dtool import rerun, watch
from lightning_dtool._public import public
from lightning_dtool.capture.fits import next_fit_index
from lightning_dtool.capture.parents import resumed_dataset
from lightning_dtool.capture.provenance import Description
from lightning_dtool.capture.recorder import Recorder
from lightning_dtool.capture.run_status import FINISHED, status_after
from lightning_dtool.checkpoint_io import DtoolCheckpointIO, RunHooks
from lightning_dtool.errors import (
    ConfigurationError,
    LightningDtoolError,
    ProvenanceWarning,
    UnsupportedStrategyError,
)
from lightning_dtool.items import BEST_TAG, LAST_TAG
from lightning_dtool.namespaces import refuse_other_namespace
from lightning_dtool.publishing.account import Publication
from lightning_dtool.publishing.announcing import annotate, announce
from lightning_dtool.publishing.final import FinalCheckpoint
from lightning_dtool.publishing.linking import Links
from lightning_dtool.publishing.publisher import Retention
from lightning_dtool.publishing.results import Result, Results
from lightning_dtool.publishing.schedule import why_nothing_is_saved
from lightning_dtool.publishing.worker import TIMEOUT
from lightning_dtool.random_states import random_states_kept
from lightning_dtool.record import Gaps
from lightning_dtool.recovery.telling import tell_of_unfinished
from lightning_dtool.rehearsal.callback import RehearsalCallback, begin_rehearsal
from lightning_dtool.resuming.resumption import Resumption
from lightning_dtool.store import ensure_writable, hurry, normalize_uri, relax

watch.install()  # a script imports the callback before it makes its model


@public
class DtoolProvenanceCallback(Callback):
    """Write every checkpoint of a Trainer as a frozen dtool dataset that records how the model was trained.

    The Trainer's ModelCheckpoint callbacks decide when checkpoints are saved and which are kept. This callback does not
    change training: the weights are bitwise the same with and without it.

    Args:
        base_uri: Where the datasets go, for example `file:///models` or `s3://lab-models`. It must exist and be
            writable, which is checked before training starts.
        retention: `"mirror"` (default): when ModelCheckpoint removes a checkpoint, its dataset is deleted after the
            next one is published, and a URI is announced only when the run has ended. `"all"`: every dataset is kept.
        name: Prefix of the datasets' names. Default: the name of the LightningModule's class.
        strict: Raise `PublishError` when a checkpoint could not be published. Default: warn and continue training,
            with a plain checkpoint file at Lightning's path.
        background: Publish a copy of the checkpoint while training continues (default). With `False`, each save waits
            until the dataset is written; the checkpoint is streamed into the store and not copied in memory.
        save_initial_weights: Store the initial weights as an item of every checkpoint's dataset, so that even a run
            without a seed can be reproduced. It takes memory for a copy of the weights, and adds their size to every
            dataset.
        trace: Store digests of all parameters after each optimizer step, as an item of every checkpoint's dataset, so
            that `lightning-dtool reproduce` can report the first step that differs. Each step reads all weights, and
            the memory and the size of the item grow with the number of steps, so use it only for short trainings.
        staging_memory: Maximum size of the copy of a checkpoint, in bytes. A larger checkpoint is published as with
            `background=False`. Default: the memory that the machine, or the container, has available at the save.
            There is only one copy at a time: if a checkpoint is saved before the last copy is written, training waits.
        links: `"auto"` (default): Lightning's paths and the datasets share one copy of each checkpoint, by a link of
            the best kind that the file system has. `"copy"`: each path is a file of its own, which takes the space of
            a second copy.
        publish_timeout: Seconds for which training waits for a store that does not get on with one checkpoint. After
            that, checkpoints are kept as plain files, for `lightning-dtool recover`. Default: 600.
        final: Publish a checkpoint when training has finished, unless its state has been published already. It has no
            file, and works with `Trainer(enable_checkpointing=False)`. After an exception or an interrupt, there is
            none. Default: only what the Trainer saves is published.

    Raises:
        InvalidURIError: If no installed storage broker reads `base_uri`.
        ConfigurationError: If `retention`, `staging_memory`, `links` or `publish_timeout` is invalid.

    Example:
        ```python
        provenance = DtoolProvenanceCallback("models")
        trainer = Trainer(max_epochs=10, callbacks=[provenance])
        trainer.fit(model, data)
        provenance.best_uri
        ```
    """

    _explicit = True
    """Whether a script creates the callback."""

    def __init__(
        self,
        base_uri: str,
        retention: Retention = "mirror",
        name: str | None = None,
        strict: bool = False,
        background: bool = True,
        save_initial_weights: bool = False,
        trace: bool = False,
        staging_memory: int | None = None,
        final: bool = False,
        links: Links = "auto",
        publish_timeout: float = TIMEOUT,
    ) -> None:
        self.base_uri = normalize_uri(rerun.redirect_base_uri(base_uri))
        self.retention: Retention = retention
        self.name = name
        self.strict = strict
        self.background = background
        self.save_initial_weights = save_initial_weights
        self.trace = trace
        self.staging_memory = staging_memory
        self.final = final
        self.links: Links = links
        self.publish_timeout = publish_timeout
        # Check the arguments now, so that the traceback shows the line with the mistake.
        DtoolCheckpointIO(
            self.base_uri,
            retention=retention,
            staging_memory=staging_memory,
            links=links,
            publish_timeout=publish_timeout,
        )
        self._io: DtoolCheckpointIO | None = None
        self._recorder: Recorder | None = None
        self._resumption: Resumption | None = None
        self._rehearsal: RehearsalCallback | None = None
        self._fit_index: int | None = None
        self._outcome = FINISHED
        self._finished = False
        self._unprepared = False
        self._warned_that_nothing_is_saved = False
        self._checkpoint_callbacks: list[Any] = []
        self._results = Results()
        self._final = FinalCheckpoint()
        self._hook_gaps = Gaps()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the objects of a run: a model that is pickled as a whole includes its Trainer and callbacks."""
        gone = dict.fromkeys(("_io", "_recorder", "_resumption", "_rehearsal"))
        results = self._results.carried(self._result())
        return {**self.__dict__, **gone, "_checkpoint_callbacks": [], "_results": results}

    # -- for users ------------------------------------------------------------------------------

    @property
    def best_uri(self) -> str | None:
        """URI of the best checkpoint according to the first ModelCheckpoint of the latest fit. None if there is none.

        Without a ModelCheckpoint that has saved, it is the checkpoint that `final=True` has published.
        """
        return self._result().best

    @property
    def last_uri(self) -> str | None:
        """URI of the latest checkpoint of the latest fit that is still kept. None if there is none yet."""
        return self._result().last

    @property
    def uris(self) -> list[str]:
        """URIs of all checkpoints that this callback has published and that are still kept, oldest first.

        They are those of all fits and of all Trainers with this callback.
        """
        return list(self._result().uris)

    def uri_for(self, path: str | os.PathLike[str]) -> str | None:
        """Return the URI of the dataset for one of the Trainer's checkpoint paths.

        Args:
            path: For example `trainer.checkpoint_callback.best_model_path`. If several Trainers have saved there, the
                latest counts.

        Returns:
            The URI. None if there is no dataset for the path, or if it is not frozen yet.
        """
        publication = self._results.publication_for(path)
        return publication.uri if publication else self._results.received_for(path)

    @property
    def errors(self) -> list[Exception]:
        """Errors that prevented checkpoints from being published while training continued, in all fits, oldest first.

        Those of a fit in child processes (`ddp_spawn`, `ddp_fork`) are only shown as warnings.
        """
        return self._results.errors

    # -- Lightning's hooks ----------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Install the CheckpointIO. Before a fit, check that the base URI can be written."""
        refuse_other_namespace(trainer, "trainer")
        refuse_other_namespace(pl_module, "model")
        relax()
        fitting = stage == "fit"
        if fitting and isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
            raise UnsupportedStrategyError(
                f"{type(trainer.strategy).__name__} writes sharded checkpoints, which do not pass through Lightning's "
                "CheckpointIO and cannot become datasets. Use a strategy with whole checkpoints (auto, ddp), or remove "
                "this callback."
            )
        if fitting and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._check_store(trainer)
        io = self._install(trainer)
        if not fitting:
            if self._io is not io:  # in case the script saves a checkpoint without training
                recorder = Recorder(pl_module)
                io.begin_run(RunHooks(lambda checkpoint, path: recorder.describe(trainer, checkpoint, path)))
            return
        self._io = io
        self._recorder = None
        self._resumption = Resumption()
        self._resumption.install(trainer)
        self._fit_index = next_fit_index(explicit=self._explicit)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if self.final and self._final not in callbacks:
            # The last callback, as ModelCheckpoint is. In a new list: Lightning is iterating over this one.
            trainer.callbacks = [*callbacks, self._final]  # type: ignore[attr-defined]
        self._rehearsal = begin_rehearsal(trainer, pl_module, io, self._fit_index)
        self._outcome = FINISHED
        self._finished = False
        self._results.begin(io.account, io.failures)
        self._checkpoint_callbacks = list(trainer.checkpoint_callbacks)
        self._hook_gaps = Gaps()
        rehearsal = self._rehearsal
        io.begin_run(
            RunHooks(
                describe=lambda checkpoint, path: self._describe(trainer, pl_module, checkpoint, path),
                is_wanted=rehearsal.is_target if rehearsal is not None else None,
                on_flushed=lambda: self._finish(trainer),
                background=self.background,
                strict=rehearsal is not None,
                load_instead=rehearsal.parent if rehearsal is not None else None,
            )
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Observe the random states and the initial weights, and say if nothing will be published."""
        if self._rehearsal is not None:
            self._rehearsal.restore_start(pl_module)
        self._foretell(trainer)
        saves_nothing = trainer.fast_dev_run or trainer.barebones  # type: ignore[attr-defined]
        if trainer.is_global_zero and not saves_nothing:
            self._recorder_of(pl_module).fit_start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Observe the run. Model, optimizers and data are ready, and no step has been taken."""
        if self._recorder is not None:
            self._recorder.train_start(trainer)
            if self._rehearsal is not None and self._recorder.data is not None:
                self._rehearsal.recognise(self._recorder.data)
        self._unprepared = trainer.is_global_zero and bool(self._checkpoint_callbacks)
        self._prepare(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at what has changed when an epoch begins, and begin to observe the loss of the first batch."""
        if self._recorder is not None:
            self._recorder.batch_start(trainer)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Observe the graph of the first batch's loss."""
        if self._recorder is not None:
            self._recorder.before_backward(trainer, loss)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Record the learning rates that a step uses."""
        if self._recorder is not None:
            self._recorder.before_optimizer_step(trainer, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        if self._recorder is not None:
            self._recorder.batch_end(trainer, outputs)
        if self._unprepared and trainer.global_step:
            self._prepare(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add to the previous epoch the metrics that were logged after its `on_train_epoch_end`."""
        if self._recorder is not None:
            self._recorder.epoch_start(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the epoch's metrics."""
        if self._recorder is not None:
            self._recorder.epoch_end(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the state for an exact resume to the checkpoint. Lightning calls this on every rank."""
        if self._resumption is not None and trainer.state.fn == TrainerFn.FITTING:
            self._resumption.save(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Prepare to resume exactly where the checkpoint was saved."""
        resumes = trainer.state.fn == TrainerFn.FITTING and not (self._io is not None and self._io.loads_tuner_state)
        if self._resumption is not None and resumes:
            self._resumption.load(trainer, checkpoint)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Note how the run ended. The CheckpointIO's teardown finishes what is being published.

        After an interruption (Ctrl-C, or a signal of the cluster), a store that does not answer is not waited for.
        """
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            hurry()
        if self._resumption is not None:
            self._resumption.failed(exception)
        self._outcome = FINISHED if isinstance(exception, rerun.TargetReachedError) else status_after(exception)
        if self._recorder is not None:
            self._recorder.stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Send the URIs to every rank, so that each rank can load the checkpoints."""
        if stage == "fit":
            result = trainer.strategy.broadcast(self._result())
            if not trainer.is_global_zero:
                self._results.receive(result)

    # -- private methods -------------------------------------------------------------------------

    def _prepare(self, trainer: Trainer) -> None:
        """Prepare memory for checkpoints when training starts, and again when the optimizers have states."""
        if not self._unprepared or self._io is None:
            return
        self._unprepared = not trainer.global_step
        # A module may override `state_dict`, and raise or draw random numbers there. It will be called at the save.
        with contextlib.suppress(Exception), random_states_kept():
            expected: list[Any] = [trainer.lightning_module.state_dict()]
            if not all(getattr(callback, "save_weights_only", False) for callback in self._checkpoint_callbacks):
                expected += [list(optimizer.state.values()) for optimizer in trainer.optimizers]
            self._io.prepare(expected)

    def _foretell(self, trainer: Trainer) -> None:
        """Say before training if nothing will be published."""
        reason = why_nothing_is_saved(trainer)
        measures_only = trainer.fast_dev_run or trainer.barebones  # type: ignore[attr-defined]
        self._warned_that_nothing_is_saved = reason is not None
        if reason is None or not trainer.is_global_zero or rerun.current_plan() is not None:
            return
        if measures_only:
            rank_zero_info(f"Nothing is recorded or published: {reason}.")
        elif not self.final:
            warnings.warn(
                f"Nothing will be published, and this run leaves no record: {reason}. {self._how_to_publish}",
                ProvenanceWarning,
                stacklevel=2,
            )

    @property
    def _how_to_publish(self) -> str:
        return (
            "Add a ModelCheckpoint, or publish a checkpoint at the end of training with "
            "DtoolProvenanceCallback(final=True). What the script saves with trainer.save_checkpoint is published, too."
        )

    def _describe(self, trainer: Trainer, module: LightningModule, checkpoint: Any, path: str) -> Description:
        recorder = self._recorder_of(module)
        current = trainer.lightning_module
        if current is not None and current is not module:  # the script has evaluated another module since
            recorder = Recorder(current)
        description = recorder.describe(trainer, checkpoint, path)
        gaps = [*description.record.gaps, *self._hook_gaps]
        return replace(description, record=description.record.model_copy(update={"gaps": gaps}))

    def _check_store(self, trainer: Trainer) -> None:
        """Check on rank 0 that the store is writable. If it is not, raise on every rank."""
        error: Exception | None = None
        if trainer.is_global_zero:
            try:
                ensure_writable(self.base_uri)
                tell_of_unfinished(self.base_uri, rank_zero_info)
            except LightningDtoolError as found:
                error = found
        error = trainer.strategy.broadcast(error)
        if error is not None:
            raise error

    def _install(self, trainer: Trainer) -> DtoolCheckpointIO:
        present = trainer.strategy.checkpoint_io
        if not isinstance(present, DtoolCheckpointIO):
            installed = DtoolCheckpointIO(
                self.base_uri,
                checkpoint_io=present,
                retention=self.retention,
                name=self.name,
                strict=self.strict,
                background=self.background,
                staging_memory=self.staging_memory,
                links=self.links,
                publish_timeout=self.publish_timeout,
            )
            trainer.strategy.checkpoint_io = installed
            return installed
        if present.base_uri != self.base_uri:
            raise ConfigurationError(
                f"This Trainer already writes its checkpoints to {present.base_uri}; a second base URI "
                f"({self.base_uri}) is not supported. Copy the datasets with `dtool cp` instead."
            )
        return present

    def _recorder_of(self, module: LightningModule) -> Recorder:
        """Return the recorder of this run. The first call creates it."""
        if self._recorder is None:
            trace = self.trace or (self._rehearsal is not None and self._rehearsal.traces)
            resumed_from = self._io.resumed_from if self._io is not None else None
            parent = resumed_dataset(resumed_from)
            self._recorder = Recorder(
                module, parent, resumed_from, self._fit_index, self.save_initial_weights, trace, self._saver_of
            )
        return self._recorder

    def _saver_of(self, path: str) -> str | None:
        publication = self._io.publication_for(path) if self._io is not None else None
        return publication.run_uuid if publication is not None else None

    def _finish(self, trainer: Trainer) -> None:
        """Write the annotations and tags that are known only at the end of a run, and announce the URIs."""
        if self._io is None or self._recorder is None or self._finished:
            return
        self._finished = True
        result = self._result()
        kept = self._kept_of_this_run()
        held = [(entry.uri, str(entry.local_file)) for entry in kept if entry.uri is not None and entry.local_file]
        self._recorder.end(self._outcome, sorted(held, key=lambda entry: entry[0] != result.best))
        annotate(kept, self._outcome, {BEST_TAG: result.best, LAST_TAG: result.last})
        self._results.send_to_parent(result)
        if kept:
            announce(trainer.loggers, self.base_uri, len(kept), result.best or result.last or "")
        elif self._outcome == FINISHED and self._rehearsal is None and not self._saved_by_this_run():
            self._say_that_nothing_was_saved(trainer)

    def _saved_by_this_run(self) -> list[Publication]:
        """Return the publications of the latest fit, including those that failed or were deleted."""
        run = self._recorder.run_uuid if self._recorder is not None else None
        if self._io is None or run is None:
            return []
        return [publication for publication in self._io.publications if publication.run_uuid == run]

    def _kept_of_this_run(self) -> list[Publication]:
        return [publication for publication in self._saved_by_this_run() if publication.uri is not None]

    def _say_that_nothing_was_saved(self, trainer: Trainer) -> None:
        failed = self._io is not None and self._io.errors
        if trainer.global_step and not failed and not self._warned_that_nothing_is_saved:
            warnings.warn(
                f"Nothing was published: no checkpoint was saved before the end of training. {self._how_to_publish}",
                ProvenanceWarning,
                stacklevel=2,
            )

    def _result(self) -> Result:
        """Return the URIs published by this process or its `ddp_spawn` child, or received from another rank."""
        kept = self._kept_of_this_run()
        last = kept[-1].uri if kept else None
        paths = [path for found in self._checkpoint_callbacks if (path := getattr(found, "best_model_path", ""))]
        if not paths:
            return self._results.result(last if self.final else None, last)
        publication = self._io.publication_for(paths[0]) if self._io is not None else None
        return self._results.result(publication.uri if publication is not None else None, last)
