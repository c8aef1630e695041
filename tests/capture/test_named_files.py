"""Files that data in memory names: found in the folder of their dataset, up to a limit, the same when they moved."""

from pathlib import Path

import pytest
import torch

from lightning_dtool.capture import named_files
from lightning_dtool.capture.named_files import NamedFiles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"a.txt": "a", "b.txt": "bb"}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_relative_paths_are_looked_up_in_the_folder_of_the_dataset(folder: Path) -> None:
    files = NamedFiles()
    assert not files.is_file("a.txt")
    files.enter({"root": str(folder)})
    files.enter({"root": None})  # another dataset, which names no folder
    assert files.is_file("a.txt")
    assert files.is_file(folder / "a.txt")
    assert files.describe("a.txt") == ["a.txt", 1]


def test_what_is_no_path_is_no_file(folder: Path) -> None:
    files = NamedFiles()
    files.enter({"root": str(folder)})
    assert not any(map(files.is_file, ["", "a\0b", "a" * 2000, 1, None, str(folder), "c.txt"]))
    assert not any(map(files.lists, [[], (), [torch.zeros(1)], [{"image": "a.txt"}], [()], [["c.txt"]]]))
    assert files.lists([("a.txt", 1)])


def test_files_are_described_alike_wherever_they_are(folder: Path) -> None:
    files = NamedFiles()
    named = [(str(folder / name), 1) for name in ("a.txt", "b.txt")]
    assert list(files.describe_all(named)) == [("a.txt", 1), ("b.txt", 2)]
    assert list(files.describe_all([*named, "no/such.txt"]))[2] == ("no/such.txt", None)
    assert files.found == 5


def test_files_beyond_the_limit_are_not_looked_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_files, "MAX_FILES", 1)
    files = NamedFiles()
    names = [str(folder / "a.txt"), str(folder / "b.txt")]
    assert [files.is_file(name) for name in names] == [True, False]
    assert list(files.describe_all(names)) == [("a.txt", None), ("b.txt", None)]
