"""What a run says about its datasets when it has ended."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger

from lightning_dtool.errors import ProvenanceWarning, StoreError
from lightning_dtool.publishing.account import Publication
from lightning_dtool.publishing.announcing import annotate, announce
from lightning_dtool.store import DatasetWriter, FrozenDataset


def published(name: str, folder: Path) -> Publication:
    with DatasetWriter(name, folder) as writer:
        uri = writer.commit().uri
    return Publication(name, set(), "run", 0, 0, datetime.now(timezone.utc), dataset_uri=uri)


def test_each_dataset_gets_the_status_and_its_own_tags(tmp_path: Path) -> None:
    one, other = (published(name, tmp_path) for name in "ab")
    waiting = Publication("c", set(), "run", 0, 0, datetime.now(timezone.utc))
    annotate([one, other, waiting], "finished", {"best": one.uri, "last": other.uri, "none": None})
    for publication, tag in ((one, "best"), (other, "last")):
        assert publication.uri is not None
        dataset = FrozenDataset.from_uri(publication.uri)
        assert dataset.annotation("run_status") == "finished"
        assert list(dataset.tags()) == [tag]


def test_a_store_that_refuses_annotations_gives_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise StoreError("no space left", uri="x")

    monkeypatch.setattr(FrozenDataset, "put_annotation", refuse)
    with pytest.warns(ProvenanceWarning, match="`run_status` could not be written. no space left"):
        annotate([published("a", tmp_path)], "finished", {})


def test_a_logger_that_fails_does_not_keep_the_others_from_the_uri(tmp_path: Path) -> None:
    class Failing(CSVLogger):
        def log_hyperparams(self, *_: Any, **__: Any) -> None:
            raise OSError("disk full")

    failing, working = Failing(tmp_path / "one"), CSVLogger(tmp_path / "two")
    with pytest.warns(ProvenanceWarning, match="Failing could not log the URI file:///x: disk full"):
        announce([failing, working], "file:///", 1, "file:///x")
    assert "file:///x" in next((tmp_path / "two").rglob("hparams.yaml")).read_text()
