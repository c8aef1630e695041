"""The datasets from which the weights of a run came."""

from pathlib import Path

import pytest

from lightning_dtool.capture.parents import dataset_of, parents, reference_to, resumed_dataset
from lightning_dtool.items import CHECKPOINT_ITEM
from lightning_dtool.record import InitialWeights, WeightsSource
from lightning_dtool.store import DatasetWriter, FrozenDataset, local_path
from lightning_dtool.watch import files


@pytest.fixture
def dataset(tmp_path: Path) -> FrozenDataset:
    (tmp_path / "models").mkdir()
    with DatasetWriter("net", tmp_path / "models") as writer:
        writer.put_bytes(b"1", CHECKPOINT_ITEM)
        writer.put_bytes(b"2", "more/weights.pt")
        return writer.commit()


def items(dataset: FrozenDataset) -> tuple[Path, Path]:
    folder = local_path(dataset.uri)
    assert folder is not None
    return folder / "data" / CHECKPOINT_ITEM, folder / "data" / "more" / "weights.pt"


def test_a_file_belongs_to_the_dataset_that_holds_it(dataset: FrozenDataset, tmp_path: Path) -> None:
    checkpoint, other = items(dataset)
    link = tmp_path / "last.ckpt"
    link.symlink_to(checkpoint)
    reference = reference_to(dataset.uri)
    assert reference is not None
    assert dataset_of(str(checkpoint)) == dataset_of(str(link)) == (reference, True)
    assert dataset_of(str(other)) == (reference, False)
    assert dataset_of(str(tmp_path / "plain.ckpt")) is None


def test_a_local_copy_of_a_remote_item_belongs_to_its_dataset(dataset: FrozenDataset, tmp_path: Path) -> None:
    copy = tmp_path / "cached"
    copy.write_bytes(b"1")
    files.note(copy, dataset.uri)
    assert dataset_of(str(copy)) == (reference_to(dataset.uri), True)


def test_a_run_resumes_from_a_uri_a_link_or_a_plain_file(dataset: FrozenDataset, tmp_path: Path) -> None:
    reference = reference_to(dataset.uri)
    assert resumed_dataset(dataset.uri) == resumed_dataset(str(items(dataset)[0])) == reference
    assert resumed_dataset(str(tmp_path / "plain.ckpt")) is None
    assert resumed_dataset(None) is None
    assert resumed_dataset(f"{dataset.uri}-deleted") is None


def test_the_checkpoint_of_a_resumed_run_is_its_first_parent_and_each_is_named_once(
    dataset: FrozenDataset, tmp_path: Path
) -> None:
    with DatasetWriter("other", tmp_path / "models") as writer:
        other = reference_to(writer.commit().uri)
    resumed = reference_to(dataset.uri)
    assert resumed is not None
    sources = [
        WeightsSource(kind="checkpoint", keys=["*"], keys_total=1, dataset=found) for found in (other, None, resumed)
    ]
    weights = InitialWeights(origin="checkpoint", sources=sources)
    assert parents(weights.sources, resumed) == [resumed, other]
    assert parents(weights.sources, None) == [other, resumed]
    assert parents([], None) == []
