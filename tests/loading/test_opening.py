"""Opening of checkpoint datasets and reading of their records."""

from pathlib import Path

import pytest

from lightning_dtool.errors import MissingItemError, NotACheckpointError, RecordError, VerificationError
from lightning_dtool.loading.opening import open_checkpoint, read_record, verified_path
from lightning_dtool.record import to_json
from lightning_dtool.store import local_path
from record.samples import record


def test_a_checkpoint_is_opened_with_its_record(make_dataset) -> None:
    items = {"checkpoint.ckpt": b"weights", "provenance.json": to_json(record()).encode()}
    dataset = open_checkpoint(make_dataset(items).uri)
    assert read_record(dataset) == record()
    assert verified_path(dataset, "checkpoint.ckpt").read_bytes() == b"weights"
    with pytest.raises(MissingItemError, match=r"source\.zip"):
        verified_path(dataset, "source.zip")


@pytest.mark.parametrize("lacks", ["checkpoint.ckpt", "provenance.json"])
def test_a_dataset_that_is_not_a_checkpoint_is_refused(make_dataset, lacks: str) -> None:
    items = {"checkpoint.ckpt": b"weights", "provenance.json": b"{}"}
    del items[lacks]
    with pytest.raises(NotACheckpointError, match=f"1 items without {lacks}.*Is this a data set?"):
        open_checkpoint(make_dataset(items).uri)


def test_a_changed_record_is_refused(make_dataset) -> None:
    dataset = make_dataset({"checkpoint.ckpt": b"weights", "provenance.json": to_json(record()).encode()})
    folder = local_path(dataset.uri)
    assert isinstance(folder, Path)
    (folder / "data" / "provenance.json").write_bytes(to_json(record()).replace("ada", "eve").encode())
    with pytest.raises(VerificationError, match=r"provenance\.json"):
        read_record(open_checkpoint(dataset.uri))


def test_an_invalid_record_is_an_error(make_dataset) -> None:
    with pytest.raises(RecordError, match="valid schema_version"):
        read_record(make_dataset({"checkpoint.ckpt": b"weights", "provenance.json": b"{}"}))
