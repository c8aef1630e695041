"""Small files, and files that datasets share."""

import os
from pathlib import Path

import pytest

from lightning_dtool.store import DatasetWriter, FrozenDataset, local_path
from lightning_dtool.store.small_files import LinkedFiles, read_small, write_small


@pytest.mark.parametrize("size", [0, 1, 4096, 3 * 2**20])
def test_a_file_is_read_as_it_was_written(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    write_small(tmp_path / "file", b"longer than before" * 10)
    write_small(tmp_path / "file", content)
    assert read_small(tmp_path / "file") == content


def test_a_file_without_a_size_is_read_whole() -> None:
    if not os.path.exists("/proc/self/stat"):
        pytest.skip("no such files")
    assert read_small("/proc/self/stat").startswith(f"{os.getpid()} ".encode())


@pytest.mark.parametrize("change", ["none", "content", "removed"])
def test_a_shared_file_that_has_changed_is_not_shared_any_more(tmp_path: Path, change: str) -> None:
    files = LinkedFiles()
    first, second = tmp_path / "first", tmp_path / "second"
    files.put(str(first), b"text", str(first))
    if change == "content":
        first.write_text("another text")
    elif change == "removed":
        first.unlink()
    files.put(str(second), b"text", str(second))
    assert second.read_text() == "text"
    assert (second.stat().st_nlink == 2) == (change == "none")
    third = tmp_path / "third"
    files.put(str(third), b"text", str(third))
    assert third.samefile(second)


def test_annotations_are_never_shared(tmp_path: Path) -> None:
    """dtool's command line changes them in place."""
    made: list[FrozenDataset] = []
    for name in ("one", "two"):
        with DatasetWriter(name, tmp_path) as writer:
            writer.put_annotation("status", "running")
            writer.put_tag("a-tag")
            writer.put_readme("---")
            made.append(writer.commit())
    shared = set()
    for path in Path(str(local_path(made[1].uri))).rglob("*"):
        if path.is_file() and path.stat().st_nlink > 1:
            shared.add(path.name)
    assert shared == {"structure.json", "README.txt", "a-tag"}
