"""What stands at Lightning's checkpoint path."""

import io
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_dtool.publishing import linking
from lightning_dtool.publishing.linking import detach, duplicate, exchange, link, write, write_and_open


def refuse(*_: Any, **__: Any) -> None:
    raise OSError("not on this file system")


@pytest.fixture
def item(tmp_path: Path) -> Path:
    path = tmp_path / "dataset" / "checkpoint.ckpt"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("missing", [(), ("link",), ("link", "symlink")])
@pytest.mark.parametrize("before", ["nothing", "file", "link"])
def test_a_path_leads_to_the_item(
    tmp_path: Path, item: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], before: str
) -> None:
    path = tmp_path / "runs" / "best.ckpt"
    if before != "nothing":
        path.parent.mkdir()
        path.write_bytes(b"old") if before == "file" else path.symlink_to(tmp_path / "gone")
    monkeypatch.setattr(linking, "_clone", refuse)
    for name in missing:
        monkeypatch.setattr(os, name, refuse)
    link(item, path)
    assert path.read_bytes() == b"weights"
    assert path.is_symlink() == (missing == ("link",))
    assert path.samefile(item) == ("symlink" not in missing)
    assert os.listdir(path.parent) == ["best.ckpt"]
    path.unlink()
    assert item.read_bytes() == b"weights"


def test_a_path_may_be_a_file_of_its_own(tmp_path: Path, item: Path) -> None:
    for copy in (link, duplicate):
        copy(item, tmp_path / "a.ckpt", "copy")
        assert not (tmp_path / "a.ckpt").samefile(item)
        assert (tmp_path / "a.ckpt").read_bytes() == b"weights"


def test_a_file_is_exchanged_for_a_link_and_stays_where_there_are_none(
    tmp_path: Path, item: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"weights")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        patch.setattr(os, "symlink", refuse)
        with pytest.raises(OSError, match="not on this file system"):
            exchange(item, path)
        assert not path.samefile(item)
    exchange(item, path)
    assert path.samefile(item)
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "dataset"]


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


def test_what_is_written_at_a_link_does_not_reach_what_is_behind_it(tmp_path: Path) -> None:
    item = tmp_path / "item"
    for make in (os.symlink, os.link):
        item.write_text("frozen")
        place = tmp_path / "last.ckpt"
        make(item, place)
        item.chmod(0o444)
        detach(place)
        assert (place.read_text(), place.is_symlink()) == ("frozen", False)
        place.write_text("plain")
        assert item.read_text() == "frozen"
        detach(place)
        assert place.read_text() == "plain"
        place.unlink()
        item.chmod(0o644)
    detach(place)
    detach("s3://lab/last.ckpt")
    place.symlink_to(tmp_path / "gone")
    detach(place)
    assert not place.is_symlink()


def test_a_file_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    """torch does not look how much of its bytes a file has taken."""
    resource = pytest.importorskip("resource")
    state = {"w": torch.arange(100_000.0)}
    write(partial(torch.save, state), tmp_path / "whole.ckpt")
    whole = (tmp_path / "whole.ckpt").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for missing in (1, 21, 5_000, 200_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (whole - missing, before[1]))
        try:
            with pytest.raises((OSError, RuntimeError)):
                write(partial(torch.save, state), tmp_path / "short.ckpt")
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
    write(partial(torch.save, state), tmp_path / "a.ckpt")
    monkeypatch.undo()
    assert torch.equal(torch.load(tmp_path / "a.ckpt", weights_only=True)["w"], state["w"])


def test_a_file_can_be_read_after_its_path_is_gone(tmp_path: Path) -> None:
    with write_and_open(lambda file: file.write(b"weights"), tmp_path / "a.ckpt") as file:
        (tmp_path / "a.ckpt").unlink()
        assert file.read() == b"weights"
    assert os.listdir(tmp_path) == []
