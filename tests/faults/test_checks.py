"""The checks of the campaign find the faults that are planted here, and nothing in what is whole."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from faults.cases import KILLS, S3, cases, short
from faults.checks import (
    CONTENT,
    DANGLING,
    EMPTY,
    FAILED,
    LEFT,
    LOST,
    WRONG,
    Finding,
    NotWhole,
    check_datasets,
    check_kept,
    check_nothing_gone,
    check_nothing_left,
    check_paths,
    check_resumed,
    step_of,
)
from faults.ledger import Ledger, note
from faults.links import LINKS
from faults.operations import Operations
from faults.processes import of_session, wait_until_gone
from faults.strikes import STRIKES
from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolProvenanceCallback


def checkpoint(path: Path, step: int, content: int | None = None) -> Path:
    tensor = torch.full((4096,), float(step))
    tensor[-1] = step if content is None else content
    torch.save({"global_step": step, "state_dict": {CONTENT: tensor}}, path)
    return path


def kinds(findings: list[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


# -- files ----------------------------------------------------------------------------------------


def test_a_whole_checkpoint_is_of_its_step(tmp_path: Path) -> None:
    assert step_of(checkpoint(tmp_path / "a.ckpt", 3)) == 3


def test_a_content_of_two_steps_is_not_whole(tmp_path: Path) -> None:
    with pytest.raises(NotWhole, match="not all"):
        step_of(checkpoint(tmp_path / "a.ckpt", 3, content=6))


def test_a_file_that_was_cut_off_is_not_whole(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.ckpt", 3)
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(NotWhole):
        step_of(file)


# -- Lightning's paths ----------------------------------------------------------------------------


def test_whole_checkpoints_at_their_paths_are_found_to_be_so(tmp_path: Path) -> None:
    checkpoint(tmp_path / "step=3.ckpt", 3)
    os.link(tmp_path / "step=3.ckpt", tmp_path / "last.ckpt")
    assert check_paths(tmp_path, [3, 6]) == ({"last.ckpt": 3, "step=3.ckpt": 3}, [])


def test_faults_at_paths_are_found(tmp_path: Path) -> None:
    (tmp_path / "a-empty.ckpt").touch()
    (tmp_path / "b-dangling.ckpt").symlink_to(tmp_path / "gone")
    (tmp_path / "c-text.ckpt").write_text("text")
    checkpoint(tmp_path / "last.ckpt", 9)
    checkpoint(tmp_path / "step=3.ckpt", 6)
    held, found = check_paths(tmp_path, [3, 6])
    assert kinds(found) == [EMPTY, DANGLING, WRONG, WRONG, WRONG]
    assert held == {"last.ckpt": 9, "step=3.ckpt": 6}


def test_a_folder_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    assert check_paths(tmp_path / "gone", [3]) == ({}, [])


# -- nothing is lost ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "certain", "kept", "lost"),
    [
        ({}, [], 2, 0),
        ({"step=3.ckpt": 3, "last.ckpt": 3}, [3], 2, 0),
        ({"step=3.ckpt": 3, "step=6.ckpt": 6, "last.ckpt": 6}, [3, 6], 2, 0),
        ({"step=6.ckpt": 6, "step=9.ckpt": 9, "last.ckpt": 6}, [3, 6], 2, 0),  # the save of step 9 had not returned
        ({"step=6.ckpt": 6, "last.ckpt": 3}, [3, 6], 1, 1),
        ({"step=6.ckpt": 6, "last.ckpt": 6}, [3, 6], 2, 1),
        ({"step=6.ckpt": 6, "last.ckpt": 6}, [3, 6], -1, 1),
        ({"step=3.ckpt": 3}, [3, 6], 1, 2),
        ({}, [3], 1, 3),
    ],
)
def test_what_was_whole_must_be_kept(paths: dict[str, int], certain: list[int], kept: int, lost: int) -> None:
    found = check_kept(paths, certain, kept, has_last=True)
    assert kinds(found) == [LOST] * lost


def test_a_policy_without_last_loses_none() -> None:
    assert check_kept({"step=3.ckpt": 3}, [3], 1, has_last=False) == []


def test_datasets_that_are_gone_are_lost() -> None:
    assert check_nothing_gone({"a": 3}, {"a": 3, "b": 6}, "recover") == []
    assert kinds(check_nothing_gone({"a": 3, "b": 6}, {"a": 3}, "recover")) == [LOST]


def test_a_next_run_begins_at_the_newest() -> None:
    assert check_resumed(6, {"last.ckpt": 6}, [3, 6], has_last=True) == []
    assert check_resumed(0, {}, [], has_last=True) == []
    assert kinds(check_resumed(3, {"last.ckpt": 6}, [3], has_last=True)) == [LOST]
    assert kinds(check_resumed(0, {}, [3], has_last=True)) == [LOST]
    assert kinds(check_resumed(None, {}, [], has_last=True)) == [FAILED]


# -- nothing is left ------------------------------------------------------------------------------


def test_everything_that_is_left_is_named(tmp_path: Path) -> None:
    for name in ("paths", "tmp"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "paths" / "last.ckpt").touch()
    (tmp_path / "paths" / ".1.tmp").touch()
    (tmp_path / "tmp" / "x").touch()
    found = check_nothing_left([".writing-1"], tmp_path / "paths", tmp_path / "tmp")
    assert kinds(found) == [LEFT] * 3
    assert [finding.text.split()[0] for finding in found] == [".1.tmp", ".writing-1", "x"]


# -- datasets -------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a base folder with the dataset of a training of two steps, whose content says so."""

    class Stepping(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer(CONTENT, torch.full((8,), 2.0))

    (tmp_path / "models").mkdir()
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"))
    trainer(tmp_path, provenance, max_epochs=1, limit_train_batches=2).fit(Stepping(), loader())
    return tmp_path / "models"


def test_a_dataset_that_is_whole_is_found_to_be_so(store: Path) -> None:
    held, found = check_datasets(str(store), [2])
    assert list(held.values()) == [2]
    assert found == []


def test_a_dataset_is_hashed_again_when_it_has_changed(store: Path) -> None:
    known: dict[str, str] = {}
    assert check_datasets(str(store), [2], known)[1] == []
    (item,) = store.glob("*/data/provenance.json")
    item.chmod(0o644)
    item.write_bytes(item.read_bytes().replace(b"TinyNet", b"TinyNot"))
    assert kinds(check_datasets(str(store), [2], known)[1]) == [WRONG]


def test_a_dataset_of_a_step_that_was_never_saved_is_wrong(store: Path) -> None:
    assert kinds(check_datasets(str(store), [4])[1]) == [WRONG]


def test_a_dataset_that_does_not_verify_is_wrong(store: Path) -> None:
    (item,) = store.glob("*/data/checkpoint.ckpt")
    content = bytearray(item.read_bytes())
    content[len(content) // 2] ^= 1
    item.chmod(0o644)
    item.write_bytes(content)
    assert kinds(check_datasets(str(store), [2])[1]) == [WRONG]


def test_a_dataset_that_cannot_be_opened_is_wrong(store: Path) -> None:
    (manifest,) = store.glob("*/.dtool/manifest.json")
    manifest.chmod(0o644)
    manifest.write_text("{")
    assert kinds(check_datasets(str(store), [2])[1]) == [WRONG]


def test_a_dataset_that_is_being_written_is_none(store: Path) -> None:
    (dataset,) = (entry for entry in store.iterdir() if entry.is_dir())
    copy = store / "copy"
    shutil.copytree(dataset, copy)
    admin = json.loads((copy / ".dtool" / "dtool").read_text())
    (copy / ".dtool" / "dtool").chmod(0o644)
    (copy / ".dtool" / "dtool").write_text(json.dumps({**admin, "type": "protodataset", "name": "copy"}))
    held, found = check_datasets(str(store), [2])
    assert len(held) == 1
    assert found == []


# -- what a training notes, and what kills it -----------------------------------------------------


def test_a_ledger_says_what_must_be_whole(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    assert Ledger.read(file) == Ledger()
    for event, step in [("resumed", 0), ("begun", 3), ("begun", 3), ("returned", 3), ("begun", 6), ("returned", 6)]:
        note(file, event, step)
    ledger = Ledger.read(file)
    assert ledger == Ledger([3, 6], [3, 6], resumed=0)
    assert ledger.certain(0) == [3, 6]
    assert ledger.certain(1) == [3]
    note(file, "ended")
    assert Ledger.read(file).certain(1) == [3, 6]


def test_a_process_kills_itself_before_an_operation(tmp_path: Path) -> None:
    program = f"""
import pathlib, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from faults.links import LINKS
from faults.operations import Operations
folder = pathlib.Path({str(tmp_path)!r})
(folder / "in").mkdir()
Operations([folder / "in"], 2, folder).begin()
for name in "abcd":
    (folder / "out").write_text(name)
    (folder / "in" / name).write_text(name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(os.listdir(tmp_path / "in")) == ["a", "b"]
    assert (tmp_path / "out").read_text() == "c"
    assert (tmp_path / "killed.txt").read_text().startswith("open ")


def test_operations_are_counted(tmp_path: Path) -> None:
    operations = Operations([f"file://{tmp_path}"], None, tmp_path)
    operations._note("open", (str(tmp_path / "a"), "r", os.O_RDONLY))
    operations._note("open", ("/elsewhere", "w", os.O_WRONLY))
    assert operations.count == 0
    operations._note("open", (str(tmp_path / "a"), "w", os.O_WRONLY))
    operations._note("os.rename", (tmp_path / "a", tmp_path / "b", -1, -1))
    assert operations.count == 2


def test_the_processes_of_a_session_are_found() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        assert of_session(process.pid) == [process.pid]
        assert wait_until_gone(process.pid, 0.0) == [process.pid]
        process.kill()
    assert wait_until_gone(process.pid, 10.0) == []


# -- the cases ------------------------------------------------------------------------------------


def test_there_are_enough_kills_of_each_sort() -> None:
    found = cases(seed=1)
    assert len(set(found)) == len(found)
    assert sum(case.fault in KILLS[:2] and case.place != S3 for case in found) == 200
    assert set(STRIKES) | set(LINKS) < {case.fault for case in found}


def test_a_seed_gives_the_same_cases() -> None:
    assert cases(3) == cases(3) != cases(4)
    assert short(3) == short(3)
