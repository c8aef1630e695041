"""What stands at Lightning's checkpoint path."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_dtool.publishing.linking import duplicate, forget_link, link, reserve, write


def refuse(*_: Any, **__: Any) -> None:
    raise OSError("not on this file system")


@pytest.fixture
def item(tmp_path: Path) -> Path:
    path = tmp_path / "dataset" / "checkpoint.ckpt"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("missing", [(), ("symlink",), ("symlink", "link")])
@pytest.mark.parametrize("before", ["nothing", "file", "link"])
def test_a_path_leads_to_the_item(
    tmp_path: Path, item: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], before: str
) -> None:
    path = tmp_path / "runs" / "best.ckpt"
    if before != "nothing":
        path.parent.mkdir()
        path.write_bytes(b"old") if before == "file" else path.symlink_to(tmp_path / "gone")
    for name in missing:
        monkeypatch.setattr(os, name, refuse)
    link(item, path)
    assert path.read_bytes() == b"weights"
    assert path.is_symlink() == ("symlink" not in missing)
    if missing:
        assert (path.stat().st_ino == item.stat().st_ino) == ("link" not in missing)
    assert os.listdir(path.parent) == ["best.ckpt"]
    path.unlink()
    assert item.read_bytes() == b"weights"


def test_a_failure_leaves_what_was_there(tmp_path: Path, item: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs" / "best.ckpt"
    link(item, path)
    item.unlink()
    path.unlink()
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(OSError, match="checkpoint"):
        link(item, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["best.ckpt"]


def test_a_name_as_long_as_can_be(tmp_path: Path, item: Path) -> None:
    path = tmp_path / ("e" * 255)
    link(item, path)
    assert path.read_bytes() == b"weights"


@pytest.mark.parametrize("missing", [(), ("link",)])
def test_a_duplicate_outlives_its_source(
    tmp_path: Path, item: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    for name in missing:
        monkeypatch.setattr(os, name, refuse)
    path = tmp_path / "last.ckpt"
    duplicate(item, path)
    duplicate(item, path)  # already the same file
    item.unlink()
    assert path.read_bytes() == b"weights"
    assert not path.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["dataset", "last.ckpt"]


def test_a_reserved_path_counts_as_taken_and_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.ckpt"
    reserve(path)
    assert path.read_bytes() == b""
    path.write_bytes(b"x")
    reserve(path)
    assert path.read_bytes() == b"x"
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "gone")
    reserve(dangling)
    assert dangling.is_symlink()
    assert not (tmp_path / "gone").exists()


def test_what_is_written_at_a_link_does_not_reach_what_is_behind_it(tmp_path: Path) -> None:
    item = tmp_path / "item"
    for make in (os.symlink, os.link):
        item.write_text("frozen")
        place = tmp_path / "last.ckpt"
        make(item, place)
        forget_link(place)
        place.write_text("plain")
        assert item.read_text() == "frozen"
        forget_link(place)
        assert place.read_text() == "plain"
        place.unlink()
    forget_link(place)
    forget_link("s3://lab/last.ckpt")


def test_a_file_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    """torch does not look how much of its bytes a file has taken."""
    resource = pytest.importorskip("resource")
    state = {"w": torch.arange(100_000.0)}
    write(state, tmp_path / "whole.ckpt")
    whole = (tmp_path / "whole.ckpt").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for missing in (1, 21, 5_000, 200_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (whole - missing, before[1]))
        try:
            with pytest.raises((OSError, RuntimeError)):
                write(state, tmp_path / "short.ckpt")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert os.listdir(tmp_path) == ["whole.ckpt"]


class Reluctant(io.FileIO):
    """Takes a few bytes at a time, as a system does with those beyond two gigabytes."""

    def write(self, data: Any) -> int:
        return super().write(memoryview(data)[:50_000])


def test_a_file_that_takes_a_part_gets_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: Path, mode: str, buffering: int = -1) -> Any:
        raw = Reluctant(path, mode.replace("b", ""))
        return raw if buffering == 0 else io.BufferedWriter(raw)

    monkeypatch.setattr(Path, "open", opened)
    state = {"w": torch.arange(100_000.0)}
    write(state, tmp_path / "a.ckpt")
    monkeypatch.undo()
    assert torch.equal(torch.load(tmp_path / "a.ckpt", weights_only=True)["w"], state["w"])
