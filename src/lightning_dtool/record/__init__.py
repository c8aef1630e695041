"""The record of a checkpoint: how its model was trained.

Nothing here depends on torch, Lightning or dtool, so that a record stays readable when they change.
"""

from lightning_dtool.record.changes import Change
from lightning_dtool.record.code import Code, Git
from lightning_dtool.record.data import Data, DataModule, DataSource, Loader
from lightning_dtool.record.dataset_reference import DatasetReference
from lightning_dtool.record.environment import Environment
from lightning_dtool.record.gaps import Gap, Gaps
from lightning_dtool.record.lineage import Lineage
from lightning_dtool.record.loss import Loss, LossCall
from lightning_dtool.record.metrics import Epoch, MetricObject, Metrics
from lightning_dtool.record.model import Child, InitialWeights, LoadedWeights, Model, WeightsSource
from lightning_dtool.record.optimizers import Optimizer, ParameterGroup, Scheduler
from lightning_dtool.record.provenance import SCHEMA_VERSION, Provenance
from lightning_dtool.record.randomness import Randomness
from lightning_dtool.record.reading import from_json, json_schema
from lightning_dtool.record.run import Checkpoint, Monitor, Run
from lightning_dtool.record.section import MAX_INTEGER, Section
from lightning_dtool.record.text import as_text
from lightning_dtool.record.trainer import Component, Config, Trainer
from lightning_dtool.record.writing import field_to_json, to_json

__all__ = [
    "MAX_INTEGER",
    "SCHEMA_VERSION",
    "Change",
    "Checkpoint",
    "Child",
    "Code",
    "Component",
    "Config",
    "Data",
    "DataModule",
    "DataSource",
    "DatasetReference",
    "Environment",
    "Epoch",
    "Gap",
    "Gaps",
    "Git",
    "InitialWeights",
    "Lineage",
    "LoadedWeights",
    "Loader",
    "Loss",
    "LossCall",
    "MetricObject",
    "Metrics",
    "Model",
    "Monitor",
    "Optimizer",
    "ParameterGroup",
    "Provenance",
    "Randomness",
    "Run",
    "Scheduler",
    "Section",
    "Trainer",
    "WeightsSource",
    "as_text",
    "field_to_json",
    "from_json",
    "json_schema",
    "to_json",
]
