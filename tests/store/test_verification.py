"""Verification of the content of datasets."""

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_dtool.store.verification as verification
from lightning_dtool.errors import StoreError, VerificationError
from lightning_dtool.store import FrozenDataset, generate_identifier, local_path

OAK = generate_identifier("oak/1.txt")


def data_of(dataset: FrozenDataset) -> Path:
    path = local_path(dataset.uri)
    assert path is not None
    return path / "data"


def test_a_sound_dataset(make_dataset) -> None:
    dataset = make_dataset()
    dataset.verify()
    dataset.verify([OAK], progress=True)
    make_dataset({}, "empty").verify()


def test_every_difference_is_named(make_dataset) -> None:
    dataset = make_dataset({"a": b"1", "b": b"22", "c": b"3", "d": b"4"})
    data = data_of(dataset)
    (data / "a").write_bytes(b"9")
    (data / "b").write_bytes(b"2")
    (data / "c").unlink()
    (data / "new").touch()
    with pytest.raises(VerificationError) as caught:
        dataset.verify()
    message = str(caught.value)
    assert "a: expected sha256" in message
    assert "b: expected 2 bytes, found 1" in message
    assert "c: missing" in message
    assert "new: not listed" in message
    assert "d:" not in message
    assert caught.value.item is None  # there are several
    dataset.verify([generate_identifier("d")])


def test_without_a_data_directory_every_item_is_missing(make_dataset) -> None:
    dataset = make_dataset({"a": b"1", "b": b"2"})
    data_of(dataset).rename(data_of(dataset).with_name("elsewhere"))
    with pytest.raises(VerificationError, match=r"2 differences:\n  a: missing\n  b: missing\n"):
        dataset.verify()


def test_a_replaced_body_of_the_same_size_and_time(make_dataset) -> None:
    dataset = make_dataset()
    (data_of(dataset) / "oak/1.txt").write_bytes(b"ONE")
    with pytest.raises(VerificationError, match=r"oak/1.txt: expected sha256") as caught:
        dataset.verify()
    assert (caught.value.uri, caught.value.item) == (dataset.uri, "oak/1.txt")


@pytest.mark.parametrize("overlay", [None, {}, {OAK: 3}])
def test_without_sha256_the_manifests_hash_decides(make_dataset, overlay: object) -> None:
    dataset = make_dataset()
    path = data_of(dataset).parent / ".dtool/overlays/sha256.json"
    path.unlink() if overlay is None else path.write_text(json.dumps(overlay))
    dataset.verify()
    (data_of(dataset) / "oak/1.txt").write_bytes(b"ONE")
    with pytest.raises(VerificationError, match=r"oak/1.txt: expected md5"):
        dataset.verify()


def test_an_unknown_hash_function_is_not_taken_for_a_success(make_dataset) -> None:
    dataset = make_dataset()
    (data_of(dataset).parent / ".dtool/overlays/sha256.json").unlink()
    path = data_of(dataset).parent / ".dtool/manifest.json"
    path.write_text(path.read_text().replace("md5sum_hexdigest", "crc"))
    with pytest.raises(VerificationError, match="hash function 'crc' is unknown"):
        FrozenDataset.from_uri(dataset.uri).verify()


def test_a_link_out_of_the_dataset_is_a_difference(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset()
    (tmp_path / "x").write_bytes(b"one")
    item = data_of(dataset) / "oak/1.txt"
    item.unlink()
    item.symlink_to(tmp_path / "x")
    with pytest.raises(VerificationError, match="found a link"):
        dataset.verify()


def test_a_disk_that_fails_is_not_a_difference(make_dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise OSError(errno.EIO, "Input/output error")

    dataset = make_dataset({"a": b"1"})
    monkeypatch.setattr(verification, "hash_file", fail)
    with pytest.raises(StoreError, match="Input/output error") as caught:
        dataset.verify()
    assert not isinstance(caught.value, VerificationError)
    assert (caught.value.uri, caught.value.item) == (dataset.uri, "a")


def test_a_directory_that_cannot_be_listed_is_an_error(make_dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> Iterator[tuple[str, Path]]:
        raise PermissionError(errno.EACCES, "Permission denied")

    dataset = make_dataset({"a": b"1"})
    monkeypatch.setattr(verification, "files_below", fail)
    with pytest.raises(StoreError) as caught:
        dataset.verify()
    assert (caught.value.uri, caught.value.kind) == (dataset.uri, "denied")
