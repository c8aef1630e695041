"""Runs without the callback that go on in a folder where a recorded run has left links to its datasets."""

import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

import programs
from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback, guard
from lightning_dtool.attach import callbacks, no_callbacks
from lightning_dtool.store import iter_datasets

OTHER_FILE_SYSTEM = """
import errno, os, sys, tempfile
rename = os.rename
def elsewhere(source, target, **options):
    if os.path.dirname(source) == tempfile.gettempdir():
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    rename(source, target, **options)
os.rename = elsewhere
"""
"""Makes temporary files lie on another file system, as they often do."""


@pytest.fixture(autouse=True)
def _temporary_files_on_another_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def elsewhere(source: str, target: str, **options: Any) -> None:
        if os.path.dirname(source) == tempfile.gettempdir():
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", elsewhere)


def recorded(folder: Path) -> DtoolCheckpoint:
    """Train for one epoch with the callback, and return the last checkpoint."""
    (folder / "models").mkdir()
    provenance = DtoolProvenanceCallback(str(folder / "models"))
    checkpoints = ModelCheckpoint(dirpath=folder / "ckpt", save_top_k=0, save_last=True)
    trainer(folder, checkpoints, provenance, max_epochs=1).fit(TinyNet(), loader())
    (dataset,) = iter_datasets(str(folder / "models"))
    return DtoolCheckpoint.from_uri(dataset.uri)


def step(path: Path) -> int:
    found = torch.load(path, weights_only=True)["global_step"]
    assert isinstance(found, int)
    return found


def as_it_is(path: Path, item: Path) -> None:
    assert path.samefile(item)


def symbolic(path: Path, item: Path) -> None:
    path.unlink()
    path.symlink_to(item)


def hard(path: Path, item: Path) -> None:
    path.unlink()
    path.hardlink_to(item)


def by_another_link(path: Path, item: Path) -> None:
    path.with_name("other.ckpt").hardlink_to(item)
    path.unlink()
    path.symlink_to("other.ckpt")


@pytest.mark.parametrize("relink", [as_it_is, symbolic, hard, by_another_link])
def test_a_run_that_goes_on_without_the_callback_leaves_the_dataset_as_it_is(
    tmp_path: Path, relink: Callable[[Path, Path], None]
) -> None:
    checkpoint = recorded(tmp_path)
    last = tmp_path / "ckpt" / "last.ckpt"
    (item,) = (tmp_path / "models").glob("*/data/checkpoint.ckpt")
    relink(last, item)

    checkpoints = ModelCheckpoint(dirpath=last.parent, save_top_k=0, save_last=True)
    trainer(tmp_path, checkpoints, max_epochs=3).fit(TinyNet(), loader(), ckpt_path=str(last))

    assert step(last) == 18
    assert not last.is_symlink()
    assert step(item) == 6
    checkpoint.verify()
    assert not list(last.parent.glob(".*"))


def test_what_was_at_a_link_stays_when_a_save_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = recorded(tmp_path)
    last = tmp_path / "ckpt" / "last.ckpt"
    copy = shutil.copyfile

    def full(source: Any, target: Any, **options: Any) -> None:
        copy(source, target, **options)
        os.truncate(target, 100)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOSPC))):
        trainer(tmp_path, max_epochs=1).strategy.checkpoint_io.save_checkpoint({"global_step": 7}, str(last))
    assert step(last) == 6
    checkpoint.verify()
    assert not list(last.parent.glob(".*"))


def test_a_link_to_a_dataset_that_was_deleted_is_replaced(tmp_path: Path) -> None:
    recorded(tmp_path)
    last = tmp_path / "ckpt" / "last.ckpt"
    (dataset,) = (tmp_path / "models").iterdir()
    symbolic(last, dataset / "data" / "checkpoint.ckpt")
    io = trainer(tmp_path).strategy.checkpoint_io
    (dataset / "data" / "checkpoint.ckpt").unlink()
    io.save_checkpoint({"global_step": 5}, last)
    assert not last.is_symlink()
    assert not any((dataset / "data").glob("*.ckpt"))

    symbolic(last, dataset / "data" / "checkpoint.ckpt")
    shutil.rmtree(dataset)
    io.save_checkpoint({"global_step": 6}, f"file://{last}")
    assert step(last) == 6


FABRIC = """
import sys, torch
from {package} import {name}
tool = {name}(accelerator="cpu", devices=1)
{save}
"""


@pytest.mark.parametrize(
    ("package", "name", "save"),
    [
        ("lightning", "Fabric", "tool.save(sys.argv[1], {'global_step': 4})"),
        (
            "pytorch_lightning",
            "Trainer",
            "tool.strategy.checkpoint_io.save_checkpoint({'global_step': 4}, sys.argv[1])",
        ),
    ],
)
def test_other_tools_of_lightning_replace_a_link(tmp_path: Path, package: str, name: str, save: str) -> None:
    pytest.importorskip(package)
    checkpoint = recorded(tmp_path)
    last = tmp_path / "ckpt" / "last.ckpt"
    program = OTHER_FILE_SYSTEM + FABRIC.format(package=package, name=name, save=save)
    programs.run("-c", program, str(last), cwd=tmp_path)
    assert step(last) == 4
    checkpoint.verify()


class Noting(TorchCheckpointIO):
    """A plug-in of the user's that calls Lightning's own."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        super().save_checkpoint({**checkpoint, "noted": True}, path, storage_options)


def test_a_plug_in_that_calls_lightnings_own_replaces_a_link(tmp_path: Path) -> None:
    checkpoint = recorded(tmp_path)
    last = tmp_path / "ckpt" / "last.ckpt"
    trainer(tmp_path, plugins=[Noting()]).strategy.checkpoint_io.save_checkpoint({"global_step": 4}, path=last)
    assert torch.load(last, weights_only=True) == {"global_step": 4, "noted": True}
    checkpoint.verify()


def test_a_link_of_the_user_to_another_place_is_left_to_lightning(tmp_path: Path) -> None:
    large = tmp_path / "large_disk" / "last.ckpt"
    large.parent.mkdir()
    mine = tmp_path / "last.ckpt"
    mine.symlink_to(large)
    assert guard.linked(mine) is None
    io = trainer(tmp_path).strategy.checkpoint_io
    for number in (1, 2):
        io.save_checkpoint({"global_step": number}, mine)
        assert mine.is_symlink()
        assert step(large) == number


@pytest.mark.parametrize("path", ["plain.ckpt", "missing.ckpt", "folder", "s3://lab/last.ckpt", "memory://last.ckpt"])
def test_what_is_no_link_is_saved_as_by_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain.ckpt").write_bytes(b"old")
    Path("folder").mkdir()
    called: list[Any] = []
    original = TorchCheckpointIO.save_checkpoint.__wrapped__  # type: ignore[attr-defined]
    inner = guard._guarded(lambda *arguments, **options: called.append((*arguments, options)))
    inner("plug-in", {}, path, storage_options=1)
    assert called == [("plug-in", {}, path, {"storage_options": 1})]
    assert not hasattr(original, "__wrapped__")  # guarded once, however many Trainers there were


def test_a_substitute_is_not_guarded() -> None:
    with mock.patch.object(TorchCheckpointIO, "save_checkpoint") as substitute:
        assert callbacks() == no_callbacks() == []
        assert TorchCheckpointIO.save_checkpoint is substitute


def test_nothing_is_loaded_for_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in guard._MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    guard.install()
    assert not set(guard._MODULES) & set(sys.modules)
