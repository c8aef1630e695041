"""Verification beside another process that deletes datasets, as a training does that keeps only some checkpoints."""

import contextlib
import shutil
import threading
from typing import Any

import pytest

from conftest import MakeDataset, Run
from lightning_dtool.errors import DatasetNotFoundError, LightningDtoolError, MissingItemError, VerificationError
from lightning_dtool.store import FrozenDataset, cache, delete_dataset, iter_datasets, local_path, verification

FILES = {f"{n}.bin": bytes([n]) * 100 for n in range(5)}


@pytest.mark.parametrize("way", ["verify", "verify_once"])
def test_what_was_deleted_while_it_was_verified_is_not_called_damaged(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    dataset, mark = make_dataset(FILES), verification.mark

    def deleting(path: Any) -> Any:
        with contextlib.suppress(DatasetNotFoundError):
            delete_dataset(dataset.uri)
        return mark(path)

    monkeypatch.setattr(verification, "mark", deleting)
    with pytest.raises(DatasetNotFoundError, match="was deleted meanwhile") as caught:
        getattr(dataset, way)()
    assert "Restore" not in str(caught.value)


def test_the_command_says_so_too(make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    dataset, unlisted = make_dataset(FILES), verification._unlisted
    monkeypatch.setattr(verification, "_unlisted", lambda *args: delete_dataset(dataset.uri) or ["x", *unlisted(*args)])
    assert "was deleted meanwhile" in run("verify", dataset.uri, code=3).stderr


def test_a_dataset_that_is_still_there_is_damaged(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(FILES)
    folder = local_path(dataset.uri)
    assert folder is not None
    (folder / "data" / "0.bin").unlink()
    with pytest.raises(VerificationError, match=r"0\.bin: missing\nRestore the dataset from a copy"):
        dataset.verify()
    shutil.rmtree(folder / "data")
    with pytest.raises(VerificationError, match="Restore"):
        FrozenDataset.from_uri(dataset.uri).verify()


def test_beside_a_process_that_deletes_there_is_no_false_alarm(make_dataset: MakeDataset, base_uri: str) -> None:
    done = threading.Event()

    def retire() -> None:
        for n in range(40):
            delete_dataset(make_dataset(FILES, name=f"made-{n}").uri)
        done.set()

    retiring = threading.Thread(target=retire)
    retiring.start()
    errors: list[LightningDtoolError] = []
    while not done.is_set():
        for dataset in iter_datasets(base_uri, lambda uri, error: None):
            try:
                dataset.verify()
            except LightningDtoolError as error:
                errors.append(error)
    retiring.join()
    assert {type(error) for error in errors} <= {DatasetNotFoundError}


def test_an_item_of_a_remote_dataset_that_was_deleted(
    s3_base_uri: str, monkeypatch: pytest.MonkeyPatch, make_dataset: MakeDataset
) -> None:
    dataset, download = make_dataset(FILES, base=s3_base_uri), cache.Cache.download

    def deleting(self: Any, *args: Any) -> Any:
        with contextlib.suppress(LightningDtoolError):
            delete_dataset(dataset.uri)
        return download(self, *args)

    monkeypatch.setattr(cache.Cache, "download", deleting)
    opened = FrozenDataset.from_uri(dataset.uri)
    with pytest.raises((DatasetNotFoundError, MissingItemError), match="deleted meanwhile"):
        opened.verify()
