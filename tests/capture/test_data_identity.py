"""Data that has an identity, as a dtool dataset, and data that has none."""

from lightning_dtool.capture.data_identity import foreign_data_message, foreign_training_data, training_datasets
from lightning_dtool.record import Data, DatasetReference, DataSource

LEAVES = DatasetReference(uri="file:///leaves", uuid="1", name="leaves", content_digest="sha256:1")
OURS = DataSource(dataset=LEAVES, class_path="lightning_dtool.data.dataset:DtoolDataset")
TENSORS = DataSource(class_path="torch.utils.data.dataset:TensorDataset")
STREAM = DataSource(class_path="script:Outer.Stream")


def test_all_data_without_a_uri_is_named_in_one_message() -> None:
    data = Data(stages={"train": [TENSORS, STREAM, OURS, TENSORS], "val": [TENSORS]})
    message = foreign_data_message(data)
    assert message is not None
    assert "TensorDataset (train, val), Outer.Stream (train) is not a dtool dataset" in message
    assert "Hartley and Olsson" in message
    assert "lightning-dtool pack" in message


def test_dtool_datasets_give_no_message() -> None:
    assert foreign_data_message(Data()) is None
    assert foreign_data_message(Data(stages={"train": [OURS]})) is None


def test_only_the_data_of_training_was_trained_on() -> None:
    data = Data(stages={"train": [OURS, OURS, STREAM, DataSource()], "val": [TENSORS]})
    assert training_datasets(data) == [LEAVES]
    assert foreign_training_data(data) == ["script:Outer.Stream", "unknown"]
