"""The record of one checkpoint, the content of `provenance.json`.

Its parts, in order, are the fields of `Provenance`. The module of each part has the same name, except that `run` also
holds the checkpoint, and `optimizers` the schedulers.
"""

from pydantic import Field

from lightning_dtool._public import public
from lightning_dtool.record.changes import Change
from lightning_dtool.record.code import Code
from lightning_dtool.record.data import Data
from lightning_dtool.record.environment import Environment
from lightning_dtool.record.gaps import Gap
from lightning_dtool.record.lineage import Lineage
from lightning_dtool.record.loss import Loss
from lightning_dtool.record.metrics import Metrics
from lightning_dtool.record.model import Model
from lightning_dtool.record.optimizers import Optimizer, Scheduler
from lightning_dtool.record.randomness import Randomness
from lightning_dtool.record.run import Checkpoint, Run
from lightning_dtool.record.section import Section
from lightning_dtool.record.trainer import Trainer

SCHEMA_VERSION = 1


@public
class Provenance(Section):
    """The record of a checkpoint: how its model was trained."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of the schema.")
    run: Run = Field(description="The training run.")
    checkpoint: Checkpoint = Field(description="The checkpoint.")
    model: Model = Field(description="The model.")
    loss: Loss = Field(default=Loss(), description="The loss.")
    optimizers: list[Optimizer] = Field(default=[], description="The optimizers.")
    schedulers: list[Scheduler] = Field(default=[], description="The learning rate schedulers.")
    data: Data = Field(default=Data(), description="The data.")
    randomness: Randomness = Field(default=Randomness(), description="Seeds, random states and related settings.")
    trainer: Trainer = Field(default=Trainer(), description="The Trainer.")
    environment: Environment = Field(description="The machine, the operating system and the libraries.")
    code: Code = Field(description="The code that ran.")
    metrics: Metrics = Field(default=Metrics(), description="The metrics.")
    lineage: Lineage = Field(
        default=Lineage(), description="The datasets and checkpoints that this checkpoint was made from."
    )
    changes: list[Change] = Field(
        default=[],
        description=(
            "What changed after training began, in order. The other parts hold what was so when the checkpoint was "
            "saved. Learning rates that a scheduler changes, and the states of schedulers, are not listed."
        ),
    )
    gaps: list[Gap] = Field(default=[], description="Facts that are not recorded, and why.")
