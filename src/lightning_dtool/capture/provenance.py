"""The complete record of a checkpoint, assembled from what the other modules observe."""

import functools
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import PurePath
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.trainer.states import TrainerFn

from lightning_dtool import rerun
from lightning_dtool._version import __version__
from lightning_dtool.capture.classes import add_class_gaps
from lightning_dtool.capture.code import Sources, collect_code
from lightning_dtool.capture.config import capture_config
from lightning_dtool.capture.data import REPEATABLE, capture_data, order_is_known
from lightning_dtool.capture.data_identity import training_datasets
from lightning_dtool.capture.environment import capture_environment, requirements
from lightning_dtool.capture.libraries import distribution_of, model_libraries
from lightning_dtool.capture.loaders import flat_loaders
from lightning_dtool.capture.model import capture_model, encode_hyperparameters
from lightning_dtool.capture.optimizers import capture_optimizers, capture_schedulers
from lightning_dtool.capture.parents import parents
from lightning_dtool.capture.randomness import capture_randomness, random_states_json, randomness_now
from lightning_dtool.capture.run_status import RUNNING
from lightning_dtool.capture.state import MAX_NAMES, missing_from_state
from lightning_dtool.capture.trainer import capture_monitors, capture_trainer
from lightning_dtool.capture.variables_read import capture_variables_read
from lightning_dtool.random_states import random_states_kept
from lightning_dtool.record import (
    Change,
    Checkpoint,
    Code,
    Data,
    DatasetReference,
    Environment,
    Gap,
    Gaps,
    InitialWeights,
    Lineage,
    Loss,
    Metrics,
    Model,
    Optimizer,
    Provenance,
    Randomness,
    Run,
    Scheduler,
    Trainer,
    as_text,
)
from lightning_dtool.redaction.record import RecordRedactor, redact_mapping
from lightning_dtool.store.admin_metadata import current_user
from lightning_dtool.values.definitions import class_path
from lightning_dtool.values.parsing import SAFE_IN_THREADS
from lightning_dtool.watch.seeds import seed_calls

ANONYMOUS_MODEL = "lightning_dtool:unknown"
"""The model's class path in a record that was written without the callback. A checkpoint does not name the class."""


@dataclass(frozen=True)
class Observed:
    """The facts about a run. Those that change while training goes on are observed again (see `observe_again`)."""

    run: Run
    model: Model
    environment: Environment
    sources: Sources
    requirements: str
    random_states: str
    optimizers: list[Optimizer] = field(default_factory=list)
    schedulers: list[Scheduler] = field(default_factory=list)
    data: Data = field(default_factory=Data)
    randomness: Randomness = field(default_factory=Randomness)
    trainer: Trainer = field(default_factory=Trainer)
    parent: DatasetReference | None = None
    resumed: bool = False
    run_status: str = RUNNING
    seed_calls: int = 0
    """How often a generator had been seeded."""
    gaps: Mapping[str, list[Gap]] = field(default_factory=dict)
    """Gaps by the part of the record at whose observation they were found."""
    redactor: RecordRedactor = field(default_factory=RecordRedactor)
    """Redacts the records of the run."""


@dataclass(frozen=True)
class Description:
    """The record of a checkpoint, whose code is packed later, in the background where Python allows it."""

    observed: Observed
    record: Provenance
    attachments: Mapping[str, Any] = field(default_factory=dict)
    """Other items of the dataset by path, as bytes or objects for `torch.save`."""

    def sealed(self) -> tuple[Provenance, bytes]:
        """Return the finished record and `source.zip`. Any thread may call this."""
        sealed = self.observed.sources.seal()
        found = Gaps()
        environment = _with_variables(self.record.environment, sealed.variables, found)
        gaps = [*self.record.gaps, *sealed.gaps, *found]
        update = {"code": sealed.code, "environment": environment, "gaps": gaps}
        return self.observed.redactor.redact(self.record.model_copy(update=update)), sealed.zip


def observe_run(
    trainer: LightningTrainer,
    module: LightningModule,
    moments: Mapping[str, Any],
    parent: DatasetReference | None = None,
    initial_weights: InitialWeights | None = None,
    fit_index: int | None = None,
    resumed: bool = False,
) -> Observed:
    """Observe a run. To be called when training starts and the optimizers exist.

    Args:
        trainer: The Trainer.
        module: The LightningModule, not wrapped by a strategy.
        moments: States of the random number generators, by the moment at which they were read.
        parent: The checkpoint that training resumes from, if it is a dataset.
        initial_weights: Where the initial weights came from, observed when fitting began.
        fit_index: Number of the recorded `fit` in this process, from 0.
        resumed: Whether training resumes from a checkpoint, a dataset or not.
    """
    config_gaps = Gaps()
    config = config_gaps.at("trainer.config").observe(lambda: capture_config(trainer, config_gaps), None)
    stored = initial_weights is not None and initial_weights.stored
    general, randomness_gaps = Gaps(), Gaps()
    observed = Observed(
        run=_new_run().model_copy(update={"fit_index": fit_index}),
        model=Model(class_path=class_path(type(module)), initial_weights=initial_weights),
        environment=_environment(general),
        sources=_sources({config[1]: config[2]} if config else {}, general),
        requirements=general.at("environment").observe(requirements, ""),
        random_states=random_states_json(moments),
        randomness=randomness_gaps.at("randomness").observe(
            lambda: capture_randomness(moments, randomness_gaps, stored, module, _loaders(trainer)), Randomness()
        ),
        trainer=Trainer(config=config[0] if config else None),
        parent=parent,
        resumed=resumed,
        gaps={"config": list(config_gaps), "general": list(general), "randomness": list(randomness_gaps)},
    )
    return observe_again(observed, ("model", "optimizers", "schedulers", "data", "trainer"), trainer, module)


def observe_again(
    observed: Observed, parts: Iterable[str], trainer: LightningTrainer, module: LightningModule
) -> Observed:
    """Observe parts of the record again, with their gaps.

    Args:
        observed: The facts so far.
        parts: Names of parts of the record, such as `model`.
        trainer: The Trainer.
        module: The LightningModule, not wrapped by a strategy.
    """
    found: dict[str, Any] = {}
    gaps = dict(observed.gaps)
    for part in parts:
        of_part = Gaps()
        observe = functools.partial(_PARTS[part], observed, trainer, module, of_part)
        found[part] = of_part.at(part).observe(observe, getattr(observed, part))
        gaps[part] = list(of_part)
    if "model" in found:
        of_libraries = Gaps()
        found["environment"] = _with_libraries(observed.environment, module, of_libraries)
        gaps["libraries"] = list(of_libraries)
    return replace(observed, **found, gaps=gaps, seed_calls=seed_calls())


def _model(observed: Observed, trainer: LightningTrainer, module: LightningModule, gaps: Gaps) -> Model:
    model = _without_secrets(capture_model(module, gaps), gaps)
    defined = distribution_of(type(module))
    return model.model_copy(
        update={
            "initial_weights": observed.model.initial_weights,
            "loaded_weights": observed.model.loaded_weights,
            "distribution": f"{defined[0]}=={defined[1]}" if defined is not None else None,
        }
    )


def _data(observed: Observed, trainer: LightningTrainer, module: LightningModule, gaps: Gaps) -> Data:
    """Observe the data. What training drew from data that was replaced since stays drawn."""
    known = observed.gaps.get("data", [])
    if observed.data.stages.get("train") and trainer.state.fn != TrainerFn.FITTING:
        gaps.include(known)  # evaluating the model afterwards loads other data, and it was not trained on that
        return observed.data
    gaps.include(gap for gap in known if gap.fact == REPEATABLE)
    return capture_data(trainer, module, gaps)


def _trainer(observed: Observed, trainer: LightningTrainer, module: LightningModule, gaps: Gaps) -> Trainer:
    return capture_trainer(trainer, gaps, module).model_copy(update={"config": observed.trainer.config})


def _randomness(observed: Observed, trainer: LightningTrainer, module: LightningModule, gaps: Gaps) -> Randomness:
    gaps.include(gap for gap in observed.gaps["randomness"] if not gap.fact.startswith("randomness.flags"))
    seeded = observed.seed_calls != seed_calls()
    return randomness_now(observed.randomness, seeded, _loaders(trainer), gaps)


def _loaders(trainer: LightningTrainer) -> list[Any]:
    return [*flat_loaders(trainer.train_dataloader), *flat_loaders(trainer.val_dataloaders)]


_PARTS: dict[str, Callable[[Observed, LightningTrainer, LightningModule, Gaps], Any]] = {
    "model": _model,
    "optimizers": lambda observed, trainer, module, gaps: capture_optimizers(trainer, module, gaps),
    "schedulers": lambda observed, trainer, module, gaps: capture_schedulers(trainer, gaps),
    "data": _data,
    "randomness": _randomness,
    "trainer": _trainer,
}
"""Functions that observe the parts of the record that may change during a run."""


@random_states_kept()
def observe_checkpoint(checkpoint: Mapping[str, Any]) -> Observed:
    """Observe only a checkpoint, for a Trainer that has a DtoolCheckpointIO but no DtoolProvenanceCallback."""
    gaps = Gaps()
    for fact in ("model.class_path", "loss", "optimizers", "schedulers", "data", "trainer", "metrics"):
        gaps.at(fact).add(
            "the checkpoint was saved without DtoolProvenanceCallback",
            "add DtoolProvenanceCallback(base_uri) to the Trainer's callbacks",
        )
    hyperparameters = encode_hyperparameters(checkpoint.get("hyper_parameters", {}), gaps)
    return Observed(
        run=_new_run(),
        model=_without_secrets(Model(class_path=ANONYMOUS_MODEL, hyperparameters=hyperparameters), gaps),
        environment=_environment(gaps),
        sources=_sources({}, gaps),
        requirements=gaps.at("environment").observe(requirements, ""),
        random_states=random_states_json({}),
        randomness=gaps.at("randomness").observe(lambda: capture_randomness({}, gaps), Randomness()),
        gaps={"general": list(gaps)},
    )


def describe(
    observed: Observed,
    checkpoint: Mapping[str, Any],
    path: str,
    trainer: LightningTrainer | None = None,
    loss: Loss | None = None,
    metrics: Metrics | None = None,
    order: Mapping[str, str] | None = None,
    source_datasets: Iterable[DatasetReference] | None = None,
    changes: Iterable[Change] = (),
    gaps: Iterable[Gap] = (),
) -> Description:
    """Return the record of a checkpoint.

    Args:
        observed: The facts about the run, observed again where they have changed.
        checkpoint: The state that Lightning saves.
        path: Where Lightning saves it.
        trainer: The Trainer, for the current values of the monitored metrics.
        loss: The loss, as observed in the first batch.
        metrics: The metrics so far.
        order: Digests of the order of the samples so far, by epoch.
        source_datasets: The datasets that the model was trained on so far. Default: those that the Trainer holds.
        changes: What changed since training began.
        gaps: Gaps since the run began.
    """
    if not SAFE_IN_THREADS:
        observed.sources.seal()  # once in a run: it parses the code that contains what may be credentials
    found = Gaps()
    for of_part in observed.gaps.values():
        found.include(of_part)
    found.include(gaps)
    sources = training_datasets(observed.data) if source_datasets is None else source_datasets
    missing = found.at("checkpoint.state_dict").observe(
        lambda: missing_from_state(checkpoint, trainer, found.at("checkpoint.state_dict")), None
    )
    found.at("model.class_path").observe(lambda: add_class_gaps(observed.model, observed.sources.code, found), None)
    record = Provenance(
        run=observed.run,
        checkpoint=Checkpoint(
            filename=as_text(PurePath(path).name),
            epoch=checkpoint["epoch"],
            global_step=checkpoint["global_step"],
            saved_at=datetime.now(timezone.utc),
            weights_only="optimizer_states" not in checkpoint,
            monitors=capture_monitors(trainer, found) if trainer else [],
            missing_keys=(missing or [])[:MAX_NAMES],
            missing_keys_total=None if missing is None else len(missing),
        ),
        model=observed.model,
        loss=loss or Loss(),
        optimizers=observed.optimizers,
        schedulers=observed.schedulers,
        data=observed.data.model_copy(update={"order": dict(order or {})}),
        randomness=observed.randomness if order_is_known(observed.gaps.get("data", [])) else _unrepeatable(observed),
        trainer=observed.trainer,
        environment=observed.environment,
        code=observed.sources.code,
        metrics=metrics or Metrics(),
        lineage=_lineage(observed, sources),
        changes=list(changes),
        gaps=list(found),
    )
    return Description(observed, record)


def _unrepeatable(observed: Observed) -> Randomness:
    return observed.randomness.model_copy(update={"repeatable_by": None})


def _lineage(observed: Observed, datasets: Iterable[DatasetReference]) -> Lineage:
    original = _original()
    reruns = {reference.uuid for reference in original.values()}
    weights = observed.model.initial_weights
    initial = weights.sources if weights is not None else []
    loaded = [each.source for each in observed.model.loaded_weights if each.source.run_uuid != observed.run.uuid]
    found = [dataset for dataset in parents([*initial, *loaded], observed.parent) if dataset.uuid not in reruns]
    begun_from = {source.dataset.uuid for source in initial if source.dataset is not None and source.kind != "file"}
    first = next((dataset for dataset in found if dataset.uuid in begun_from or dataset == observed.parent), None)
    return Lineage(
        source_datasets=list(datasets),
        parent_checkpoint=first,
        other_parents=[dataset for dataset in found if dataset is not first],
        resumed=observed.resumed,
        **original,
    )


def _original() -> dict[str, DatasetReference]:
    """Return the checkpoint whose training is run again, by the kind of the rerun. Empty if this is not a rerun."""
    plan = rerun.current_plan()
    if plan is None:
        return {}
    return {"reproduces" if plan.kind == rerun.REPRODUCE else "replicates": DatasetReference(**plan.original)}


def _environment(gaps: Gaps) -> Environment:
    unknown = Environment(python="", platform="", versions={})
    return gaps.at("environment").observe(lambda: capture_environment(gaps), unknown)


def _with_libraries(environment: Environment, module: LightningModule, gaps: Gaps) -> Environment:
    more: dict[str, str] = {}
    more = gaps.at("environment.versions").observe(lambda: model_libraries(module, gaps), more)
    return environment.model_copy(update={"versions": {**environment.versions, **more}})


def _with_variables(environment: Environment, named: frozenset[str], gaps: Gaps) -> Environment:
    """Add the variables that the user's code has read until now, and those that its source names."""
    of_variables = gaps.at("environment.variables_read")
    more: dict[str, str | None] = {}
    more = of_variables.observe(lambda: capture_variables_read(named, of_variables), more)
    return environment.model_copy(update={"variables_read": more})


def _sources(extra: Mapping[str, bytes], gaps: Gaps) -> Sources:
    nothing = Sources(Code(argv=[], working_directory=""), {}, extra, [])
    return gaps.at("code").observe(lambda: collect_code(extra), nothing)


def _new_run() -> Run:
    return Run(
        uuid=str(uuid.uuid4()),
        started_at=datetime.now(timezone.utc),
        creator_username=as_text(current_user()),
        lightning_dtool_version=__version__,
    )


def _without_secrets(model: Model, gaps: Gaps) -> Model:
    hyperparameters = redact_mapping(model.hyperparameters, gaps.at("model.hyperparameters"))
    return model.model_copy(update={"hyperparameters": hyperparameters})
