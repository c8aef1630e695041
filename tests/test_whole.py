"""What stands at Lightning's paths, at each moment, for every other program."""

import errno
import gc
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, LambdaCallback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolCheckpoint, DtoolCheckpointIO, DtoolProvenanceCallback
from lightning_dtool.errors import ConfigurationError, ProvenanceWarning, RecordError, StoreError
from lightning_dtool.publishing import linking, publisher, unpublished
from lightning_dtool.recovery.folders import look_through
from lightning_dtool.store import iter_datasets


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every state as a large one."""
    monkeypatch.setattr("lightning_dtool.publishing.saving.LARGE", 0)


@pytest.fixture(params=["small", "large"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "large":
        monkeypatch.setattr("lightning_dtool.publishing.saving.LARGE", 0)
    return str(request.param)


class Store:
    """A store that can be made to wait or to fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()
        self.error: Exception | None = None
        write = publisher.write_dataset

        def write_dataset(*args: Any, **options: Any) -> Any:
            self.reached.set()
            assert self.open.wait(300)
            if self.error is not None:
                raise self.error
            return write(*args, **options)

        monkeypatch.setattr(publisher, "write_dataset", write_dataset)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    held = Store(monkeypatch)
    yield held
    held.open.set()


def step_of(path: str | Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


# -- after a save returns, the path holds that checkpoint ----------------------------------------


@pytest.mark.filterwarnings("ignore:Nothing will be published")
def test_a_folder_that_is_handed_over_and_deleted_is_whole(tmp_path: Path, models: Path, size: str) -> None:
    class Reports(Callback):
        """As Ray's callback does."""

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            temporary = tmp_path / f"temporary{trainer.current_epoch}"
            trainer.save_checkpoint(temporary / "checkpoint.ckpt")
            shutil.copytree(temporary, tmp_path / "persisted" / str(trainer.current_epoch))
            shutil.rmtree(temporary)

    provenance = DtoolProvenanceCallback(str(models), retention="all")
    trainer(tmp_path, Reports(), provenance, max_epochs=3, enable_checkpointing=False).fit(TinyNet(), loader())
    assert [step_of(tmp_path / "persisted" / str(epoch) / "checkpoint.ckpt") for epoch in range(3)] == [6, 12, 18]
    assert not list(tmp_path.glob("temporary*"))
    assert provenance.errors == []
    assert len(provenance.uris) == 3
    for uri in provenance.uris:
        DtoolCheckpoint.from_uri(uri).verify()


def test_a_modelcheckpoint_that_sends_files_away_sends_whole_ones(tmp_path: Path, models: Path, size: str) -> None:
    class Upload(ModelCheckpoint):
        def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
            super()._save_checkpoint(trainer, filepath)
            shutil.copyfile(filepath, bucket / os.path.basename(filepath))

    bucket = tmp_path / "bucket"
    bucket.mkdir()
    policy = Upload(dirpath=tmp_path / "ckpt", filename="{step}", save_top_k=-1)
    trainer(tmp_path, policy, DtoolProvenanceCallback(str(models))).fit(TinyNet(), loader())
    assert {path.name: step_of(path) for path in bucket.iterdir()} == {"step=6.ckpt": 6, "step=12.ckpt": 12}


def test_a_logger_that_reads_files_at_once_reads_whole_ones(tmp_path: Path, models: Path, size: str) -> None:
    seen: list[int] = []

    class Reads(CSVLogger):
        def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
            seen.append(step_of(checkpoint_callback.best_model_path))

    trainer(tmp_path, DtoolProvenanceCallback(str(models)), logger=Reads(tmp_path)).fit(TinyNet(), loader())
    assert seen == [6, 12]


def test_a_file_that_is_saved_again_and_read_is_the_new_one(tmp_path: Path, models: Path, size: str) -> None:
    seen: list[int] = []

    class Reads(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "now.ckpt")
            seen.append(step_of(tmp_path / "now.ckpt"))

    trainer(tmp_path, Reads(), DtoolProvenanceCallback(str(models)), max_epochs=3).fit(TinyNet(), loader())
    assert seen == [6, 12, 18]


@pytest.mark.filterwarnings("ignore:Nothing will be published")
def test_a_program_that_changes_the_file_changes_no_dataset(tmp_path: Path, models: Path, size: str) -> None:
    """The file is replaced before the publishing thread has stored it."""

    class Replaces(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "now.ckpt")
            (tmp_path / "now.ckpt").unlink()
            (tmp_path / "now.ckpt").write_bytes(b"mine")

    provenance = DtoolProvenanceCallback(str(models), retention="all")
    trainer(tmp_path, Replaces(), provenance, enable_checkpointing=False).fit(TinyNet(), loader())
    assert (tmp_path / "now.ckpt").read_bytes() == b"mine"
    assert [DtoolCheckpoint.from_uri(uri).load()["global_step"] for uri in provenance.uris] == [6, 12]
    for uri in provenance.uris:
        DtoolCheckpoint.from_uri(uri).verify()


# -- a checkpoint in flight -----------------------------------------------------------------------


def contents(folder: Path) -> dict[str, int]:
    """Return the step that each checkpoint file holds; each must be whole."""
    return {path.name: step_of(path) for path in sorted(folder.iterdir()) if path.suffix == ".ckpt"}


@pytest.mark.usefixtures("large")
def test_while_a_checkpoint_is_in_flight_the_one_before_stays(tmp_path: Path, models: Path, store: Store) -> None:
    seen: list[tuple[dict[str, int], dict[str, int]]] = []

    class Looks(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 0:
                return
            in_flight = contents(folder)
            store.open.set()
            trainer.strategy.checkpoint_io.flush()
            seen.append((in_flight, contents(folder)))
            store.open.clear()

    folder = tmp_path / "ckpt"
    folder.mkdir()
    store.open.clear()
    policy = ModelCheckpoint(dirpath=folder, filename="{step}", save_last=True)
    t = trainer(tmp_path, policy, Looks(), DtoolProvenanceCallback(str(models)), max_epochs=3)
    t.callbacks.append(LambdaCallback(on_train_end=lambda *_: store.open.set()))
    t.fit(TinyNet(), loader())

    first, second = {"last.ckpt": 6, "step=6.ckpt": 6}, {"last.ckpt": 12, "step=12.ckpt": 12}
    assert seen == [({}, first), (first, second)]
    assert contents(folder) == {"last.ckpt": 18, "step=18.ckpt": 18}
    assert len(list(iter_datasets(str(models)))) == 1


@pytest.mark.usefixtures("large")
def test_a_file_of_an_earlier_run_stays_until_its_successor_is_whole(
    tmp_path: Path, models: Path, store: Store
) -> None:
    folder = tmp_path / "ckpt"
    trainer(tmp_path, ModelCheckpoint(dirpath=folder, filename="{step}"), max_epochs=1).fit(TinyNet(), loader())
    assert contents(folder) == {"step=6.ckpt": 6}
    seen: list[dict[str, int]] = []

    class Looks(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(contents(folder))
            store.open.set()

    store.open.clear()
    policy = ModelCheckpoint(dirpath=folder, filename="{step}")
    t = trainer(tmp_path, policy, DtoolProvenanceCallback(str(models)), max_epochs=2)
    t.callbacks.append(Looks())
    with pytest.warns(ProvenanceWarning, match="may differ from an uninterrupted run"):
        t.fit(TinyNet(), loader(), ckpt_path=shutil.copyfile(folder / "step=6.ckpt", tmp_path / "copy.ckpt"))
    assert seen == [{"step=6.ckpt": 6}]
    assert contents(folder) == {"step=12.ckpt": 12}


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("counter", [True, False])
def test_names_are_those_of_lightning_while_checkpoints_are_in_flight(
    tmp_path: Path, models: Path, store: Store, counter: bool
) -> None:
    def run(folder: Path, *callbacks: Callback) -> tuple[list[str], dict[str, int]]:
        L.seed_everything(3)
        one = ModelCheckpoint(folder, monitor="train_loss", mode="min", enable_version_counter=counter)
        two = ModelCheckpoint(folder, monitor="val_loss", mode="max", enable_version_counter=counter)
        three = ModelCheckpoint(folder, filename="same", monitor="val_loss", save_top_k=2, save_last=True)
        t = trainer(tmp_path, one, two, three, *callbacks, max_epochs=4)
        t.fit(TinyNet(), loader(), loader())
        assert not any("file_exists" in vars(policy) for policy in (one, two, three))
        return [policy.best_model_path.removeprefix(str(folder)) for policy in (one, two, three)], contents(folder)

    assert run(tmp_path / "ours", DtoolProvenanceCallback(str(models))) == run(tmp_path / "plain")


def test_last_as_a_link_is_lightnings_link(tmp_path: Path, models: Path, size: str) -> None:
    def run(folder: Path, *callbacks: Callback) -> dict[str, tuple[int, bool]]:
        policy = ModelCheckpoint(folder, "{step}", save_last="link", save_top_k=-1)
        trainer(tmp_path, policy, *callbacks).fit(TinyNet(), loader())
        return {path.name: (step_of(path), path.is_symlink()) for path in folder.iterdir()}

    assert run(tmp_path / "ours", DtoolProvenanceCallback(str(models))) == run(tmp_path / "plain")


# -- one file for paths and dataset ---------------------------------------------------------------


def test_best_last_and_the_item_are_one_file(tmp_path: Path, models: Path, size: str) -> None:
    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True)
    provenance = DtoolProvenanceCallback(str(models))
    trainer(tmp_path, policy, provenance).fit(TinyNet(), loader())
    item = DtoolCheckpoint.from_uri(provenance.best_uri).path
    for path in (policy.best_model_path, policy.last_model_path):
        assert not os.path.islink(path)
        assert os.path.samefile(path, item)


def test_paths_may_be_files_of_their_own(tmp_path: Path, models: Path, size: str) -> None:
    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True)
    provenance = DtoolProvenanceCallback(str(models), links="copy")
    trainer(tmp_path, policy, provenance).fit(TinyNet(), loader())
    item = DtoolCheckpoint.from_uri(provenance.best_uri).path
    files = [Path(policy.best_model_path), Path(policy.last_model_path), item]
    assert [file.stat().st_nlink for file in files] == [1, 1, 1]
    assert len({file.read_bytes() for file in files}) == 1
    assert provenance.uri_for(policy.last_model_path) == provenance.best_uri


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a second file system")
def test_on_another_file_system_paths_become_symbolic_links(tmp_path: Path, size: str) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as models:
        if os.stat(models).st_dev == tmp_path.stat().st_dev:
            pytest.skip("needs a second file system")
        policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True)
        provenance = DtoolProvenanceCallback(models)
        trainer(tmp_path, policy, provenance, max_epochs=3).fit(TinyNet(), loader())
        item = DtoolCheckpoint.from_uri(provenance.best_uri).path
        for path in (policy.best_model_path, policy.last_model_path):
            assert Path(path).resolve() == item.resolve()
        assert contents(tmp_path / "ckpt") == {"epoch=2-step=18.ckpt": 18, "last.ckpt": 18}


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a second file system")
def test_last_is_a_copy_where_lightning_would_write_into_it(
    tmp_path: Path, models: Path, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        if os.stat(elsewhere).st_dev == tmp_path.stat().st_dev:
            pytest.skip("needs a second file system")
        monkeypatch.setattr(tempfile, "tempdir", elsewhere)
        policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True)
        provenance = DtoolProvenanceCallback(str(models))
        trainer(tmp_path, policy, provenance, max_epochs=3).fit(TinyNet(), loader())
        dataset, last = DtoolCheckpoint.from_uri(provenance.best_uri), Path(policy.last_model_path)
        assert Path(policy.best_model_path).samefile(dataset.path)
        assert last.stat().st_nlink == 1
        assert last.stat().st_mode & stat.S_IWUSR
        last.write_bytes(b"as Lightning does there")
        dataset.verify()


@pytest.mark.parametrize("value", ["hard", ""])
def test_unknown_links_are_refused(models: Path, value: Any) -> None:
    with pytest.raises(ConfigurationError, match="'auto' or 'copy'"):
        DtoolProvenanceCallback(str(models), links=value)
    with pytest.raises(ConfigurationError, match="publish_timeout"):
        DtoolProvenanceCallback(str(models), publish_timeout=0)


MOVED = pytest.mark.filterwarnings("ignore:The dirpath has changed")


@MOVED
@pytest.mark.parametrize("copied", [False, True])
def test_resuming_from_a_path_or_a_copy_of_it_is_resuming_from_the_dataset(
    tmp_path: Path, models: Path, copied: bool
) -> None:
    first = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, first, max_epochs=1)
    t.fit(TinyNet(), loader())
    path = t.checkpoint_callback.best_model_path
    if copied:
        path = shutil.copyfile(path, tmp_path / "copy.ckpt")
    second = DtoolProvenanceCallback(str(models), retention="all")
    trainer(tmp_path / "b", second, max_epochs=2).fit(TinyNet(), loader(), ckpt_path=path)
    parent = DtoolCheckpoint.from_uri(second.last_uri).record.lineage.parent_checkpoint
    assert parent is not None
    assert parent.uri == first.best_uri


@MOVED
def test_a_changed_copy_is_not_taken_for_the_dataset(tmp_path: Path, models: Path) -> None:
    first = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, first, max_epochs=1)
    t.fit(TinyNet(), loader())
    state = torch.load(t.checkpoint_callback.best_model_path, weights_only=True)
    next(iter(state["state_dict"].values())).add_(1.0)
    torch.save(state, tmp_path / "copy.ckpt")
    second = DtoolProvenanceCallback(str(models), retention="all")
    trainer(tmp_path / "b", second, max_epochs=2).fit(TinyNet(), loader(), ckpt_path=tmp_path / "copy.ckpt")
    assert DtoolCheckpoint.from_uri(second.last_uri).record.lineage.parent_checkpoint is None


# -- a folder that takes nothing, a store that fails or hangs -------------------------------------


def test_a_path_that_cannot_be_filled_keeps_what_it_had(
    tmp_path: Path, models: Path, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, replacing = tmp_path / "ckpt", linking._temporary

    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        if path.parent == folder and (folder / "full").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        with replacing(path) as temporary:
            yield temporary

    class Fills(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.strategy.checkpoint_io.flush()
            if trainer.current_epoch == 1:
                (folder / "full").touch()
            if trainer.current_epoch == 3:
                seen.append((contents(folder), len(list(iter_datasets(str(models))))))
                if again:
                    (folder / "full").unlink()

    monkeypatch.setattr(linking, "_temporary", full)
    for again in (False, True):
        shutil.rmtree(folder, ignore_errors=True)
        seen: list[tuple[dict[str, int], int]] = []
        provenance = DtoolProvenanceCallback(str(models))
        policy = ModelCheckpoint(dirpath=folder, filename="{step}", save_last=True)
        with pytest.warns(ProvenanceWarning, match=r"is published, but cannot be put here.*No space left.*Make room"):
            trainer(tmp_path, Fills(), policy, provenance, max_epochs=4).fit(TinyNet(), loader())
        assert provenance.errors == []
        # The datasets of the first and of the last epoch before the look.
        assert seen == [({"last.ckpt": 6, "step=6.ckpt": 6}, 2)]
        newest = DtoolCheckpoint.from_uri(provenance.best_uri)
        assert newest.record.checkpoint.global_step == 24
        if again:
            assert contents(folder) == {"last.ckpt": 24, "step=24.ckpt": 24}
            assert [dataset.uri for dataset in iter_datasets(str(models))] == [provenance.best_uri]
        else:
            assert contents(folder) == {"last.ckpt": 6, "step=6.ckpt": 6}
            shutil.rmtree(models)
            models.mkdir()


def test_checkpoints_stay_while_later_ones_can_be_written_nowhere(
    tmp_path: Path, models: Path, size: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, replacing = tmp_path / "ckpt", linking._temporary

    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        if path.parent == folder and store.error is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        with replacing(path) as temporary:
            yield temporary

    class Fills(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            store.open.set()
            trainer.strategy.checkpoint_io.flush()
            if trainer.current_epoch >= 2:
                store.error = StoreError("there is no room", uri=str(models))
                store.open.clear()  # until best and last of this epoch are saved

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            store.open.set()

    monkeypatch.setattr(linking, "_temporary", full)
    policy = ModelCheckpoint(dirpath=folder, filename="{step}", monitor="train_loss", save_top_k=2, save_last=True)
    provenance = DtoolProvenanceCallback(str(models))
    with pytest.warns(ProvenanceWarning, match="Lightning's path does not hold it either"):
        trainer(tmp_path, Fills(), policy, provenance, max_epochs=6).fit(TinyNet(), loader())
    assert contents(folder) == {"last.ckpt": 12, "step=6.ckpt": 6, "step=12.ckpt": 12}
    for name in contents(folder):
        torch.load(folder / name, weights_only=True)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a second file system")
def test_a_link_in_a_full_folder_never_dangles_however_slow_the_store(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, replacing = tmp_path / "ckpt", linking._temporary

    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        if path.parent == folder and not store.open.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        with replacing(path) as temporary:
            yield temporary

    class Fills(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.strategy.checkpoint_io.flush()
                store.open.clear()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            monkeypatch.setattr(linking, "_temporary", refused)
            store.open.set()

    @contextmanager
    def refused(path: Path) -> Iterator[Path]:
        raise OSError(errno.ENOSPC, "No space left on device")
        yield path

    monkeypatch.setattr(linking, "_temporary", full)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as models:
        policy = ModelCheckpoint(dirpath=folder, filename="{step}", save_last=True)
        t = trainer(tmp_path, policy, provenance := DtoolProvenanceCallback(models), max_epochs=5)
        t.callbacks.append(Fills())
        with pytest.warns(ProvenanceWarning, match="is published, but cannot be put here"):
            t.fit(TinyNet(), loader())
        assert contents(folder) == {"last.ckpt": 6, "step=6.ckpt": 6}
        assert sorted(d.name.split("-")[1] for d in iter_datasets(models)) == ["epoch0", "epoch4"]
        assert DtoolCheckpoint.from_uri(provenance.last_uri).record.checkpoint.global_step == 30


def test_what_could_not_be_published_is_published_later(tmp_path: Path, models: Path, size: str, store: Store) -> None:
    provenance = DtoolProvenanceCallback(str(models), save_initial_weights=True)
    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", filename="{step}", save_top_k=-1)
    store.error = StoreError("the store is away", uri="x")
    t = trainer(tmp_path, policy, provenance)
    with pytest.warns(ProvenanceWarning, match=f"lightning-dtool recover file://.*models {tmp_path}/ckpt"):
        t.fit(TinyNet(), loader())
    assert contents(tmp_path / "ckpt") == {"step=12.ckpt": 12, "step=6.ckpt": 6}
    found = list(look_through([tmp_path]).unpublished)
    assert sorted(path.name for path in found) == ["step=12.ckpt", "step=6.ckpt"]
    assert {unpublished.base_uri_of(path) for path in found} == {provenance.base_uri}

    store.error = None
    for path in found:
        dataset = unpublished.publish(path)
        assert dataset is not None
        checkpoint = DtoolCheckpoint.from_uri(dataset.uri)
        checkpoint.verify()
        assert checkpoint.record.checkpoint.global_step == step_of(path)
        assert "initial_weights.ckpt" in {item.relpath for item in dataset.items.values()}
        assert checkpoint.path.samefile(path)
    assert list(look_through([tmp_path]).unpublished) == []
    assert not list((tmp_path / "ckpt").glob("*.unpublished"))


def test_the_record_of_what_was_not_published_goes_with_its_file(tmp_path: Path, models: Path, store: Store) -> None:
    store.error = StoreError("the store is away", uri="x")
    io = DtoolCheckpointIO(str(models), background=False)
    state = {"pytorch-lightning_version": "2", "epoch": 0, "global_step": 1, "state_dict": {"w": torch.ones(2)}}
    for name in "abc":
        with pytest.warns(ProvenanceWarning, match="away"):
            io.save_checkpoint(state, tmp_path / f"{name}.ckpt")
    (tmp_path / "c.ckpt").write_bytes(b"changed")
    io.remove_checkpoint(tmp_path / "a.ckpt")
    store.error = None
    io.save_checkpoint({**state, "global_step": 2}, tmp_path / "b.ckpt")
    assert [path.name for path in look_through([tmp_path]).unpublished] == ["c.ckpt"]
    with pytest.raises(RecordError, match="expected the checkpoint with SHA-256"):
        unpublished.publish(tmp_path / "c.ckpt")


def test_a_store_that_hangs_costs_no_training(
    tmp_path: Path, models: Path, size: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_dtool.publishing.worker._SOON", 0.01)
    monkeypatch.setattr("lightning_dtool.publishing.worker._LOOK", 0.05)
    store.open.clear()
    provenance = DtoolProvenanceCallback(str(models), publish_timeout=0.3)
    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", filename="{step}", save_last=True, save_top_k=-1)
    t = trainer(tmp_path, policy, provenance, max_epochs=3)
    with pytest.warns(ProvenanceWarning, match=r"did not finish within 0.3 seconds.*plain file.*recover"):
        t.fit(TinyNet(), loader())
    expected = {"last.ckpt": 18, "step=12.ckpt": 12, "step=18.ckpt": 18, "step=6.ckpt": 6}
    assert contents(tmp_path / "ckpt") == expected
    assert {path.name for path in look_through([tmp_path]).unpublished} >= {
        "step=6.ckpt",
        "step=12.ckpt",
        "step=18.ckpt",
    }
    store.open.set()
    t.strategy.checkpoint_io.flush()


def test_the_first_ctrl_c_ends_a_wait(tmp_path: Path, models: Path, store: Store) -> None:
    """A run that waits for a store is interrupted once, and Lightning's teardown does not wait again."""
    store.open.clear()

    class Interrupted(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                threading.Timer(0.7, signal.raise_signal, [signal.SIGINT]).start()
                trainer.strategy.checkpoint_io.flush()

    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", filename="{step}", save_top_k=-1)
    t = trainer(tmp_path, Interrupted(), policy, DtoolProvenanceCallback(str(models)), max_epochs=3)
    before = signal.getsignal(signal.SIGINT)
    began = time.monotonic()
    try:
        with pytest.warns(ProvenanceWarning, match="recover"), pytest.raises(SystemExit):
            t.fit(TinyNet(), loader())
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 300
    assert contents(tmp_path / "ckpt") == {"step=6.ckpt": 6}
    assert [path.name for path in look_through([tmp_path]).unpublished] == ["step=6.ckpt"]
    store.open.set()
    t.strategy.checkpoint_io.flush()


# -- long runs ------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_replaced_before_its_turn_is_not_made(tmp_path: Path, models: Path, store: Store) -> None:
    store.open.clear()
    provenance = DtoolProvenanceCallback(str(models))
    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", filename="{step}")
    t = trainer(tmp_path, policy, provenance, max_epochs=10)
    t.callbacks.append(LambdaCallback(on_train_end=lambda *_: store.open.set()))
    t.fit(TinyNet(), loader())
    made = [publication for publication in t.strategy.checkpoint_io.publications if publication.dataset_uri]
    assert [publication.global_step for publication in made] == [6, 60]
    (dataset,) = iter_datasets(str(models))
    assert dataset.uri == provenance.best_uri
    assert contents(tmp_path / "ckpt") == {"step=60.ckpt": 60}


@pytest.mark.slow
@pytest.mark.parametrize("retention", ["mirror", "all"])
def test_memory_threads_and_files_are_flat_over_5000_checkpoints(
    tmp_path: Path, models: Path, retention: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "tmp").mkdir()
    seen: dict[int, dict[str, int]] = {}

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.global_step % 1000 == 0:
                trainer.strategy.checkpoint_io.flush()
                gc.collect()
                seen[trainer.global_step] = {
                    "MiB": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20,
                    "threads": threading.active_count(),
                    "descriptors": len(os.listdir("/proc/self/fd")),
                    "temporary files": len(os.listdir(tmp_path / "tmp")),
                    "objects": len(gc.get_objects()),
                }

    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_last=True, filename="{step}")
    provenance = DtoolProvenanceCallback(str(models), retention=retention)
    trainer(tmp_path, Watch(), policy, provenance, max_epochs=-1, max_steps=5000).fit(TinyNet(), loader(160))
    with capsys.disabled():
        print(f"\n{retention}: {seen}")
    warm, end = seen[1000], seen[5000]
    assert end["threads"] <= warm["threads"]
    assert end["descriptors"] <= warm["descriptors"]
    assert end["temporary files"] <= warm["temporary files"]
    # What remains of each checkpoint is its publication: its name, paths, URI and times.
    assert end["MiB"] - warm["MiB"] < 32
    assert end["objects"] - warm["objects"] < 4000 * 20
