"""Copies of files: hashed on the way, and gone if copying fails."""

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from lightning_dtool.store.copying import copy_all, copy_hashed


def test_a_copy_that_fails_half_way_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(b"12345")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:2]))
    assert copy_hashed(tmp_path / "source", tmp_path / "whole")[0] == 5
    assert (tmp_path / "whole").read_bytes() == b"12345"
    with pytest.raises(FileExistsError):
        copy_hashed(tmp_path / "source", tmp_path / "whole")

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        copy_hashed(tmp_path / "source", tmp_path / "half")
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("fault", ["missing", "refused"])
def test_files_that_were_not_announced_are_gone_after_a_fault(tmp_path: Path, fault: str) -> None:
    (tmp_path / "source").write_bytes(b"12345")
    paths = {f"{number % 2}/{number}": tmp_path / "source" for number in range(100)}
    if fault == "missing":
        paths["0/80"] = tmp_path / "none"
    announced: list[str] = []

    def on_copy(relpath: str, size: int, md5: str, sha256: str) -> None:
        announced.append(relpath)
        if fault == "refused" and relpath == "0/40":
            raise OSError("refused")

    with pytest.raises(OSError, match=r"refused|none"):
        copy_all(paths, tmp_path / "copies", on_copy, lambda relpath: nullcontext())
    there = sorted(f"{path.parent.name}/{path.name}" for path in tmp_path.glob("copies/*/*"))
    assert sorted(announced) == there
    assert announced == list(paths)[: len(announced)]
