"""What processes that were killed leave in a store on disk, and what `recover` does about it."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dtoolcore
import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from conftest import MakeDataset, Run
from kit import TinyNet, loader, trainer
from lightning_dtool import (
    DatasetWriter,
    DtoolCheckpoint,
    DtoolProvenanceCallback,
    FrozenDataset,
    ProvenanceWarning,
    Recovered,
    iter_datasets,
    recover,
)
from lightning_dtool.errors import DatasetNotFoundError, InvalidURIError, StoreError
from lightning_dtool.publishing.unpublished import folder_of
from lightning_dtool.recovery.folders import look_through
from lightning_dtool.recovery.telling import unfinished
from lightning_dtool.store import workplaces
from lightning_dtool.store.locking import tried
from lightning_dtool.store.ownership import current_owner, owner_to_json
from lightning_dtool.store.temporaries import temporary_beside

WRITE = """
import os, signal, sys
from lightning_dtool.store import DatasetWriter, delete_dataset, workplaces

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

base, name, when = sys.argv[1:]
writer = DatasetWriter(name, base)
writer.put_bytes(b"abc", "in/a")
if when == "item":
    with writer.open("b") as file:
        file.write(b"1")
        die()
writer.put_annotation("a", 1)
writer.put_tag("t")
if when in ("deliver", "claim"):
    setattr(workplaces, "deliver", die)
writer.commit()
delete = workplaces._delete
workplaces._delete = lambda folder: (folder / "data/in/a").unlink() or die() if when == "half" else die()
delete_dataset(writer.uri)
"""


def killed(base: Path, name: str = "x", when: str = "item") -> None:
    """Write a dataset in a process that is killed at some point."""
    died = subprocess.run([sys.executable, "-c", WRITE, str(base), name, when], check=False)
    assert died.returncode == -signal.SIGKILL


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def paths(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


def outcomes(found: list[Recovered]) -> list[str]:
    return [each.outcome for each in found]


def test_an_incomplete_dataset_is_removed(base: Path, paths: Path) -> None:
    killed(base)
    assert outcomes(recover(base, [paths], dry_run=True)) == ["removed"]
    assert len(os.listdir(base)) == 2
    (found,) = recover(base, [paths])
    assert (found.outcome, found.what) == ("removed", "a dataset that was being written")
    assert found.uri.endswith("/models/x")
    assert os.listdir(base) == []
    assert recover(base, [paths]) == []


@pytest.mark.read_only_items
def test_a_whole_dataset_is_finished(base: Path, paths: Path) -> None:
    killed(base, when="deliver")
    assert list(iter_datasets(base)) == []
    assert outcomes(recover(base, [paths], dry_run=True)) == ["finished"]
    assert list(iter_datasets(base)) == []
    assert outcomes(recover(base, [paths])) == ["finished"]
    assert os.listdir(base) == ["x"]
    dataset = FrozenDataset.from_uri(base / "x")
    dataset.verify()
    assert (dataset.annotations(), dataset.tags()) == ({"a": 1}, ["t"])
    assert not stat.S_IMODE(dataset.path(dataset.item("in/a").identifier).stat().st_mode) & 0o222


@pytest.mark.parametrize("damaged", ["data/in/a", ".dtool/manifest.json", ".dtool/annotations/a.json"])
def test_a_dataset_that_only_looks_whole_is_removed(base: Path, paths: Path, damaged: str) -> None:
    """As after a power cut: the content was never on the disk."""
    killed(base, when="deliver")
    (path,) = base.glob(f".writing-*/x/{damaged}")
    os.truncate(path, 0)
    assert outcomes(recover(base, [paths])) == ["removed"]
    assert os.listdir(base) == []


def test_what_cannot_be_read_is_not_taken_for_incomplete(
    base: Path, paths: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    killed(base, when="deliver")

    def denied(*_: object, **__: object) -> None:
        raise StoreError("cannot read item: permission denied", kind="denied")

    monkeypatch.setattr(FrozenDataset, "verify", denied)
    (found,) = recover(base, [paths])
    assert (found.outcome, found.reason) == ("failed", "cannot read item: permission denied")
    monkeypatch.undo()
    assert outcomes(recover(base, [paths])) == ["finished"]


def test_what_a_process_is_writing_is_left(base: Path, paths: Path) -> None:
    with DatasetWriter("x", base) as writer:
        writer.put_bytes(b"1", "a")
        (found,) = recover(base, [paths], other_hosts=True)
        assert found.outcome == "left"
        assert f"process {os.getpid()} on " in found.reason
        assert unfinished(writer.uri.rpartition("/")[0]) == ""
        writer.commit().verify()
    assert recover(base, [paths]) == []


def test_what_another_machine_writes_is_left_unless_it_is_said_to_be_dead(base: Path, paths: Path, run: Run) -> None:
    killed(base)
    (owner,) = base.glob(".writing-*/owner.json")
    owner.write_text(owner_to_json(replace(current_owner(), host="node17")))
    (found,) = recover(base, [paths])
    assert found.outcome == "left"
    assert "on node17" in found.reason
    assert "--other-hosts" in found.reason
    assert outcomes(recover(base, [paths], other_hosts=True)) == ["removed"]
    assert os.listdir(base) == []


def test_a_folder_without_an_owner_is_somebodys_only_while_it_is_new(base: Path, paths: Path) -> None:
    for name in (".writing-1", ".removing-2"):
        (base / name).mkdir()
    assert outcomes(recover(base, [paths])) == ["left", "left"]
    for name in (".writing-1", ".removing-2"):
        os.utime(base / name, (0, 0))
    assert outcomes(recover(base, [paths])) == ["removed", "removed"]


def test_a_dataset_that_was_being_removed_goes(base: Path, paths: Path) -> None:
    killed(base, when="removing")
    assert outcomes(recover(base, [paths])) == ["removed"]
    assert os.listdir(base) == []


def test_a_dataset_that_a_path_leads_to_comes_back(base: Path, paths: Path) -> None:
    killed(base, when="removing")
    (paths / "last.ckpt").symlink_to(base / "x/data/in/a")
    assert outcomes(recover(base, [paths])) == ["finished"]
    assert (paths / "last.ckpt").read_bytes() == b"abc"
    FrozenDataset.from_uri(base / "x").verify()
    assert os.listdir(base) == ["x"]


def test_half_a_dataset_does_not_come_back(base: Path, paths: Path) -> None:
    killed(base, when="half")
    (paths / "last.ckpt").symlink_to(base / "x/data/in/a")
    assert outcomes(recover(base, [paths])) == ["removed"]
    with pytest.raises(DatasetNotFoundError):
        FrozenDataset.from_uri(base / "x")


def test_a_name_that_was_taken_meanwhile(base: Path, paths: Path) -> None:
    killed(base, when="deliver")
    with DatasetWriter("x", base) as writer:
        writer.put_bytes(b"2", "a")
        second = writer.commit()
    (found,) = recover(base, [paths])
    assert found.outcome == "left"
    assert "another dataset has its name" in found.reason
    second.verify()
    Path(base / "x").rename(base / "y")
    assert outcomes(recover(base, [paths])) == ["finished"]
    assert {dataset.read_bytes(next(iter(dataset.items))) for dataset in iter_datasets(base)} == {b"abc", b"2"}


def test_a_claim_that_could_not_be_removed_is_known_by_its_name(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    writer = DatasetWriter("x", str(base))
    writer.put_bytes(b"abc", "a")
    with monkeypatch.context() as patch:
        for change in ("rmdir", "rename"):  # of what is in the base folder itself
            patch.setattr(Path, change, denied)
        with pytest.raises(StoreError, match="Operation not permitted"):
            writer.abort()
    (left,) = workplaces.leftovers(base.as_uri(), base, quick=True)
    assert left.name == "x"
    workplaces.give_up(workplaces.workplace_of(left))
    assert os.listdir(base) == []


def test_the_claim_of_a_second_writer_outlives_the_first_ones_remains(base: Path, paths: Path) -> None:
    killed(base)
    with DatasetWriter("x", base) as writer:
        assert sorted(outcomes(recover(base, [paths]))) == ["left", "removed"]
        assert (base / "x").is_dir()
        writer.put_bytes(b"2", "a")
        writer.commit().verify()


def test_what_dtool_is_writing_is_left(base: Path, paths: Path) -> None:
    with dtoolcore.DataSetCreator("theirs", str(base)) as creator:
        creator.put_item(__file__, "a")
        (found,) = recover(base, [paths], other_hosts=True)
        assert (found.outcome, found.what) == ("left", "a proto dataset")
    FrozenDataset.from_uri(creator.uri).verify()


def test_a_dataset_is_no_base_uri(make_dataset: MakeDataset) -> None:
    with pytest.raises(InvalidURIError):
        recover(make_dataset().uri, [])


def test_two_recover_at_the_same_time(base: Path, paths: Path) -> None:
    for number in range(4):
        killed(base, f"part{number}")
        killed(base, f"whole{number}", when="deliver")
    script = f"from lightning_dtool import recover; print([f.outcome for f in recover({str(base)!r}, [])])"
    both = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [each.wait() for each in both] == [0, 0]
    assert sorted(os.listdir(base)) == [f"whole{number}" for number in range(4)]
    for dataset in iter_datasets(base):
        dataset.verify()


def test_links_and_unpublished_checkpoints_are_looked_for(tmp_path: Path, make_dataset: MakeDataset) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/last.ckpt").symlink_to("../../gone/data/x")
    (tmp_path / "a/epoch=1.ckpt.unpublished").mkdir()
    found = look_through([tmp_path / "a", tmp_path / "nothing"])
    assert found.targets == {f"{os.path.realpath(tmp_path)}/gone/data/x"}
    assert found.unpublished == (tmp_path / "a/epoch=1.ckpt",)


# -- Lightning's paths ------------------------------------------------------------------------------


class LosesTheStore(Callback):
    """Takes the base folder away when the first epoch has ended."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.base.exists():
            self.base.rename(self.base.with_name("away"))


def test_checkpoints_that_were_not_published_are_published(base: Path, paths: Path, run: Run) -> None:
    policy = ModelCheckpoint(dirpath=paths, filename="{epoch}", save_top_k=-1)
    with pytest.warns(ProvenanceWarning, match=f"lightning-dtool recover file://.*{base} {paths}"):
        trainer(paths, LosesTheStore(base), DtoolProvenanceCallback(base), policy).fit(TinyNet(), loader())
    files = {path.name: path.read_bytes() for path in paths.glob("*.ckpt")}
    assert sorted(files) == ["epoch=0.ckpt", "epoch=1.ckpt"]
    base.with_name("away").rename(base)
    other = base.with_name("other")
    other.mkdir()
    assert outcomes(recover(other, [paths])) == ["left", "left"]
    assert outcomes(recover(base, [paths], dry_run=True)) == ["published", "published"]
    lines = run("recover", base, paths).stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["published", "published"]
    for dataset in iter_datasets(base):
        checkpoint = DtoolCheckpoint.from_uri(dataset.uri)
        checkpoint.verify()
        assert checkpoint.path.read_bytes() == files.pop(f"epoch={checkpoint.record.checkpoint.epoch}.ckpt")
    assert files == {}
    assert recover(base, [paths]) == []
    assert {path.suffix for path in paths.iterdir()} == {".ckpt"}


class Recovers(LosesTheStore):
    """Takes the base folder away, brings it back after the next epoch, and runs `recover` as another terminal would."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.found: list[Recovered] = []

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            super().on_train_epoch_end(trainer, module)
        elif trainer.current_epoch == 1:
            trainer.strategy.checkpoint_io._worker.wait()  # until the first checkpoint could not be published
            self.base.with_name("away").rename(self.base)
            self.found = recover(self.base, [trainer.checkpoint_callback.dirpath], other_hosts=True)


@pytest.fixture
def unpublished_file(base: Path, paths: Path) -> Path:
    """Return the only file of a run whose store was away, and has come back."""
    policy = ModelCheckpoint(dirpath=paths, filename="only")
    with pytest.warns(ProvenanceWarning, match="could not be published"):
        trainer(paths, LosesTheStore(base), DtoolProvenanceCallback(base), policy, max_epochs=1).fit(
            TinyNet(), loader()
        )
    base.with_name("away").rename(base)
    return paths / "only.ckpt"


def test_an_unpublished_checkpoint_of_a_run_that_lives_is_left(base: Path, paths: Path) -> None:
    policy = ModelCheckpoint(dirpath=paths, filename="{epoch}", save_top_k=-1)
    other = Recovers(base)
    with pytest.warns(ProvenanceWarning, match="could not be published"):
        trainer(paths, other, DtoolProvenanceCallback(base), policy, max_epochs=3).fit(TinyNet(), loader())
    (left,) = other.found
    assert (left.outcome, left.what) == ("left", "a checkpoint that was not published")
    assert f"process {os.getpid()} on " in left.reason
    assert outcomes(recover(base, [paths])) == ["published"]
    assert sorted(d.name.split("-")[1] for d in iter_datasets(base)) == ["epoch0", "epoch1", "epoch2"]


def test_an_unpublished_checkpoint_of_another_machine_is_left(base: Path, paths: Path, unpublished_file: Path) -> None:
    owner = folder_of(unpublished_file) / "owner.json"
    owner.write_text(owner_to_json(replace(current_owner(), host="node17")))
    (found,) = recover(base, [paths])
    assert (found.outcome, "on node17" in found.reason) == ("left", True)
    assert outcomes(recover(base, [paths], other_hosts=True)) == ["published"]


def test_an_unpublished_checkpoint_is_published_once(base: Path, paths: Path, unpublished_file: Path) -> None:
    """Two processes at once, and one that was killed before it could remove the folder."""
    folder = folder_of(unpublished_file)
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)
    with tried(folder / "publishing.lock") as is_free:
        assert is_free
        (found,) = recover(base, [paths])
        assert (found.outcome, "another process" in found.reason) == ("left", True)
    (first,) = recover(base, [paths])
    kept.rename(folder)
    (second,) = recover(base, [paths])
    assert (first.outcome, second.outcome, first.uri) == ("published", "published", second.uri)
    assert not folder.exists()
    (dataset,) = iter_datasets(base)
    dataset.verify()


def test_the_record_of_a_file_that_was_overwritten_goes(base: Path, paths: Path, unpublished_file: Path) -> None:
    """A run without the callback goes on in the same folder."""
    policy = ModelCheckpoint(dirpath=paths, filename="other")
    t = trainer(paths, policy, max_epochs=2)
    t.fit(TinyNet(), loader())
    (paths / "other.ckpt").replace(unpublished_file)
    before = unpublished_file.read_bytes()
    assert outcomes(recover(base, [paths], dry_run=True)) == ["removed"]
    assert outcomes(recover(base, [paths])) == ["removed"]
    assert unpublished_file.read_bytes() == before
    assert not folder_of(unpublished_file).exists()


def test_the_record_of_a_file_that_is_damaged_stays(base: Path, paths: Path, unpublished_file: Path) -> None:
    os.truncate(unpublished_file, unpublished_file.stat().st_size - 100)
    (found,) = recover(base, [paths])
    assert found.outcome == "failed"
    assert folder_of(unpublished_file).is_dir()


def test_the_record_of_a_file_that_was_removed_goes(base: Path, paths: Path) -> None:
    (paths / "last.ckpt.unpublished").mkdir()
    assert outcomes(recover(base, [paths])) == ["removed"]
    assert os.listdir(paths) == []


def test_an_unpublished_checkpoint_that_was_replaced_is_told(base: Path, paths: Path) -> None:
    (paths / "last.ckpt.unpublished").mkdir()
    (paths / "last.ckpt").touch()
    (found,) = recover(base, [paths])
    assert found.outcome == "failed"
    assert found.place == str(paths / "last.ckpt")
    assert sorted(os.listdir(paths)) == ["last.ckpt", "last.ckpt.unpublished"]


# -- the command line -------------------------------------------------------------------------------


def test_the_command_says_what_it_did(base: Path, paths: Path, run: Run) -> None:
    assert run("recover", base, paths).stderr == f"Nothing is unfinished in {base}.\n"
    killed(base, "part")
    killed(base, "whole", when="deliver")
    listed = run("ls", base)
    uri = f"file://{os.uname().nodename}{base}"
    assert listed.stderr.splitlines()[-1] == (
        f"Unfinished in {uri}: 2 datasets or uploads. See: lightning-dtool recover --dry-run {uri}"
    )
    lines = sorted(run("recover", base, paths, "--dry-run").stdout.splitlines())
    assert [line.partition(":")[0] for line in lines] == ["would finish", "would remove"]
    done = json.loads(run("recover", base, paths, "--json").stdout)
    assert sorted((each["outcome"], each["uri"].rpartition("/")[2]) for each in done) == [
        ("finished", "whole"),
        ("removed", "part"),
    ]
    assert "nfinished" not in run("ls", base).stderr


def test_the_command_fails_if_something_cannot_be_removed(
    base: Path, paths: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(base)

    def denied(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(workplaces, "_delete", denied)
    result = run("recover", base, paths, code=4)
    assert result.stdout.startswith("failed: a dataset that was being written, ")
    assert "permission denied" in result.stdout


def test_the_next_run_says_what_is_left(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def said() -> list[str]:
        caplog.clear()
        trainer(tmp_path, DtoolProvenanceCallback(base), max_epochs=1).fit(TinyNet(), loader())
        return [record.getMessage() for record in caplog.records if "unfinished" in record.getMessage()]

    caplog.set_level("INFO")
    assert said() == []
    killed(base)
    (line,) = said()
    assert line.endswith(
        f"1 dataset or upload. Finish or remove: lightning-dtool recover file://{os.uname().nodename}{base}"
    )
    recover(base, [])
    assert said() == []


# -- temporary files beside checkpoints ----------------------------------------------------------


def test_a_temporary_file_of_a_killed_process_is_removed(base: Path, paths: Path) -> None:
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom lightning_dtool.publishing.linking import write\n"
        "write(lambda file: file.write(b'half') and file.flush() or os.kill(os.getpid(), signal.SIGKILL),"
        " Path(sys.argv[1], 'last.ckpt'))"
    )
    died = subprocess.run([sys.executable, "-c", program, str(paths)], check=False)
    assert died.returncode == -signal.SIGKILL
    (left,) = paths.iterdir()
    assert left.stat().st_size == 4

    for dry_run in (True, False):
        assert left.exists()
        (found,) = recover(base, [paths], dry_run=dry_run)
        assert (found.outcome, found.what, found.place) == ("removed", "a temporary file", str(left))
    assert not left.exists()


def test_a_temporary_folder_of_a_killed_process_is_removed(base: Path, paths: Path) -> None:
    name = temporary_beside(paths / "last.ckpt").name.replace(f"-{os.getpid()}-", "-4194305-")
    (paths / name / "inside").mkdir(parents=True)
    assert [found.outcome for found in recover(base, [paths])] == ["removed"]
    assert not list(paths.iterdir())


def test_a_temporary_file_that_may_be_in_use_is_left(base: Path, paths: Path) -> None:
    own = temporary_beside(paths / "last.ckpt")
    own.touch()
    machine = own.name.split("-")[2]
    elsewhere = own.with_name(own.name.replace(machine, "00000000"))
    elsewhere.touch()
    assert [found.outcome for found in recover(base, [paths])] == ["left", "left"]
    assert own.exists()
    assert elsewhere.exists()
    assert sorted(found.outcome for found in recover(base, [paths], other_hosts=True)) == ["left", "removed"]
    assert own.exists()
    assert not elsewhere.exists()
