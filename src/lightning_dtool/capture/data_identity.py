"""The data of a record that has an identity, as a dtool dataset, and that which has none."""

import itertools

from lightning_dtool.record import Data, DatasetReference

_GUIDELINE = (
    "Hartley and Olsson's guidelines for reproducible machine learning (dtoolAI, Patterns 2020) ask for training data"
    " that is annotated with metadata and has a persistent URI"
)


def training_datasets(data: Data) -> list[DatasetReference]:
    """Return the distinct dtool datasets that the model was trained on."""
    found = {source.dataset.uuid: source.dataset for source in data.stages.get("train", []) if source.dataset}
    return list(found.values())


def foreign_training_data(data: Data) -> list[str]:
    """Return the classes of the data that the model was trained on and that is not in dtool datasets."""
    return [source.class_path or "unknown" for source in data.stages.get("train", []) if source.dataset is None]


def foreign_data_message(data: Data) -> str | None:
    """Return a message about all data that is not in dtool datasets. None if there is none.

    Args:
        data: The result of `capture_data`.

    Returns:
        The text for a ProvenanceWarning.
    """
    foreign: dict[str, list[str]] = {}
    for stage, sources in data.stages.items():
        for source in sources:
            if source.dataset is None:
                name = (source.class_path or "unknown").rpartition(":")[2]
                stages = foreign.setdefault(name, [])
                if stage not in stages:
                    stages.append(stage)
    if not foreign:
        return None
    shown = ", ".join(f"{name} ({', '.join(stages)})" for name, stages in itertools.islice(foreign.items(), 10))
    return (
        f"The record cannot name the URI of the data that this model was trained on: {shown} is not a dtool dataset."
        f" {_GUIDELINE}."
        " Pack the data once with `lightning-dtool pack FOLDER BASE_URI` and train with"
        " DtoolDataModule(URI)."
    )
