"""The dtool command line on checkpoint datasets, copies of them, and their size on disk."""

import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.items import CHECKPOINT_ITEM, SOURCE_ITEM
from lightning_dtool.store import FrozenDataset


def dtool(*arguments: str) -> str:
    command = [str(Path(sys.executable).parent / "dtool"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, TinyNet]:
    folder = tmp_path_factory.mktemp("run")
    (folder / "models").mkdir()
    provenance = DtoolProvenanceCallback(str(folder / "models"))
    model = TinyNet()
    trainer(folder, provenance).fit(model, loader())
    assert provenance.best_uri is not None
    return provenance.best_uri, model


def test_dtool_ls_lists_a_checkpoint(published: tuple[str, TinyNet]) -> None:
    uri = published[0]
    assert CHECKPOINT_ITEM in dtool("ls", uri)
    assert DtoolCheckpoint.from_uri(uri).name in dtool("ls", uri.rpartition("/")[0])


def test_dtool_summary_describes_a_checkpoint(published: tuple[str, TinyNet]) -> None:
    assert "number_of_items: 5" in dtool("summary", published[0])


def test_dtool_verify_accepts_a_checkpoint(published: tuple[str, TinyNet]) -> None:
    assert "All good" in dtool("verify", "-f", published[0])


def test_dtool_readme_show_prints_the_readme(published: tuple[str, TinyNet]) -> None:
    content = yaml.safe_load(dtool("readme", "show", published[0]))
    assert content["model"]["class"] == "kit:TinyNet"
    assert published[0] in content["how_to_load"]


def test_dtool_shows_annotations_and_tags(published: tuple[str, TinyNet]) -> None:
    assert "finished" in dtool("annotation", "get", published[0], "run_status")
    assert "best" in dtool("tag", "ls", published[0])


def test_a_copy_by_dtool_can_be_loaded(published: tuple[str, TinyNet], tmp_path: Path) -> None:
    uri, model = published
    copy = dtool("cp", "-q", uri, str(tmp_path)).strip()
    checkpoint = DtoolCheckpoint.from_uri(copy)

    checkpoint.verify()
    assert checkpoint.uuid == DtoolCheckpoint.from_uri(uri).uuid
    assert checkpoint.record == DtoolCheckpoint.from_uri(uri).record
    assert same(weights(checkpoint.load_module()), weights(model))


def disk_usage(folder: Path) -> int:
    """Return the bytes of all files. A file with several names counts once."""
    return sum({found.st_ino: found.st_size for found in (path.lstat() for path in folder.rglob("*"))}.values())


def test_a_checkpoint_is_stored_once_on_disk(tmp_path: Path) -> None:
    """Lightning's own path and the dataset share one copy."""

    def run(folder: Path, *callbacks: L.Callback) -> int:
        torch.manual_seed(0)
        trainer(folder, *callbacks, max_epochs=2).fit(TinyNet(hidden=200_000), loader())
        return disk_usage(folder)

    (tmp_path / "recorded" / "models").mkdir(parents=True)
    plain = run(tmp_path / "plain")
    callback = DtoolProvenanceCallback(str(tmp_path / "recorded" / "models"))
    recorded = run(tmp_path / "recorded", callback)
    assert callback.last_uri is not None
    dataset = FrozenDataset.from_uri(callback.last_uri)
    # It holds every module of the tests that this process has loaded.
    source = dataset.item(SOURCE_ITEM).size_in_bytes

    assert plain > 20_000_000
    assert recorded - source <= 1.02 * plain
