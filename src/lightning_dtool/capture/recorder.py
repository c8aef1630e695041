"""A recorder that observes a run and describes its checkpoints."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from torch.optim import Optimizer

from lightning_dtool.capture.changes import ChangeList
from lightning_dtool.capture.code import collect_code, project_modules_changed
from lightning_dtool.capture.data_identity import foreign_data_message, foreign_training_data, training_datasets
from lightning_dtool.capture.ended_runs import remember_run
from lightning_dtool.capture.generator_states import random_states
from lightning_dtool.capture.history import History
from lightning_dtool.capture.hyperparameters import current_hyperparameters
from lightning_dtool.capture.initial_weights import capture_initial_weights, capture_replaced_weights
from lightning_dtool.capture.look import Look
from lightning_dtool.capture.loss_watch import LossWatch
from lightning_dtool.capture.optimizers import Schedule
from lightning_dtool.capture.provenance import Description, Observed, describe, observe_again, observe_run
from lightning_dtool.capture.randomness import AT_IMPORT
from lightning_dtool.capture.trace import Tracer
from lightning_dtool.capture.weights_watch import WeightsWatch
from lightning_dtool.data.datamodule import DtoolDataModule
from lightning_dtool.errors import ProvenanceWarning
from lightning_dtool.items import INITIAL_WEIGHTS_ITEM, RESUMPTION_SECTION, TRACE_ITEM
from lightning_dtool.random_states import random_states_kept
from lightning_dtool.record import Data, DatasetReference, Gaps, InitialWeights, LoadedWeights, Metrics, WeightsSource
from lightning_dtool.redaction.record import redact_mapping
from lightning_dtool.snapshot.copy import snapshot
from lightning_dtool.values.writing import encode_all


class Recorder:
    """Observes a run and describes its checkpoints.

    The callback calls it in the hooks of Lightning, and the other modules of `capture` observe the facts. An error
    becomes a gap of the record and never affects training.

    Args:
        module: The LightningModule, not wrapped by a strategy.
        parent: The checkpoint that the run resumes from, if it is a dataset.
        resumed_from: The path or URI from which the run resumes, if any.
        fit_index: Number of the recorded `fit` in this process, from 0.
        keep_weights: Whether to store the initial weights in every checkpoint dataset.
        trace: Whether to store digests of all parameters after each optimizer step in every checkpoint dataset.
        saver_of: Returns the UUID of the run of this process that has saved the file at a path.
    """

    def __init__(
        self,
        module: LightningModule,
        parent: DatasetReference | None = None,
        resumed_from: str | None = None,
        fit_index: int | None = None,
        keep_weights: bool = False,
        trace: bool = False,
        saver_of: Callable[[str], str | None] = lambda path: None,
    ) -> None:
        self._module = module
        self._fit_index = fit_index
        self._keep_weights = keep_weights
        self._kept: Mapping[str, Any] | None = None
        self._tracer = Tracer(fit_index or 0) if trace else None
        self._parent = parent
        self._resumed_from = resumed_from
        self._moments: dict[str, Any] = {"import": AT_IMPORT}
        self._initial_weights: InitialWeights | None = None
        self._weights_gaps = Gaps()
        self._history = History()
        self._loss = LossWatch(module)
        self._weights = WeightsWatch(module, saver_of)
        self._has_begun = False
        self._epoch_begins = True
        self._epoch_over = False
        self._observed: Observed | None = None
        self._look = Look()
        self._changes = ChangeList()
        self._sources: dict[str, DatasetReference] = {}
        self._foreign: dict[str, None] = {}
        self._gaps = Gaps()
        self._secrets: set[tuple[str, str]] = set()

    # -- the start of the run -------------------------------------------------------------------------

    @random_states_kept()
    def fit_start(self) -> None:
        """Observe the random states and the initial weights."""
        states = self._gaps.at("randomness.states").observe(random_states, None)
        if states is not None:
            self._moments["fit_start"] = states
        if self._keep_weights:
            self._kept = self._gaps.at("model.initial_weights.stored").observe(
                lambda: snapshot(self._module.state_dict()), None
            )
        stored = self._kept is not None
        self._initial_weights = self._weights_gaps.at("model.initial_weights").observe(
            lambda: capture_initial_weights(self._module, self._weights_gaps, stored), None
        )
        self._begin_to_watch_weights()

    @random_states_kept()
    def train_start(self, trainer: LightningTrainer) -> None:
        """Observe the run: model, optimizers, data, Trainer, environment and code."""
        if self._tracer is not None:
            self._tracer.begin(trainer)
        self._observed = self._gaps.at("run").observe(lambda: self._observe(trainer), None)
        if self._observed is None:  # `describe` tries again and raises the error
            return
        data = self._observed.data
        message = self._gaps.at("data").observe(lambda: foreign_data_message(data), None)
        if message:
            warnings.warn(message, ProvenanceWarning, stacklevel=3)
        self._warn_about_secrets(trainer)

    def _warn_about_secrets(self, trainer: LightningTrainer) -> None:
        """Warn about the hyperparameters of the module and of the DataModule that look like credentials."""
        ignore = "Leave it out with save_hyperparameters(ignore=[...]) and read it from the environment."
        self._warn_about_those_of(self._module, "hyperparameter", self._gaps.at("checkpoint.hyper_parameters"), ignore)
        datamodule = getattr(trainer, "datamodule", None)
        if isinstance(datamodule, DtoolDataModule):
            ignore = "Name the dataset without it, and give the store's credentials to dtool's configuration."
        if datamodule is not None:
            gaps = self._gaps.at("checkpoint.datamodule_hyper_parameters")
            self._warn_about_those_of(datamodule, "hyperparameter of the DataModule", gaps, ignore)

    def _warn_about_those_of(self, owner: Any, kind: str, gaps: Gaps, remedy: str) -> None:
        """Warn once about each hyperparameter that looks like a credential, and add a gap."""
        secrets: list[str] = []
        secrets = gaps.observe(lambda: secrets_in_hyperparameters(current_hyperparameters(owner)), secrets)
        for name in secrets:
            if (kind, name) in self._secrets:
                continue
            self._secrets.add((kind, name))
            reason = "the checkpoint file contains what looks like a credential"
            gaps.at(name).add(reason, remedy)
            warnings.warn(
                f"The {kind} {name!r} looks like a credential. It is redacted in the record, but Lightning's "
                f"checkpoint must contain it, and everyone who can read the checkpoint can read it. {remedy}",
                ProvenanceWarning,
                stacklevel=5,
            )

    def _observe(self, trainer: LightningTrainer) -> Observed:
        self._look.changed(trainer, self._module)
        resumed = self._resumed_from is not None
        return observe_run(
            trainer, self._module, self._moments, self._parent, self._initial_weights, self._fit_index, resumed
        )

    def _observe_changes(self, trainer: LightningTrainer, before: Observed) -> Observed:
        """Observe again what may have changed since the last look, and list what has changed."""
        parts = self._look.changed(trainer, self._module)
        if not parts:
            return before
        after = observe_again(before, parts, trainer, self._module)
        for part in parts:
            self._list_changes(trainer, part, getattr(before, part), getattr(after, part))
        return after

    def _list_changes(self, trainer: LightningTrainer, part: str, before: Any, after: Any) -> None:
        self._changes.add(
            part,
            before,
            after,
            epoch=trainer.current_epoch,
            global_step=trainer.global_step,
            is_expected=Schedule(trainer).changes,
        )

    def _note_sources(self, observed: Observed) -> None:
        """Note the data that the Trainer trains on."""
        self._sources.update((dataset.uuid, dataset) for dataset in training_datasets(observed.data))
        self._foreign.update(dict.fromkeys(foreign_training_data(observed.data)))

    # -- during the run ------------------------------------------------------------------------

    def batch_start(self, trainer: LightningTrainer) -> None:
        """Look at what has changed in the first batch of an epoch. In the first batch of all, also watch the loss."""
        copied = False
        if self._epoch_begins:
            self._epoch_begins = self._epoch_over = False
            self.look(trainer)
            of_loads = self._gaps.at("model.loaded_weights")
            if not self._has_begun:
                self._has_begun = True
                self._look_at_weights()
                of_loads.observe(self._weights.first_batch, None)
            copied = of_loads.observe(self._weights.epoch_start, False)
        if copied or self._weights.has_news:
            self._look_at_loads(trainer, copied)
        self._loss.batch_start()

    @random_states_kept()
    def _look_at_weights(self) -> None:
        """Observe the origin of the initial weights again if a hook has replaced them since fitting began."""
        before, observed, gaps = self._initial_weights, self._observed, Gaps()
        if before is None or observed is None:
            return
        found = self._weights_gaps.at("model.initial_weights").observe(
            lambda: capture_replaced_weights(self._module, before, gaps, self._weights.has_read_weights), None
        )
        if found is not None:
            self._initial_weights, self._weights_gaps = found, gaps
            model = observed.model.model_copy(update={"initial_weights": found})
            self._observed = replace(observed, model=model)
            self._begin_to_watch_weights()

    def _begin_to_watch_weights(self) -> None:
        self._gaps.at("model.loaded_weights").observe(self._weights.begin, None)

    def _look_at_loads(self, trainer: LightningTrainer, copied: bool = False) -> None:
        """Observe which weights a hook, a callback or the training step has put into the model."""
        before = self._observed
        if before is None:
            return
        now = trainer.current_epoch, trainer.global_step
        sources: list[WeightsSource] = []
        sources = self._gaps.at("model.loaded_weights").observe(
            lambda: self._weights.look(before.run.uuid, *now, copied), sources
        )
        if sources:
            loaded = [LoadedWeights(epoch=now[0], global_step=now[1], source=source) for source in sources]
            model = before.model.model_copy(update={"loaded_weights": [*before.model.loaded_weights, *loaded]})
            self._observed = replace(before, model=model)
            self._list_changes(trainer, "model", before.model, model)

    @random_states_kept()
    def look(self, trainer: LightningTrainer) -> None:
        """Observe again what has changed since the last look. To be called when a batch of training begins.

        Args:
            trainer: The Trainer.
        """
        if self._observed is not None:
            self._observed = self._looked_again(trainer, self._observed, before_batch=True)
            self._note_sources(self._observed)

    def _looked_again(self, trainer: LightningTrainer, before: Observed, before_batch: bool) -> Observed:
        """Observe again what has changed since the last look, also the loss."""
        self._gaps.at("loss").observe(lambda: self._follow_loss(trainer, before_batch), None)
        after = self._gaps.at("changes").observe(lambda: self._observe_changes(trainer, before), before)
        if after is not before and after.model.hyperparameters != before.model.hyperparameters:
            self._warn_about_secrets(trainer)
        return after

    def _follow_loss(self, trainer: LightningTrainer, before_batch: bool) -> None:
        before = self._loss.loss
        if self._loss.look(before_batch):
            self._list_changes(trainer, "loss", before, self._loss.loss)

    def before_backward(self, trainer: LightningTrainer, loss: torch.Tensor) -> None:
        """Observe the graph of a loss, in a batch whose loss is observed, and weights that the training step loaded."""
        if self._weights.has_news:
            self._look_at_loads(trainer)
        self._loss.before_backward(loss)

    def before_optimizer_step(self, trainer: LightningTrainer, optimizer: Optimizer) -> None:
        """Note the learning rates, and weights that were loaded before the step changes them."""
        if self._weights.has_news:
            self._look_at_loads(trainer)
        self._weights.stepped()
        self._history.before_optimizer_step(optimizer)

    def batch_end(self, trainer: LightningTrainer, outputs: Any) -> None:
        """Count a batch, and stop observing its loss."""
        if self._weights.has_news:
            self._look_at_loads(trainer)
        if self._tracer is not None:
            self._gaps.at("trace").observe(lambda: self._trace(trainer, outputs), None)
        self._history.after_batch()
        before = self._loss.loss
        if self._loss.batch_end() and before is not None:
            self._list_changes(trainer, "loss", before, self._loss.loss)

    def stop(self) -> None:
        """Stop observing. Called when an exception ends a batch or a hook skips the rest of an epoch."""
        self._loss.stop()

    @random_states_kept()
    def epoch_start(self, trainer: LightningTrainer) -> None:
        """Add metrics that were logged at the end of the last epoch."""
        self._epoch_begins = True
        self._gaps.at("metrics.history").observe(lambda: self._history.before_epoch(trainer), None)

    @random_states_kept()
    def epoch_end(self, trainer: LightningTrainer) -> None:
        """Keep the metrics of the epoch."""
        self._epoch_over = True
        self.stop()
        self._gaps.at("metrics.history").observe(lambda: self._history.after_epoch(trainer), None)

    # -- checkpoints ----------------------------------------------------------------------

    @property
    def run_uuid(self) -> str | None:
        """UUID of the run. None before training starts."""
        return self._observed.run.uuid if self._observed is not None else None

    @property
    def data(self) -> Data | None:
        """The data of the run. None before training starts."""
        return self._observed.data if self._observed is not None else None

    def end(self, outcome: str, checkpoints: Sequence[tuple[str, str]]) -> None:
        """Note how the run ended, for checkpoints that the script saves after the run, and for later runs.

        Args:
            outcome: The status of the run.
            checkpoints: URI and local file of each checkpoint that the run has published, the best one first.
        """
        if self._observed is not None:
            self._observed = replace(self._observed, run_status=outcome)
            uuid = self._observed.run.uuid
            self._gaps.at("run").observe(lambda: remember_run(uuid, self._module, checkpoints), None)

    @random_states_kept()
    def describe(self, trainer: LightningTrainer, checkpoint: Mapping[str, Any], path: str) -> Description:
        """Return the record of a checkpoint and its attachments.

        Args:
            trainer: The Trainer.
            checkpoint: The state that Lightning saves.
            path: Where Lightning saves it.
        """
        if self._observed is None:  # saved without training
            self._observed = self._observe(trainer)
        if self._weights.has_news:
            self._look_at_loads(trainer)
        observed = self._looked_again(trainer, self._with_late_modules(self._observed), before_batch=False)
        self._observed = observed
        gaps = Gaps()
        if self._has_begun and not self._epoch_over:
            self._note_sources(observed)
        gaps.include(self._gaps)
        for name in sorted(set(self._foreign) - set(foreign_training_data(observed.data))):
            reason = f"the model was also trained on a {name}, which is not a dtool dataset and is no longer in use"
            gaps.at("lineage.source_datasets").add(reason, "pack it with `lightning-dtool pack`; see `changes`")
        gaps.include(self._weights_gaps)
        gaps.include(self._weights.gaps)
        gaps.include(self._loss.gaps)
        gaps.include(self._changes.gaps)
        metrics = gaps.at("metrics").observe(lambda: self._history.metrics(trainer, self._module, gaps), Metrics())
        datamodule = getattr(trainer, "datamodule", None)
        order: dict[str, str] = {}
        if isinstance(datamodule, DtoolDataModule):
            order = gaps.at("data.order").observe(datamodule.order_digests, order)
        if self._loss.loss is None and not any(gap.fact == "loss" for gap in gaps):
            gaps.at("loss").add("no training batch was seen", "save the checkpoint after training has begun")
        for reason in checkpoint.get(RESUMPTION_SECTION, {}).get("inexact", []):
            gaps.at("checkpoint.resume").add(
                f"a run that resumes from here may differ from an uninterrupted one: {reason}"
            )
        description = describe(
            observed,
            checkpoint,
            path,
            trainer,
            self._loss.loss,
            metrics,
            order,
            self._sources.values() or None,
            self._changes.all(),
            gaps,
        )
        return replace(description, attachments=self._attachments())

    def _attachments(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self._kept is not None:
            found[INITIAL_WEIGHTS_ITEM] = self._kept
        if self._tracer is not None:
            found[TRACE_ITEM] = self._tracer.content()
        return found

    def _trace(self, trainer: LightningTrainer, outputs: Any) -> None:
        if self._tracer is not None:
            self._tracer.after_batch(trainer, self._module, outputs)

    def _with_late_modules(self, observed: Observed) -> Observed:
        """Collect the code again if more of the project's modules have been imported, for example inside `forward`."""
        sources = observed.sources
        if self._gaps.at("code.modules").observe(lambda: project_modules_changed(sources.code), False):
            again = self._gaps.at("code").observe(lambda: collect_code(sources.extra), sources)
            return replace(observed, sources=again)
        return observed


def secrets_in_hyperparameters(hparams: Mapping[Any, Any]) -> list[str]:
    """Return the names of hyperparameters that look like credentials.

    Their values are redacted in the record, but not in Lightning's checkpoint, which must contain them.

    Args:
        hparams: `LightningModule.hparams`, or those of a LightningDataModule.

    Example:
        >>> secrets_in_hyperparameters({"lr": 0.1, "logger": {"api_key": "a1b2c3"}})
        ['logger.api_key']
    """
    found = Gaps()
    redact_mapping(encode_all(hparams, Gaps()), found)
    return [gap.fact for gap in found]
