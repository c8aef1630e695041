"""A whole record, put together from what the other modules of this room observe."""

import getpass
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import PurePath
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer

from lightning_dtool._version import __version__
from lightning_dtool.capture.code import capture_code
from lightning_dtool.capture.data import capture_data, training_datasets
from lightning_dtool.capture.environment import capture_environment, requirements
from lightning_dtool.capture.model import capture_model, encode_hyperparameters
from lightning_dtool.capture.optimizers import capture_optimizers, capture_schedulers
from lightning_dtool.capture.randomness import capture_randomness
from lightning_dtool.capture.redaction import redact_mapping, redaction_gap
from lightning_dtool.capture.trainer import capture_metrics, capture_monitors, capture_trainer
from lightning_dtool.capture.values import as_text
from lightning_dtool.record import (
    Checkpoint,
    Code,
    Data,
    DatasetReference,
    Environment,
    Gap,
    Lineage,
    Metrics,
    Model,
    Optimizer,
    Provenance,
    Randomness,
    Run,
    Scheduler,
    Trainer,
)

ANONYMOUS_MODEL = "lightning_dtool:unknown"
"""The class path in a record that was written without the callback: a checkpoint does not know its class."""


RUNNING = "running"
"""The status of a run that has not ended: later it is `finished`, `interrupted` or `failed`."""


@dataclass(frozen=True)
class Observed:
    """What stays the same for every checkpoint of a run."""

    run: Run
    model: Model
    environment: Environment
    code: Code
    source_zip: bytes
    requirements: str
    optimizers: list[Optimizer] = field(default_factory=list)
    schedulers: list[Scheduler] = field(default_factory=list)
    data: Data = field(default_factory=Data)
    randomness: Randomness = field(default_factory=Randomness)
    trainer: Trainer = field(default_factory=Trainer)
    parent: DatasetReference | None = None
    run_status: str = RUNNING
    gaps: list[Gap] = field(default_factory=list)


def observe_run(trainer: LightningTrainer, module: LightningModule, parent: DatasetReference | None = None) -> Observed:
    """Observe a run. Meant for the start of training, when the optimizers are there.

    Args:
        trainer: The Trainer.
        module: The LightningModule, not wrapped by a strategy.
        parent: The checkpoint that training resumes from, if it is a dataset.
    """
    gaps: list[Gap] = []
    code, source_zip = capture_code(gaps)
    return Observed(
        run=_new_run(),
        model=_without_secrets(capture_model(module, gaps), gaps),
        environment=capture_environment(),
        code=code,
        source_zip=source_zip,
        requirements=requirements(),
        optimizers=capture_optimizers(trainer, module, gaps),
        schedulers=capture_schedulers(trainer, gaps),
        data=capture_data(trainer, module, gaps),
        randomness=capture_randomness(gaps),
        trainer=capture_trainer(trainer, gaps),
        parent=parent,
        gaps=gaps,
    )


def observe_checkpoint(checkpoint: Mapping[str, Any]) -> Observed:
    """Observe what a bare checkpoint tells, for a Trainer that has our CheckpointIO but not our callback."""
    gaps = [
        Gap(
            fact=fact,
            reason="the checkpoint was saved without DtoolProvenanceCallback",
            remedy="add DtoolProvenanceCallback(base_uri) to the Trainer's callbacks",
        )
        for fact in ("model.class_path", "optimizers", "schedulers", "data", "trainer", "metrics")
    ]
    code, source_zip = capture_code(gaps)
    hyperparameters = encode_hyperparameters(checkpoint.get("hyper_parameters", {}), gaps)
    return Observed(
        run=_new_run(),
        model=_without_secrets(Model(class_path=ANONYMOUS_MODEL, hyperparameters=hyperparameters), gaps),
        environment=capture_environment(),
        code=code,
        source_zip=source_zip,
        requirements=requirements(),
        randomness=capture_randomness(gaps),
        gaps=gaps,
    )


def provenance(
    observed: Observed, checkpoint: Mapping[str, Any], path: str, trainer: LightningTrainer | None = None
) -> Provenance:
    """Write the record of one checkpoint.

    Args:
        observed: What was observed of the run.
        checkpoint: The state that Lightning saves.
        path: Where Lightning saves it.
        trainer: The Trainer, for the metrics of the moment.
    """
    gaps = list(observed.gaps)
    return Provenance(
        run=observed.run,
        checkpoint=Checkpoint(
            filename=as_text(PurePath(path).name),
            epoch=checkpoint["epoch"],
            global_step=checkpoint["global_step"],
            saved_at=datetime.now(timezone.utc),
            weights_only="optimizer_states" not in checkpoint,
            monitors=capture_monitors(trainer, gaps) if trainer else [],
        ),
        model=observed.model,
        optimizers=observed.optimizers,
        schedulers=observed.schedulers,
        data=observed.data,
        randomness=observed.randomness,
        trainer=observed.trainer,
        environment=observed.environment,
        code=observed.code,
        metrics=Metrics(at_checkpoint=capture_metrics(trainer, gaps) if trainer else {}),
        lineage=Lineage(source_datasets=training_datasets(observed.data), parent_checkpoint=observed.parent),
        gaps=gaps,
    )


def _new_run() -> Run:
    return Run(
        uuid=str(uuid.uuid4()),
        started_at=datetime.now(timezone.utc),
        creator_username=_username(),
        lightning_dtool_version=__version__,
    )


def _username() -> str:
    try:
        return as_text(getpass.getuser())
    except (KeyError, OSError, ImportError):  # a user id without an entry in the password file, as in many containers
        return "unknown"


def _without_secrets(model: Model, gaps: list[Gap]) -> Model:
    found: list[str] = []
    hyperparameters = redact_mapping(model.hyperparameters, "model.hyperparameters", found)
    gaps.extend(redaction_gap(where) for where in found)
    return model.model_copy(update={"hyperparameters": hyperparameters})
