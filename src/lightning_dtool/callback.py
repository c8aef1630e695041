"""DtoolProvenanceCallback: when things happen in a Lightning run. How they are done is in other rooms."""

import json
import os
import tempfile
import uuid
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from torch.optim import Optimizer

from lightning_dtool import rerun
from lightning_dtool._public import public
from lightning_dtool.capture.recorder import Recorder
from lightning_dtool.checkpoint_io import DtoolCheckpointIO, Publication, Retention
from lightning_dtool.errors import (
    ConfigurationError,
    LightningDtoolError,
    ProvenanceWarning,
    UnsupportedStrategyError,
)
from lightning_dtool.items import BEST_TAG, LAST_TAG
from lightning_dtool.namespaces import refuse_other_namespace
from lightning_dtool.record import DatasetReference
from lightning_dtool.rehearsal.callback import Rehearsal, rehearse
from lightning_dtool.resuming.resumption import Resumption
from lightning_dtool.store import FrozenDataset, ensure_writable, is_dataset_uri, normalize_uri

_fits = {"explicit": 0, "all": 0}
"""Recorded fits of this process so far: of callbacks that scripts have made themselves, and of all."""


@dataclass(frozen=True)
class _Published:
    """What a run left: plain values, which another process can be told."""

    uris: list[str] = field(default_factory=list)
    by_path: dict[str, str] = field(default_factory=dict)
    best: str | None = None
    last: str | None = None


@public
class DtoolProvenanceCallback(Callback):
    """Write every checkpoint of a Trainer as a frozen dtool dataset that says how the model came to be.

    The Trainer's ModelCheckpoint stays in charge of which checkpoints there are. Training is not changed:
    with and without this callback the weights are bitwise the same.

    Args:
        base_uri: Where the datasets go, for example `file:///models` or `s3://lab-models`. It must exist; that
            and the right to write there are checked before training starts.
        retention: `"mirror"` (default): when ModelCheckpoint drops a checkpoint, its dataset goes too, after the
            next one is safe; a URI is announced only when the run has ended. `"all"`: every dataset stays.
        name: Beginning of the datasets' names. Default: the name of the LightningModule's class.
        strict: Raise when a checkpoint could not be published. Default: warn and go on training; the plain
            checkpoint file is kept in its place.
        background: Publish while training goes on (default). `False` waits for each dataset, which is streamed into
            the store and needs no memory for a copy.
        staging_memory: The most bytes that the copy of a checkpoint may take, which is published in the background.
            One that is larger is published as with `background=False`. Default: what the machine, or the container,
            has available at the time. There is one copy at a time: when saving outruns the store, training waits.
        save_initial_weights: Keep the weights that training begins with, as an item of every checkpoint's dataset:
            then a run can be repeated that was never seeded. Costs a copy of the weights in memory, and their size
            in every dataset.
        trace: Keep digests of all parameters after each optimizer step, as an item of every checkpoint's dataset:
            then `lightning-dtool reproduce` can say at which step another training parted. Costs a pass over all
            weights in each step, and memory and space that grow with the steps: for short trainings.

    Example:
        ```python
        provenance = DtoolProvenanceCallback("file:///models")
        trainer = Trainer(max_epochs=10, callbacks=[provenance])
        trainer.fit(model, data)
        provenance.best_uri
        ```
    """

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
    ) -> None:
        self.base_uri = normalize_uri(rerun.redirect_base_uri(base_uri))
        self.retention: Retention = retention
        self.name = name
        self.strict = strict
        self.background = background
        self.save_initial_weights = save_initial_weights
        self.trace = trace
        self.staging_memory = staging_memory
        # Checked here, not when the Trainer starts: a misspelt option is the user's, at this line.
        DtoolCheckpointIO(self.base_uri, retention=retention, staging_memory=staging_memory)
        self._io: DtoolCheckpointIO | None = None
        self._recorder: Recorder | None = None
        self._resumption: Resumption | None = None
        self._rehearsal: Rehearsal | None = None
        self._fit_index: int | None = None
        self._outcome = "finished"
        self._ended = False
        self._unprepared = False
        self._checkpoint_callbacks: list[Any] = []
        self._told: _Published | None = None
        # `ddp_spawn` and `ddp_fork` train in child processes, whose callback is lost: they leave word here.
        self._handover = Path(tempfile.gettempdir()) / f"lightning-dtool-{uuid.uuid4()}.json"
        self._home_process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to a run in this process: a model that is pickled whole takes its Trainer along."""
        gone = dict.fromkeys(("_io", "_recorder", "_resumption", "_rehearsal"))
        return {**self.__dict__, **gone, "_checkpoint_callbacks": [], "_told": self._result()}

    # -- what users ask -------------------------------------------------------------------------

    @property
    def best_uri(self) -> str | None:
        """URI of the best checkpoint, as the (first) ModelCheckpoint judges; None before there is one."""
        return self._result().best

    @property
    def last_uri(self) -> str | None:
        """URI of the latest checkpoint that is still kept; None before there is one."""
        return self._result().last

    @property
    def uris(self) -> list[str]:
        """URIs of all checkpoints that this callback has published and that are still kept, oldest first."""
        return list(self._result().uris)

    def uri_for(self, path: str | os.PathLike[str]) -> str | None:
        """Return the URI of the dataset behind one of the Trainer's checkpoint paths, None if there is none.

        Args:
            path: For example `trainer.checkpoint_callback.best_model_path`.
        """
        publication = self._io.publication_for(path) if self._io is not None else None
        return _uri(publication) if publication else self._result().by_path.get(os.path.abspath(path))

    @property
    def errors(self) -> list[Exception]:
        """What went wrong while publishing; training went on."""
        return list(self._io.errors) if self._io is not None else []

    # -- when things happen ---------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Install the CheckpointIO; before a fit, make sure that the base URI can be written."""
        refuse_other_namespace(trainer, "trainer")
        refuse_other_namespace(pl_module, "model")
        fitting = stage == "fit"
        if fitting and isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
            raise UnsupportedStrategyError(
                f"{type(trainer.strategy).__name__} writes sharded checkpoints past Lightning's CheckpointIO, so they "
                "cannot become datasets. Use a strategy with whole checkpoints (auto, ddp), or leave this callback out."
            )
        if fitting and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._check_store(trainer)
        io = self._install(trainer)
        if not fitting:
            if self._io is not io:  # saved without training, by hand: what can be known is observed then
                recorder = Recorder(pl_module)
                io.describe = lambda checkpoint, path: recorder.describe(trainer, checkpoint, path)
            return
        self._io = io
        self._recorder = None
        self._resumption = Resumption()
        self._resumption.install(trainer)
        self._fit_index = self._count_fit()
        self._rehearsal = rehearse(trainer, io, self._fit_index)
        self._outcome = "finished"
        self._ended = False
        self._told = None
        self._checkpoint_callbacks = list(trainer.checkpoint_callbacks)
        io.loaded = None
        io.background = self.background and not any(map(_uploads_at_once, trainer.loggers))
        io.describe = lambda checkpoint, path: self._begun(pl_module).describe(trainer, checkpoint, path)
        io.on_flushed = lambda: self._finish(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the random states and the weights that training begins with."""
        if self._rehearsal is not None:
            self._rehearsal.begin_as_recorded(pl_module)
        quiet = trainer.fast_dev_run or trainer.barebones  # type: ignore[attr-defined]
        if trainer.is_global_zero and not quiet:
            self._begun(pl_module).fit_start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Observe the run: model, optimizers and data are ready, and nothing has been changed yet."""
        if self._recorder is not None:
            self._recorder.train_start(trainer)
        self._unprepared = trainer.is_global_zero and bool(self._checkpoint_callbacks)
        self._prepare(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Watch the loss of the first batch."""
        if self._recorder is not None:
            self._recorder.batch_start()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Look at a loss of the first batch."""
        if self._recorder is not None:
            self._recorder.before_backward(loss)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Note the learning rates that a step uses."""
        if self._recorder is not None:
            self._recorder.before_optimizer_step(optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        if self._recorder is not None:
            self._recorder.batch_end(trainer, outputs)
        if self._unprepared and trainer.global_step:
            self._prepare(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add to the last epoch what was logged at its very end."""
        if self._recorder is not None:
            self._recorder.epoch_start(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the epoch has measured."""
        if self._recorder is not None:
            self._recorder.epoch_end(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add to the checkpoint what an exact resume needs; on every rank."""
        if self._resumption is not None and trainer.state.fn == TrainerFn.FITTING:
            self._resumption.save(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Prepare to go on exactly where the checkpoint was saved."""
        resumes = trainer.state.fn == TrainerFn.FITTING and not (self._io is not None and self._io.transient)
        if self._resumption is not None and resumes:
            self._resumption.load(trainer, checkpoint)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remember how the run ended; what is under way is finished in the CheckpointIO's teardown."""
        if self._resumption is not None:
            self._resumption.failed(exception)
        self._outcome = "interrupted" if isinstance(exception, KeyboardInterrupt | SIGTERMException) else "failed"
        if isinstance(exception, rerun.TargetReachedError):
            self._outcome = "finished"
        if self._recorder is not None:
            self._recorder.stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let every rank know the URIs, so that each can load by them."""
        if stage == "fit":
            self._told = trainer.strategy.broadcast(self._result())

    # -- how ------------------------------------------------------------------------------------

    def _prepare(self, trainer: Trainer) -> None:
        """Let memory for checkpoints be made ready: when training starts, and when optimizers have their states."""
        if not self._unprepared or self._io is None:
            return
        expected: list[Any] = [trainer.lightning_module.state_dict()]
        if not all(getattr(callback, "save_weights_only", False) for callback in self._checkpoint_callbacks):
            expected += [list(optimizer.state.values()) for optimizer in trainer.optimizers]
        self._io.expect(expected)
        self._unprepared = not trainer.global_step

    def _check_store(self, trainer: Trainer) -> None:
        """Find out on rank 0 whether the store can be written, and fail on every rank if not."""
        error: Exception | None = None
        if trainer.is_global_zero:
            try:
                ensure_writable(self.base_uri)
            except LightningDtoolError as found:
                error = found
        error = trainer.strategy.broadcast(error)
        if error is not None:
            raise error

    def _install(self, trainer: Trainer) -> DtoolCheckpointIO:
        present = trainer.strategy.checkpoint_io
        if not isinstance(present, DtoolCheckpointIO):
            mine = DtoolCheckpointIO(
                self.base_uri,
                present,
                self.retention,
                self.name,
                self.strict,
                self.background,
                self.staging_memory,
            )
            trainer.strategy.checkpoint_io = mine
            return mine
        if present.base_uri != self.base_uri:
            raise ConfigurationError(
                f"This Trainer already writes its checkpoints to {present.base_uri}; a second base URI "
                f"({self.base_uri}) is not supported. Copy the datasets with `dtool cp` instead."
            )
        return present

    def _count_fit(self) -> int:
        """Return which fit of this process it is, counted over the callbacks that scripts have made themselves."""
        number = _fits["explicit"]
        _fits["explicit"] += 1
        _fits["all"] += 1
        return number

    def _begun(self, module: LightningModule) -> Recorder:
        if self._recorder is None:
            parent = _parent(self._io.loaded) if self._io is not None else None
            trace = self.trace or (self._rehearsal is not None and self._rehearsal.traces)
            self._recorder = Recorder(module, parent, self._fit_index, self.save_initial_weights, trace)
        return self._recorder

    def _finish(self, trainer: Trainer) -> None:
        """Everything is written: say which checkpoint is which, how the run ended, and where they are."""
        if self._io is None or self._recorder is None or self._ended:
            return
        self._ended = True
        self._recorder.end(self._outcome)
        result = self._result()
        for publication in self._io.publications:
            if publication.available and publication.record.run.uuid == self._recorder.run_uuid:
                self._mark(publication, _uri(publication) == result.best, _uri(publication) == result.last)
        if os.getpid() != self._home_process:
            self._handover.write_text(json.dumps(asdict(result)))
        if result.uris:
            self._announce(trainer, result)

    def _mark(self, publication: Publication, best: bool, last: bool) -> None:
        dataset = publication.dataset
        if dataset is None:
            return
        try:
            dataset.put_annotation("run_status", self._outcome)
            for tag, true in ((BEST_TAG, best), (LAST_TAG, last)):
                if true:
                    dataset.put_tag(tag)
        except LightningDtoolError as error:
            warnings.warn(f"{dataset.uri}: its tags could not be written. {error}", ProvenanceWarning, stacklevel=2)

    def _announce(self, trainer: Trainer, result: _Published) -> None:
        uri = result.best or result.last or ""
        rank_zero_info(
            f"Published with provenance: {len(result.uris)} checkpoint(s) in {self.base_uri}\n`dtool_uri`: {uri}"
        )
        for logger in trainer.loggers:
            try:
                _log_uri(logger, uri)
            except Exception as error:  # a logger may raise anything, and the run is over
                warnings.warn(
                    f"{type(logger).__name__} did not take the URI {uri}: {error}", ProvenanceWarning, stacklevel=2
                )

    def _result(self) -> _Published:
        """Return what was published, from wherever word of it came."""
        if self._io is not None and self._io.publications:
            return self._account(self._io)
        if self._handover.exists():  # newer than what an earlier fit has told
            self._told = _Published(**json.loads(self._handover.read_text()))
            self._handover.unlink()
        return self._told or _Published()

    def _account(self, io: DtoolCheckpointIO) -> _Published:
        kept = [publication for publication in io.publications if publication.available]
        best = [
            _uri(publication)
            for callback in self._checkpoint_callbacks
            if (path := getattr(callback, "best_model_path", ""))
            and (publication := io.publication_for(path)) is not None
        ]
        return _Published(
            uris=[_uri(publication) or "" for publication in kept],
            by_path={os.path.abspath(path): _uri(owner) or "" for owner in kept for path in owner.paths},
            best=best[0] if best else None,
            last=_uri(kept[-1]) if kept else None,
        )


class AutomaticProvenanceCallback(DtoolProvenanceCallback):
    """A `DtoolProvenanceCallback` that no script has asked for; see `lightning_dtool.attach`."""

    @property
    def state_key(self) -> str:
        """A key of its own: two callbacks with one key are an error in Lightning."""
        return "AutomaticProvenanceCallback"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Step back for a callback that the user has added, and for a run that cannot be recorded."""
        present = trainer.strategy.checkpoint_io
        if isinstance(present, DtoolCheckpointIO):
            self.base_uri = present.base_uri  # the user's plug-in says where; this callback knows more to say
        if any(isinstance(found, DtoolProvenanceCallback) and found is not self for found in _callbacks(trainer)):
            self._step_back(trainer)
            return
        try:
            super().setup(trainer, pl_module, stage)
        except UnsupportedStrategyError as error:
            warnings.warn(f"Nothing is recorded of this run. {error}", ProvenanceWarning, stacklevel=2)
            self._step_back(trainer)

    def _count_fit(self) -> int:
        """Return which fit of this process it is, counted over all callbacks."""
        number = _fits["all"]
        _fits["all"] += 1
        return number

    def _step_back(self, trainer: Trainer) -> None:
        # Another list: Lightning is walking through this one.
        trainer.callbacks = [found for found in _callbacks(trainer) if found is not self]  # type: ignore[attr-defined]


def _uri(publication: Publication) -> str | None:
    return publication.dataset.uri if publication.available and publication.dataset is not None else None


def _parent(path: str | None) -> DatasetReference | None:
    """Return the dataset behind the checkpoint that a run resumes from, if it is one."""
    if path is None:
        return None
    if not is_dataset_uri(path):
        # Lightning's own path may be a link into a dataset: <dataset>/data/checkpoint.ckpt
        path = str(Path(path).resolve().parent.parent)
    try:
        return DatasetReference.of(FrozenDataset.from_uri(path))
    except LightningDtoolError:  # a plain file
        return None


def _uploads_at_once(logger: Logger) -> bool:
    """Return True if a logger reads checkpoint files as soon as they are saved (W&B, MLflow with `log_model`)."""
    reads = type(logger).after_save_checkpoint is not Logger.after_save_checkpoint
    return reads and bool(getattr(logger, "_log_model", True))


def _log_uri(logger: Logger, uri: str) -> None:
    if isinstance(logger, TensorBoardLogger):
        # `log_hyperparams` would overwrite the run's `hp_metric` with -1.
        logger.experiment.add_text("dtool_uri", uri)
    else:
        logger.log_hyperparams({"dtool_uri": uri})
    logger.save()


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined, no-any-return]
