"""Checks, listings and deletions at base URIs."""

import errno
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from lightning_dtool.errors import (
    CorruptDatasetError,
    DatasetNotFoundError,
    InvalidURIError,
    LightningDtoolError,
    StoreError,
)
from lightning_dtool.store import (
    DatasetWriter,
    FrozenDataset,
    delete_dataset,
    ensure_writable,
    iter_datasets,
    local_path,
)


def names_in(base_uri: str) -> list[str]:
    path = local_path(base_uri)
    assert path is not None
    return sorted(os.listdir(path))


def test_a_directory_can_be_written(base_uri: str) -> None:
    assert ensure_writable(str(local_path(base_uri))) == base_uri
    assert names_in(base_uri) == []


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    cases = {
        tmp_path / "nothing": "found nothing",
        tmp_path / "file": "found a file",
        tmp_path / "file/x": "found nothing",
    }
    for base, found in cases.items():
        with pytest.raises(StoreError, match=f"expected a directory at .*{found}. Create it: mkdir -p"):
            ensure_writable(str(base))
    with pytest.raises(StoreError, match=r"file://.*/proc: cannot write to this base URI"):
        ensure_writable("/proc")
    with pytest.raises(InvalidURIError):
        ensure_writable("foo://x")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    with pytest.raises(StoreError, match="permission denied") as caught:
        ensure_writable(str(tmp_path))
    assert caught.value.errno == errno.EACCES


def test_a_dataset_is_no_base_uri(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset()
    root = local_path(dataset.uri)
    assert root is not None
    before = sorted(root.rglob("*"))
    (tmp_path / "link").symlink_to(root / "data")
    for base in (root, root / "data", root / "data/oak", root / ".dtool/annotations", tmp_path / "link"):
        with pytest.raises(InvalidURIError, match=f"found a .*dataset.*such as {root.parent}"):
            ensure_writable(base)
        with pytest.raises(InvalidURIError):
            DatasetWriter("x", base)
    assert sorted(root.rglob("*")) == before


def test_a_store_that_is_only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    dtool_http = pytest.importorskip("dtool_http.storagebroker")
    monkeypatch.setattr(dtool_http.HTTPStorageBroker, "__init__", lambda *_: None)  # which asks the server
    with pytest.raises(StoreError, match="cannot write to this base URI: its storage broker cannot do this"):
        ensure_writable("http://host/x")
    with pytest.raises(StoreError, match="its storage broker cannot do this"):
        DatasetWriter("x", "http://host/x")


def test_the_listing_leaves_out_what_is_no_frozen_dataset(
    make_dataset, base_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("b", "a", "damaged", "gone"):
        make_dataset(name=name)
    base = local_path(base_uri)
    assert base is not None
    (base / "damaged/.dtool/dtool").write_text("{")
    shutil.rmtree(base / "gone/.dtool")
    (base / "folder").mkdir()
    (base / "file").touch()
    with DatasetWriter("unfinished", base_uri):
        faults: list[tuple[str, LightningDtoolError]] = []
        found = list(iter_datasets(base_uri, on_error=lambda uri, error: faults.append((uri, error))))
    assert [dataset.uri for dataset in found] == [f"{base_uri}/a", f"{base_uri}/b"]
    assert [(uri, type(error)) for uri, error in faults] == [(f"{base_uri}/damaged", CorruptDatasetError)]
    with caplog.at_level(logging.WARNING):
        assert len(list(iter_datasets(base_uri))) == 2
    assert "damaged" in caplog.text


def test_a_listing_of_an_empty_place(base_uri: str, tmp_path: Path) -> None:
    assert list(iter_datasets(base_uri)) == []
    with pytest.raises(StoreError, match="cannot list the datasets: no such file"):
        list(iter_datasets(str(tmp_path / "nothing")))
    with pytest.raises(InvalidURIError):
        list(iter_datasets("foo://x"))


def test_delete(make_dataset, base_uri: str) -> None:
    dataset = make_dataset()
    make_dataset(name="other")
    delete_dataset(dataset.uri)
    assert names_in(base_uri) == ["other"]
    with pytest.raises(DatasetNotFoundError):
        FrozenDataset.from_uri(dataset.uri)
    with pytest.raises(DatasetNotFoundError):
        delete_dataset(dataset.uri)


def test_delete_what_an_interrupted_writer_left(base_uri: str) -> None:
    writer = DatasetWriter("x", base_uri)
    writer.put_bytes(b"1", "a")
    delete_dataset(writer.uri)
    assert names_in(base_uri) == []


def test_delete_refuses_what_is_no_dataset(make_dataset, base_uri: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (base_uri, str(tmp_path), str(tmp_path / "file"), str(tmp_path / "nothing")):
        with pytest.raises(DatasetNotFoundError):
            delete_dataset(wrong)
    dataset = make_dataset()
    (tmp_path / "link").symlink_to(str(local_path(dataset.uri)))
    with pytest.raises(StoreError, match="found a link to"):
        delete_dataset(str(tmp_path / "link"))
    assert (tmp_path / "file").exists()
    dataset.verify()


def test_no_reader_sees_an_interrupted_deletion(make_dataset, base_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset()

    def interrupted(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(StoreError, match=r"cannot delete the dataset.*I/O error"):
        delete_dataset(dataset.uri)
    monkeypatch.undo()
    with pytest.raises(DatasetNotFoundError):
        FrozenDataset.from_uri(dataset.uri)
    # dtool itself does not see it either.
    import dtoolcore

    assert list(iter_datasets(base_uri)) == []
    assert list(dtoolcore.iter_datasets_in_base_uri(base_uri)) == []


def test_a_deletion_that_cannot_begin_changes_nothing(
    make_dataset, base_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset()

    def denied(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", denied)
    with pytest.raises(StoreError, match="permission denied"):
        delete_dataset(dataset.uri)
    monkeypatch.undo()
    dataset.verify()
    assert names_in(base_uri) == ["leaves"]


def test_a_folder_whose_name_makes_no_uri_does_not_stop_a_listing(make_dataset: Any, base_uri: str) -> None:
    good = make_dataset(name="good")
    root = local_path(base_uri)
    assert root is not None
    shutil.copytree(str(local_path(good.uri)), root / "a#b")
    failed = []
    assert [found.name for found in iter_datasets(base_uri, lambda uri, error: failed.append(uri))] == ["good"]
    assert len(failed) == 1
