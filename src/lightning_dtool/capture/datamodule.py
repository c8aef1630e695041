"""The LightningDataModule, and what a DtoolDataModule knows about the data of its stages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer as LightningTrainer

from lightning_dtool.capture.arguments import capture_arguments
from lightning_dtool.capture.hyperparameters import current_hyperparameters
from lightning_dtool.capture.preprocessing import described_transforms
from lightning_dtool.data.datamodule import DtoolDataModule
from lightning_dtool.data.dataset import DtoolDataset
from lightning_dtool.record import DataModule, DatasetReference, DataSource, Gaps
from lightning_dtool.redaction.record import redact_mapping
from lightning_dtool.values.definitions import class_path
from lightning_dtool.values.reading import unreadable
from lightning_dtool.values.writing import encode_all


@dataclass(frozen=True)
class OwnStage:
    """A stage of a DtoolDataModule, and what the DataModule knows about its data."""

    datamodule: DtoolDataModule
    stage: str
    facts: dict[str, Any]


def capture_datamodule(trainer: LightningTrainer, gaps: Gaps) -> tuple[DataModule | None, dict[str, OwnStage]]:
    """Describe the DataModule of a Trainer.

    Args:
        trainer: The Trainer.
        gaps: Receives a gap for everything that could not be observed.

    Returns:
        The description, None if there is no DataModule; and the stages of a DtoolDataModule, by name.
    """
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is None:
        return None, {}
    at_arguments = gaps.at("data.datamodule.arguments")
    if not isinstance(datamodule, DtoolDataModule):
        arguments = _hyperparameters(datamodule, at_arguments)
        return DataModule(class_path=class_path(type(datamodule)), arguments=arguments), {}
    facts: dict[str, Any] = {"arguments": {}, "stages": {}}
    facts = gaps.at("data.datamodule").observe(datamodule.description, facts)
    described = DataModule(
        class_path=class_path(type(datamodule)), arguments=_arguments(facts["arguments"], at_arguments)
    )
    return described, {stage: OwnStage(datamodule, stage, known) for stage, known in facts["stages"].items()}


def held_out_source(own: OwnStage, gaps: Gaps) -> DataSource:
    """Describe a held-out stage for which the Trainer has no loader.

    Args:
        own: The stage.
        gaps: Receives a gap for everything that could not be observed.
    """
    datamodule = own.datamodule
    places = {
        "transform": datamodule.train_transform if own.stage == "train" else datamodule.eval_transform,
        "target_transform": datamodule.target_transform,
        "decoder": datamodule.decoder,
    }
    return DataSource(
        **facts_of_dataset(own.facts),
        selection=redact_mapping(datamodule.selection(own.stage), gaps.at("selection")),
        transforms=described_transforms(places, gaps.at("transforms")),
    )


def facts_of_dataset(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a DataSource that a DtoolDataModule knows.

    Args:
        facts: What it says of one of its stages.
    """
    return {
        "dataset": DatasetReference(**{key: facts[key] for key in ("uri", "uuid", "name", "content_digest")}),
        "class_path": class_path(DtoolDataset),
        **{
            key: facts.get(key)
            for key in ("count", "selection_digest", "targets_digest", "classes", "class_to_idx", "class_counts")
        },
    }


def _arguments(arguments: dict[str, Any], gaps: Gaps) -> dict[str, Any]:
    """Return the arguments of a DtoolDataModule, with a gap for each that cannot be rebuilt from the record."""
    for name, description in arguments.items():
        reason = unreadable(description)
        if reason is not None:
            remedy = "use functions and classes from the top of a module that keep their arguments as attributes"
            gaps.at(name).add(f"it cannot be rebuilt: {reason}", remedy)
    return redact_mapping(arguments, gaps)


def _hyperparameters(datamodule: Any, gaps: Gaps) -> dict[str, Any]:
    """Return the arguments of a user's DataModule: as it was made with, and as it has saved them."""
    made = gaps.observe(lambda: capture_arguments(datamodule, gaps, "the DataModule's class"), None)
    given: dict[Any, Any] = gaps.observe(lambda: current_hyperparameters(datamodule), {})
    return {**(made or {}), **redact_mapping(encode_all(given, gaps), gaps)}
