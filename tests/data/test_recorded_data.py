"""The data of a record: the arguments of the DataModule, and verification."""

import pytest

from lightning_dtool.data.recorded_data import recorded_arguments, verify_data
from lightning_dtool.errors import DatasetNotFoundError, RecordError, VerificationError
from lightning_dtool.record import Data, DataModule, DatasetReference, DataSource, Provenance
from lightning_dtool.store import Addresses, FrozenDataset, delete_dataset
from record.samples import record


class Mine:
    """Stands for a DataModule."""

    def __init__(self, seed: int) -> None:
        self.seed = seed


def trained_on(dataset: FrozenDataset) -> Provenance:
    reference = DatasetReference(
        uri=dataset.uri, uuid=dataset.uuid, name=dataset.name, content_digest=dataset.content_digest
    )
    return record(data=Data(stages={"train": [DataSource(dataset=reference)], "val": [DataSource()]}))


def test_recorded_arguments_are_returned_for_the_recorded_class_only() -> None:
    made = DataModule(class_path=f"{__name__}:Mine", arguments={"seed": 3})
    assert recorded_arguments(record(data=Data(datamodule=made)), "x:1", Mine) == {"seed": 3}
    for other in (None, DataModule(class_path="a:B", arguments={"seed": 3}), made.model_copy(update={"arguments": {}})):
        with pytest.raises(RecordError, match=r"x:1: was trained with .*Mine\.from_uri"):
            recorded_arguments(record(data=Data(datamodule=other)), "x:1", Mine)
    unknown = made.model_copy(update={"arguments": {"seed": 3, "nope": 1}})
    with pytest.raises(RecordError, match="x:1: was trained with arguments that Mine does not take: nope"):
        recorded_arguments(record(data=Data(datamodule=unknown)), "x:1", Mine)


def test_the_data_of_each_stage_is_verified(make_dataset) -> None:
    first, other = make_dataset({"a.txt": b"a"}, "first"), make_dataset({"a.txt": b"b"}, "other")
    found = trained_on(first)
    verify_data(
        found,
        "x:1",
        {"train": (first.uri, "uri"), "val": (other.uri, "val_uri"), "test": ("y:1", "test_uri")},
        Addresses(first.uri),
    )
    with pytest.raises(VerificationError, match=rf"{other.uri}: .* checkpoint x:1 .* 'train': the data has changed"):
        verify_data(found, "x:1", {"train": (other.uri, "uri")}, Addresses(first.uri))
    delete_dataset(first.uri)
    with pytest.raises(
        DatasetNotFoundError, match="trained with this dataset; if it has moved, pass its new URI as train_uri="
    ):
        verify_data(found, "x:1", {"train": (first.uri, "train_uri")}, Addresses(first.uri))
