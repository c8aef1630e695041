"""Syncing of few and many files to the disk."""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_dtool.store import syncing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number in range(100):
        path = tmp_path / "base" / "tree" / f"{number % 7}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "base" / "tree"


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: names.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    return names


class Libc:
    """A C library that reports a given type of file system."""

    def __init__(self, kind: int, answer: int = 0) -> None:
        self.kind, self.answer, self.whole = kind, answer, 0

    def fstatfs(self, descriptor: int, status: Any) -> int:
        status[0] = self.kind
        return 0

    def syncfs(self, descriptor: int) -> int:
        self.whole += 1
        return self.answer


def every_path(tree: Path) -> set[str]:
    return {str(path) for path in (tree, *tree.rglob("*"))}


@pytest.mark.parametrize("kind", [0x6969, 0x65735546, 0x794C7630])
def test_every_path_is_synced_where_syncfs_is_not_trusted(
    tree: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    libc = Libc(kind)
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **options: libc)
    syncing.sync_tree(tree)
    assert set(synced) == every_path(tree)
    assert not libc.whole
    directories = [position for position, path in enumerate(synced) if Path(path).is_dir()]
    assert min(directories) == 100


@pytest.mark.parametrize(("release", "whole"), [("6.1.0-x", True), ("5.8.0", True), ("5.7.19", False), ("?", False)])
def test_an_old_kernel_hides_errors(
    tree: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch, release: str, whole: bool
) -> None:
    libc = Libc(0xEF53)
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **options: libc)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", release, "", "")))
    syncing.sync_tree(tree)
    assert libc.whole == whole
    assert set(synced) == (set() if whole else every_path(tree))


@pytest.mark.parametrize(("waiting", "whole"), [("900000", False), ("900", True), ("?", False)])
def test_few_files_do_not_wait_for_much_that_others_write(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch, waiting: str, whole: bool
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").touch()
    libc = Libc(0xEF53)
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **options: libc)
    memory = f"MemFree: 12 kB\nDirty: {waiting} kB\nWriteback: 0 kB\n".encode()
    monkeypatch.setattr(syncing, "read_small", lambda _: memory)
    syncing.sync_tree(tmp_path / "tree")
    assert libc.whole == whole
    assert set(synced) == (set() if whole else every_path(tmp_path / "tree"))


def test_a_failed_write_is_an_error(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **options: Libc(0x58465342, answer=-1))
    monkeypatch.setattr(ctypes, "get_errno", lambda: 5)
    with pytest.raises(OSError, match=r"\[Errno 5\]"):
        syncing.sync_tree(tree)

    def fails(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **options: Libc(0))
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space left"):
        syncing.sync_tree(tree)


def test_the_real_call_answers(tree: Path) -> None:
    assert syncing._sync_file_system(tree) in (True, False)
    syncing.sync_tree(tree)
