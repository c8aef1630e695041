"""Writing of datasets, which are ordinary datasets for dtool and never visible before they are complete."""

import errno
import hashlib
import io
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dtoolcore
import pytest
import torch

from lightning_dtool.errors import (
    ConfigurationError,
    DatasetExistsError,
    DatasetNotFoundError,
    InvalidNameError,
    LightningDtoolError,
    MetadataKeyError,
    MetadataValueError,
    NotFrozenError,
    StoreError,
)
from lightning_dtool.store import (
    DatasetWriter,
    Digests,
    FrozenDataset,
    delete_dataset,
    generate_identifier,
    iter_datasets,
    local_path,
    syncing,
    workplaces,
)
from lightning_dtool.store.disk import DiskBroker


def names_in(base_uri: str) -> list[str]:
    path = local_path(base_uri)
    assert path is not None
    return sorted(os.listdir(path))


def built(writer: DatasetWriter) -> Path:
    """Return the folder in which a dataset is built."""
    place = local_path(writer.uri)
    assert place is not None
    (folder,) = place.parent.glob(f".writing-*/{place.name}")
    return folder


def test_what_goes_in_comes_out(base_uri: str, tmp_path: Path) -> None:
    (tmp_path / "leaf.png").write_bytes(b"png")
    with DatasetWriter("leaves", base_uri, creator_username="me") as writer:
        writer.put_overlay("category", {"leaf.png": "oak", "ü/b": "elm", "c": None})
        writer.put_file(tmp_path / "leaf.png", "leaf.png")
        writer.put_bytes(b"b", "ü/b")
        with writer.open("c") as file:
            file.write(b"12")
            file.write(memoryview(b"345"))
            file.flush()
            assert file.tell() == 5
        writer.put_annotation("a", [1, 2])
        writer.put_tag("best")
        writer.put_readme("---\nx: ü\n")
        dataset = writer.commit()
        assert (dataset.uri, dataset.uuid) == (writer.uri, writer.uuid)
    contents = {item.relpath: dataset.read_bytes(item.identifier) for item in dataset.items.values()}
    assert contents == {"leaf.png": b"png", "ü/b": b"b", "c": b"12345"}
    assert dataset.overlay("category")[generate_identifier("ü/b")] == "elm"
    dataset.verify()


def test_dtoolcore_reads_it_as_its_own(make_dataset) -> None:
    dataset = make_dataset(annotations={"a": 1}, tags=("t",))
    theirs = dtoolcore.DataSet.from_uri(dataset.uri)
    assert (theirs.name, theirs.uuid, theirs.uri) == (dataset.name, dataset.uuid, dataset.uri)
    assert set(theirs.identifiers) == set(dataset.items)
    for identifier, item in dataset.items.items():
        properties = theirs.item_properties(identifier)
        assert (properties["relpath"], properties["size_in_bytes"], properties["hash"]) == (
            item.relpath,
            item.size_in_bytes,
            item.hash,
        )
        assert time.time() - 60 < properties["utc_timestamp"] <= time.time()
        assert Path(theirs.item_content_abspath(identifier)) == dataset.path(identifier)
    assert theirs.get_annotation("a") == 1
    assert theirs.list_tags() == ["t"]
    assert isinstance(theirs._admin_metadata["frozen_at"], float)  # public since dtoolcore 3.19


def test_everything_is_durable_before_it_is_seen(base_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "_sync_file_system", lambda _: False)
    events: list[str] = []
    fsync, deliver = os.fsync, workplaces.deliver
    monkeypatch.setattr(os, "fsync", lambda fd: events.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    monkeypatch.setattr(workplaces, "deliver", lambda place: events.append("seen") or deliver(place))
    with DatasetWriter("x", base_uri) as writer:
        writer.put_bytes(b"1", "a/b")
        writer.put_tag("t")
        root = built(writer)
        everything = {str(path) for path in root.rglob("*")} | {str(root)}
        assert events == []
        writer.commit()
    place = local_path(writer.uri)
    assert place is not None
    assert everything <= set(events[:-2])
    assert {str(root / path.relative_to(place)) for path in place.rglob("*")} <= set(events[:-2])
    assert len(events) == len(set(events)), "something is synced twice"
    assert events[-2:] == ["seen", str(place.parent)]
    assert names_in(base_uri) == ["x"]


@pytest.mark.read_only_items
def test_items_are_read_only(base_uri: str, tmp_path: Path) -> None:
    (tmp_path / "private").write_bytes(b"1")
    (tmp_path / "private").chmod(0o640)
    with DatasetWriter("x", base_uri) as writer:
        writer.put_file(tmp_path / "private", "a/private", link=True)
        writer.put_bytes(b"1", "b")
        dataset = writer.commit()
    modes = {
        item.relpath: stat.S_IMODE(dataset.path(item.identifier).stat().st_mode) for item in dataset.items.values()
    }
    umask = os.umask(0)
    os.umask(umask)
    assert modes == {"a/private": 0o440, "b": 0o444 & ~umask}
    dataset.put_tag("later")
    dataset.put_annotation("later", 1)
    delete_dataset(dataset.uri)


def test_hashes_come_from_what_was_written(base_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_dtool.store import digest

    # Whoever has imported `hash_file` by name: this is what it opens files with.
    monkeypatch.setattr(digest, "open", lambda *_, **__: pytest.fail("a file was read again"), raising=False)
    monkeypatch.setattr("dtoolcore.filehasher._hash_the_file", lambda *_: pytest.fail("a file was read again"))
    with DatasetWriter("x", base_uri) as writer:
        writer.put_bytes(b"abc", "a")
        assert writer.commit().item("a").hash == "900150983cd24fb0d6963f7d28e17f72"


def digests_of(content: bytes) -> Digests:
    return Digests(hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("known", [True, False])
def test_a_linked_file_and_its_item_are_one(base_uri: str, tmp_path: Path, known: bool) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"abc")
    (tmp_path / "b.ckpt").symlink_to("a.ckpt")
    with DatasetWriter("x", base_uri) as writer:
        for name in ("a", "b"):
            digests = digests_of(b"abc") if known else None
            writer.put_file(tmp_path / f"{name}.ckpt", f"in/{name}", link=True, digests=digests)
        with pytest.raises(DatasetExistsError):
            writer.put_file(tmp_path / "a.ckpt", "in/a", link=True)
        dataset = writer.commit()
    for name in ("a", "b"):
        assert dataset.path(dataset.item(f"in/{name}").identifier).samefile(tmp_path / "a.ckpt")
    dataset.verify()


def test_a_linked_file_with_known_hashes_is_not_read(
    base_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    monkeypatch.setattr("lightning_dtool.store.writer.hash_file", lambda *_: pytest.fail("the file was read again"))
    with DatasetWriter("x", base_uri) as writer:
        writer.put_file(tmp_path / "a", "a", link=True, digests=digests_of(b"abc"))
        assert writer.commit().item("a").hash == digests_of(b"abc").md5


def test_without_hard_links_a_file_is_copied(base_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    (tmp_path / "a").write_bytes(b"abc")
    with DatasetWriter("x", base_uri) as writer:
        writer.put_file(tmp_path / "a", "a", link=True, digests=digests_of(b"abc"))
        with pytest.raises(StoreError, match="no such file"):
            writer.put_file(tmp_path / "missing", "missing", link=True)
        dataset = writer.commit()
    assert not dataset.path(dataset.item("a").identifier).samefile(tmp_path / "a")
    dataset.verify()


def test_equal_items_of_two_datasets_are_one_file(base_uri: str) -> None:
    datasets: list[FrozenDataset] = []
    for number in range(3):
        with DatasetWriter(f"x{number}", base_uri) as writer:
            before = datasets[-1] if datasets else None
            writer.put_bytes(b"the same", "in/same", like=before)
            writer.put_bytes(f"number {number}".encode(), "other", like=before)
            datasets.append(writer.commit())
    paths = {
        (dataset.name, item.relpath): dataset.path(item.identifier)
        for dataset in datasets
        for item in dataset.items.values()
    }
    assert paths["x0", "in/same"].samefile(paths["x1", "in/same"])
    assert paths["x1", "in/same"].samefile(paths["x2", "in/same"])
    assert [paths[f"x{number}", "other"].read_text() for number in range(3)] == ["number 0", "number 1", "number 2"]
    delete_dataset(datasets[0].uri)
    datasets[1].verify()
    datasets[2].verify()


def test_a_large_item_that_is_linked_does_not_stay_in_memory(base_uri: str) -> None:
    data = bytes(2**20 + 1)
    with DatasetWriter("before", base_uri) as writer:
        writer.put_bytes(data, "a")
        before = writer.commit()
    references = sys.getrefcount(data)
    with DatasetWriter("after", base_uri) as writer:
        writer.put_bytes(data, "a", like=before)
        after = writer.commit()
    paths = [dataset.path(dataset.item("a").identifier) for dataset in (before, after)]
    assert paths[0].samefile(paths[1])
    assert sys.getrefcount(data) == references


@pytest.mark.parametrize("how", ["deleted", "altered", "a link", "no hard links"])
def test_an_item_is_written_if_it_cannot_be_that_of_another_dataset(
    how: str, base_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DatasetWriter("before", base_uri) as writer:
        writer.put_bytes(b"abc", "a")
        before = writer.commit()
    item = before.path(before.item("a").identifier)
    if how == "deleted":
        delete_dataset(before.uri)
    elif how == "altered":
        item.chmod(0o644)
        item.write_bytes(b"abd")
    elif how == "a link":
        (tmp_path / "abc").write_bytes(b"abc")
        item.unlink()
        item.symlink_to(tmp_path / "abc")
    else:
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EPERM, "not permitted")))
    with DatasetWriter("x", base_uri) as writer:
        writer.put_bytes(b"abc", "a", like=before)
        dataset = writer.commit()
    dataset.verify()
    written = dataset.path(dataset.item("a").identifier)
    assert not written.is_symlink()
    assert written.read_bytes() == b"abc"
    assert how == "deleted" or not written.samefile(item)


def test_a_copy_that_is_not_what_was_announced_is_refused(base_uri: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abd")
    with DatasetWriter("x", base_uri) as writer, pytest.raises(StoreError, match="Has the file changed"):
        writer.put_file(tmp_path / "a", "a", digests=digests_of(b"abc"))
    assert names_in(base_uri) == []


# -- what is refused ----------------------------------------------------------------------------


def test_names(base_uri: str) -> None:
    for name in ("epoch=3", "..", "", "x\n", "a/b"):
        with pytest.raises(InvalidNameError):
            DatasetWriter(name, base_uri)
    with DatasetWriter("x", base_uri) as writer:
        for relpath in ("/etc/passwd", "../x", "a//b", ""):
            with pytest.raises(InvalidNameError):
                writer.put_bytes(b"", relpath)
        with pytest.raises(InvalidNameError):
            writer.put_annotation("a.b", 1)
        with pytest.raises(InvalidNameError):
            writer.put_overlay("a.b", {})
        with pytest.raises(InvalidNameError, match="sha256"):
            writer.put_overlay("sha256", {})
        with pytest.raises(InvalidNameError):
            writer.put_tag("a/b")
        with pytest.raises(MetadataValueError):
            writer.put_annotation("a", float("nan"))
        with pytest.raises(MetadataValueError):
            writer.put_overlay("a", {"x": 2**64})
    assert names_in(base_uri) == []


def test_a_base_uri_that_cannot_take_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for base, found in ((tmp_path / "nothing", "nothing"), (tmp_path / "file", "a file"), ("/proc", "")):
        with pytest.raises(StoreError, match=f"file://.*{found}"):
            DatasetWriter("x", str(base))


def test_a_name_that_is_taken(make_dataset, base_uri: str) -> None:
    dataset = make_dataset()
    with pytest.raises(DatasetExistsError, match="Choose another name"):
        DatasetWriter("leaves", base_uri)
    dataset.verify()
    with DatasetWriter("other", base_uri) as writer:
        with pytest.raises(DatasetExistsError):
            DatasetWriter("other", base_uri)
        writer.put_bytes(b"1", "a")
        with pytest.raises(DatasetExistsError, match="item 'a'"):
            writer.put_bytes(b"2", "a")
        assert writer.commit().read_bytes(generate_identifier("a")) == b"1"


KILLED = """
import os, signal
from lightning_dtool.store import DatasetWriter
writer = DatasetWriter("x", {base_uri!r})
writer.put_bytes(b"1", "a")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_does_not_block_its_name(base_uri: str) -> None:
    subprocess.run([sys.executable, "-c", KILLED.format(base_uri=base_uri)], check=False)
    assert (local_path(base_uri) / "x").is_dir()  # type: ignore[operator]
    with DatasetWriter("x", base_uri) as writer:
        with pytest.raises(DatasetExistsError):
            DatasetWriter("x", base_uri)
        with pytest.raises(NotFrozenError):
            FrozenDataset.from_uri(writer.uri)
        writer.put_bytes(b"2", "a")
        writer.commit().verify()


def test_an_unfinished_dataset_can_be_deleted(base_uri: str) -> None:
    subprocess.run([sys.executable, "-c", KILLED.format(base_uri=base_uri)], check=False)
    delete_dataset(f"{base_uri}/x")
    assert names_in(base_uri) == []


def test_a_folder_with_something_in_it_is_not_replaced(base_uri: str) -> None:
    folder = local_path(base_uri) / "x"  # type: ignore[operator]
    folder.mkdir()
    (folder / "mine").touch()
    with pytest.raises(DatasetExistsError):
        DatasetWriter("x", base_uri)
    (folder / "mine").unlink()
    with DatasetWriter("x", base_uri) as writer:
        (folder / "mine").touch()  # while the dataset is written
        with pytest.raises(StoreError):
            writer.commit()
    assert names_in(base_uri) == ["x"]
    assert os.listdir(folder) == ["mine"]


def test_where_no_empty_folder_is_replaced(base_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def careful(source: Path, target: Path) -> None:
        if target.exists():
            raise FileExistsError(errno.EEXIST, "File exists")
        rename(source, target)

    monkeypatch.setattr(Path, "rename", careful)
    with DatasetWriter("x", base_uri) as writer:
        writer.put_bytes(b"1", "a")
        writer.commit().verify()
    assert names_in(base_uri) == ["x"]


def test_overlays_cover_exactly_the_items(base_uri: str) -> None:
    for values in ({"a": 1}, {"a": 1, "b": 2, "c": 3}):
        with DatasetWriter("x", base_uri) as writer:
            writer.put_bytes(b"", "a")
            writer.put_bytes(b"", "b")
            writer.put_overlay("category", values)
            with pytest.raises(MetadataKeyError, match=r"overlay 'category'.*exactly the 2 items.*: [bc]"):
                writer.commit()
            # Nothing is lost: it can be put right.
            writer.put_overlay("category", {"a": 1, "b": 2})
            writer.commit()
        local_path(writer.uri).rename(f"{local_path(base_uri)}/{len(values)}")  # type: ignore[union-attr]


def test_a_writer_is_used_once(base_uri: str) -> None:
    with DatasetWriter("x", base_uri) as writer:
        writer.commit()
        writer.abort()
        for use in (writer.commit, lambda: writer.put_bytes(b"", "a"), lambda: writer.put_tag("a")):
            with pytest.raises(ConfigurationError, match="committed"):
                use()
    FrozenDataset.from_uri(writer.uri).verify()


# -- nothing half visible -----------------------------------------------------------------------


def test_without_commit_nothing_stays(base_uri: str) -> None:
    with DatasetWriter("x", base_uri) as writer:
        writer.put_bytes(b"1", "a")
        assert [name for name in names_in(base_uri) if not name.startswith(".")] == ["x"]
    assert names_in(base_uri) == []
    with pytest.raises(StoreError, match="no such file"), DatasetWriter("x", base_uri) as writer:
        writer.put_file("/nonexistent", "a")
    assert names_in(base_uri) == []


def test_an_exception_of_the_caller_stays_its_own(base_uri: str) -> None:
    with DatasetWriter("x", base_uri) as writer:
        with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"), writer.open("a") as file:
            pickle.dump(lambda: 1, file)
        writer.put_bytes(b"22", "a")
        assert writer.commit().read_bytes(generate_identifier("a")) == b"22"


def test_a_full_disk_while_an_item_is_written(base_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with DatasetWriter("x", base_uri) as writer:
        monkeypatch.setattr(Path, "open", lambda self, mode="r", **_: FullDisk(str(self), mode))
        with pytest.raises(StoreError, match=r"cannot write item 'a'.*No space left") as caught:
            writer.put_bytes(b"1", "a")
        assert caught.value.errno == errno.ENOSPC
        monkeypatch.undo()
    assert names_in(base_uri) == []


STEPS = ["pre_freeze_hook", "held_items", "put_manifest", "put_readme", "put_overlay", "put_annotation", "put_tag"]
STEPS += ["sync", "put_admin_metadata", "post_freeze_hook"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
def test_a_fault_at_any_step_of_commit(
    base_uri: str, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    expected = StoreError if isinstance(error, OSError) else KeyboardInterrupt
    done = getattr(DiskBroker, step)

    def fails_once(*args: Any) -> None:
        # The worst case: the step has its effect and fails all the same.
        done(*args)
        monkeypatch.undo()
        raise error

    with DatasetWriter("x", base_uri) as writer:
        writer.put_bytes(b"1", "a")
        writer.put_annotation("a", 1)
        writer.put_tag("t")
        monkeypatch.setattr(DiskBroker, step, fails_once)
        with pytest.raises(expected):
            writer.commit()
        with pytest.raises(NotFrozenError):
            FrozenDataset.from_uri(writer.uri)
        with pytest.raises(ConfigurationError, match="failed"):
            writer.put_bytes(b"2", "b")
    assert names_in(base_uri) == []


@pytest.mark.parametrize("step", [*STEPS, "open"])
def test_a_kill_at_any_step_leaves_no_frozen_dataset(base_uri: str, step: str) -> None:
    """The process is killed just before the step (for `open`, in the middle of an item)."""
    script = f"""
import os, signal
from lightning_dtool.store import DatasetWriter
from lightning_dtool.store import syncing
from lightning_dtool.store.disk import DiskBroker
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
writer = DatasetWriter("x", {base_uri!r})
if {step!r} == "open":
    with writer.open("a") as file:
        file.write(b"1" * 100_000)
        die()
writer.put_bytes(b"1", "a")
writer.put_annotation("a", 1)
writer.put_tag("t")
setattr(DiskBroker, {step!r}, die)
writer.commit()
"""
    died = subprocess.run([sys.executable, "-c", script], check=False)
    assert died.returncode == -signal.SIGKILL
    uri = f"{base_uri}/x"
    if step == "post_freeze_hook":
        # This comes after the last write: the dataset is complete.
        FrozenDataset.from_uri(uri).verify()
        return
    with pytest.raises(NotFrozenError):
        FrozenDataset.from_uri(uri)
    assert list(iter_datasets(base_uri)) == []


def test_a_failure_while_the_place_is_claimed_leaves_no_dataset(base_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(DiskBroker, "put_admin_metadata", denied)
    with pytest.raises(StoreError, match="I/O error"):
        DatasetWriter("x", base_uri)
    assert names_in(base_uri) == []
    with pytest.raises(DatasetNotFoundError):
        FrozenDataset.from_uri(f"{base_uri}/x")


@pytest.mark.parametrize("change", ["longer", "gone", "more"])
def test_a_store_that_holds_something_else(base_uri: str, change: str) -> None:
    with DatasetWriter("x", base_uri) as writer:
        writer.put_bytes(b"1", "a")
        item = built(writer) / "data/a"
        if change == "longer":
            item.write_bytes(b"12")
        elif change == "gone":
            item.unlink()
        else:
            item.with_name("b").touch()
        with pytest.raises(StoreError, match=r"1 differences: [ab]: .*Nothing was frozen"):
            writer.commit()
    assert names_in(base_uri) == []


def test_an_abort_that_fails_does_not_hide_what_went_wrong(base_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(DiskBroker, "remove", denied)
    with pytest.raises(RuntimeError, match="mine"), DatasetWriter("x", base_uri):
        raise RuntimeError("mine")
    with pytest.raises(LightningDtoolError, match="I/O error"), DatasetWriter("y", base_uri):
        pass


def test_many_files_at_once_are_as_many_one_by_one(base_uri: str, tmp_path: Path) -> None:
    contents = {f"{number % 3}/{number}.txt": os.urandom(number * 1000) for number in range(80)}
    contents["large"] = os.urandom(3 * 1024 * 1024 + 1)
    for relpath, content in contents.items():
        (tmp_path / relpath).parent.mkdir(exist_ok=True)
        (tmp_path / relpath).write_bytes(content)
    added: list[str] = []
    with DatasetWriter("together", base_uri) as writer:
        writer.put_files({relpath: tmp_path / relpath for relpath in contents}, on_file=added.append)
        together = writer.commit()
    with DatasetWriter("one-by-one", base_uri) as writer:
        for relpath in contents:
            writer.put_file(tmp_path / relpath, relpath)
        apart = writer.commit()
    assert added == list(contents)
    assert dict(together.items) == dict(apart.items)
    assert together.overlay("sha256") == apart.overlay("sha256")
    together.verify()


def test_one_of_many_files_that_cannot_be_added_is_named(base_uri: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    with DatasetWriter("x", base_uri) as writer:
        with pytest.raises(StoreError, match=f"cannot add {tmp_path}/b: no such file"):
            writer.put_files({"a": tmp_path / "a", "b": tmp_path / "b"})
        with pytest.raises(InvalidNameError):
            writer.put_files({"../c": tmp_path / "a"})
        writer.put_files({"c": tmp_path / "a"})
        with pytest.raises(DatasetExistsError):
            writer.put_files({"d": tmp_path / "a", "c": tmp_path / "a"})
        assert len(writer.commit().items) == 1
    assert names_in(base_uri) == ["x"]


@pytest.mark.parametrize("good", range(4))
def test_a_full_disk_is_reported_although_torch_raises_another_error(
    base_uri: str, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    """After a failed write torch tries to finish its file, and raises another error."""
    written: list[int] = []

    def full(raw: Any, data: memoryview) -> None:
        if len(written) >= good:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(raw.write(data))

    monkeypatch.setattr("lightning_dtool.store.hashing_writer.write_all", full)
    state = {str(number): torch.zeros(500_000) for number in range(6)}
    with (
        pytest.raises(StoreError, match="No space left") as caught,
        DatasetWriter("x", base_uri) as writer,
        writer.open("checkpoint.ckpt") as file,
    ):
        torch.save(state, file)
    assert caught.value.errno == errno.ENOSPC
    assert names_in(base_uri) == []
