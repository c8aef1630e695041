"""DtoolCheckpointIO as a separate plug-in, and with other checkpoint plug-ins."""

import errno
import gc
import pickle
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import seed_everything
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO

import programs
from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolCheckpointIO, DtoolProvenanceCallback
from lightning_dtool.errors import ConfigurationError, ProvenanceWarning
from lightning_dtool.snapshot import staging
from lightning_dtool.store import WritingProcess, iter_datasets


def test_the_plug_in_works_without_the_callback(tmp_path: Path, models: Path) -> None:
    t = trainer(tmp_path, plugins=[DtoolCheckpointIO(str(models))])
    model = TinyNet(lr=0.01)
    t.fit(model, loader())

    (dataset,) = iter_datasets(str(models))
    checkpoint = DtoolCheckpoint.from_uri(dataset.uri)
    assert same(weights(checkpoint.load_module(TinyNet)), weights(model))
    assert checkpoint.record.model.hyperparameters["lr"] == 0.01
    # Facts that a checkpoint without the callback lacks are gaps.
    assert {"model.class_path", "data", "optimizers"} <= {gap.fact for gap in checkpoint.record.gaps}
    t.test(TinyNet(), loader(), ckpt_path=dataset.uri, verbose=False)


def test_the_callback_uses_the_plug_in_of_the_trainer(tmp_path: Path, models: Path) -> None:
    io = DtoolCheckpointIO(str(models))
    provenance = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, provenance, plugins=[io])
    t.fit(TinyNet(), loader())

    assert t.strategy.checkpoint_io is io
    assert [dataset.uri for dataset in iter_datasets(str(models))] == provenance.uris
    assert DtoolCheckpoint.from_uri(provenance.best_uri).record.model.class_path == "kit:TinyNet"


class WritesInPlace(CheckpointIO):
    """A plug-in with a format of its own, which writes at the path itself, and looks at what is there before."""

    def __init__(self) -> None:
        self.before: list[Any] = []

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        self.before.append(torch.load(path, weights_only=True)["global_step"] if Path(path).exists() else None)
        Path(path).parent.mkdir(exist_ok=True)
        with open(path, "wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> Any:
        return torch.load(path, map_location=map_location, weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink()


def test_another_plug_in_finds_what_an_earlier_run_has_left_and_changes_no_dataset(
    tmp_path: Path, models: Path
) -> None:
    last = tmp_path / "ckpt" / "last.ckpt"

    def fit(epochs: int, plugins: list[Any], **options: Any) -> None:
        policy = ModelCheckpoint(dirpath=last.parent, save_top_k=0, save_last=True)
        t = trainer(tmp_path, policy, DtoolProvenanceCallback(str(models)), max_epochs=epochs, plugins=plugins)
        t.fit(TinyNet(), loader(), **options)

    fit(1, [])
    plug_in = WritesInPlace()
    fit(2, [plug_in], ckpt_path=last)
    assert plug_in.before == [6]  # not nothing: a kill now would leave no checkpoint
    assert torch.load(last, weights_only=True)["global_step"] == 12
    found = {DtoolCheckpoint.from_uri(dataset.uri).record.checkpoint.global_step for dataset in iter_datasets(models)}
    assert found == {6, 12}
    for dataset in iter_datasets(models):
        dataset.verify()


def test_what_another_plug_in_saves_stays_when_the_store_fails(tmp_path: Path, models: Path) -> None:
    class LosesTheStore(Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            models.rename(models.with_name("away"))

    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt")
    provenance = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, policy, provenance, LosesTheStore(), max_epochs=1, plugins=[WritesInPlace()])
    with pytest.warns(ProvenanceWarning, match="The plain file at Lightning's path was kept"):
        t.fit(TinyNet(), loader())
    (file,) = (tmp_path / "ckpt").iterdir()  # without a record, which would not belong to a file of another format
    assert torch.load(file, weights_only=True)["global_step"] == 6


def test_lightnings_asynchronous_io_is_replaced(tmp_path: Path, models: Path) -> None:
    provenance = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, provenance, plugins=[AsyncCheckpointIO()])
    t.fit(TinyNet(), loader())

    assert isinstance(t.strategy.checkpoint_io.checkpoint_io, TorchCheckpointIO)
    assert len(provenance.uris) == 1


def test_a_users_own_checkpoint_io_still_writes_its_file(tmp_path: Path, models: Path) -> None:
    class Stamped(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            super().save_checkpoint({**checkpoint, "stamp": "mine"}, path, storage_options)

    provenance = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, provenance, plugins=[Stamped()])
    t.fit(TinyNet(), loader())

    path = Path(t.checkpoint_callback.best_model_path)
    assert not path.is_symlink()
    assert torch.load(path, weights_only=True)["stamp"] == "mine"
    assert len(list(path.parent.iterdir())) == 1
    assert provenance.uri_for(path) == provenance.best_uri
    DtoolCheckpoint.from_uri(provenance.best_uri).verify()


def test_bare_state_dicts_and_files_of_the_tuner_are_not_published(tmp_path: Path, models: Path) -> None:
    io = DtoolCheckpointIO(str(models))
    io.save_checkpoint({"weight": torch.ones(2)}, tmp_path / ".temp.ckpt")
    io.save_checkpoint({"pytorch-lightning_version": "2", "epoch": 0}, tmp_path / ".lr_find_1.ckpt")
    io.save_checkpoint({"pytorch-lightning_version": "2", "epoch": 0}, tmp_path / ".scale_batch_size_1.ckpt")

    assert list(iter_datasets(str(models))) == []
    assert torch.equal(io.load_checkpoint(tmp_path / ".temp.ckpt")["weight"], torch.ones(2))
    assert str(io.resumed_from).endswith(".temp.ckpt")
    io.remove_checkpoint(tmp_path / ".lr_find_1.ckpt")
    assert not (tmp_path / ".lr_find_1.ckpt").exists()


def test_the_batch_size_finder_works(tmp_path: Path, models: Path) -> None:
    class Sized(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.batch_size = 2

        def train_dataloader(self):
            return loader(batch_size=self.batch_size)

        val_dataloader = train_dataloader

    provenance = DtoolProvenanceCallback(str(models))
    finder = BatchSizeFinder(max_trials=2, steps_per_trial=1)
    trainer(tmp_path, provenance, finder, max_epochs=1).fit(Sized())
    assert len(provenance.uris) == 1


def test_a_removed_checkpoint_and_its_dataset_are_deleted(tmp_path: Path, models: Path) -> None:
    provenance = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, provenance)
    t.fit(TinyNet(), loader())
    path = t.checkpoint_callback.best_model_path
    t.strategy.remove_checkpoint(path)

    assert not Path(path).exists()
    t.strategy.checkpoint_io.flush()
    assert list(iter_datasets(str(models))) == []
    assert provenance.uris == []


def test_a_plain_file_is_removed_as_by_lightning(tmp_path: Path, models: Path) -> None:
    (tmp_path / "old.ckpt").write_bytes(b"x")
    DtoolCheckpointIO(str(models)).remove_checkpoint(tmp_path / "old.ckpt")
    assert not (tmp_path / "old.ckpt").exists()


def test_the_same_step_with_other_weights_is_another_dataset(tmp_path: Path, models: Path) -> None:
    """Stochastic weight averaging changes the weights at the end without another step."""
    provenance = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, provenance)
    model = TinyNet()
    t.fit(model, loader())
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    t.save_checkpoint(tmp_path / "averaged.ckpt")

    assert len(provenance.uris) == 2
    assert provenance.uri_for(tmp_path / "averaged.ckpt") != provenance.best_uri
    assert same(weights(TinyNet.load_from_checkpoint(tmp_path / "averaged.ckpt", weights_only=True)), weights(model))


def test_a_second_run_into_the_same_folder_changes_nothing_old(tmp_path: Path, models: Path) -> None:
    def once() -> str:
        provenance = DtoolProvenanceCallback(str(models))
        policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", filename="model", enable_version_counter=False)
        trainer(tmp_path, provenance, policy).fit(TinyNet(), loader())
        return provenance.best_uri or ""

    first, second = once(), once()
    assert first != second
    DtoolCheckpoint.from_uri(first).verify()
    assert [path.name for path in (tmp_path / "ckpt").iterdir()] == ["model.ckpt"]


def test_the_plug_in_can_be_pickled_for_a_spawned_process(models: Path) -> None:
    io = pickle.loads(pickle.dumps(DtoolCheckpointIO(str(models), retention="all")))
    assert io.retention == "all"
    assert io.publications == []


class TakesOptions(TorchCheckpointIO):
    """A plug-in of the user's that notes what it receives."""

    def __init__(self) -> None:
        self.received: list[Any] = []

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        self.received.append(path)
        super().save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(self, path: Any, **options: Any) -> Any:
        self.received.append(options)
        return super().load_checkpoint(path, **options)


def test_a_plug_in_of_the_user_receives_what_the_trainer_passes(tmp_path: Path, models: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    plug_in = TakesOptions()
    t = trainer(tmp_path, plugins=[DtoolCheckpointIO(str(models), checkpoint_io=plug_in)], enable_checkpointing=False)
    t.fit(TinyNet(), loader())
    for path in (Path("now.ckpt"), "then.ckpt"):
        t.save_checkpoint(path)
        assert plug_in.received[-1] == path
        assert type(plug_in.received[-1]) is type(path)
    t.strategy.checkpoint_io.load_checkpoint("now.ckpt", weights_only=False)
    assert plug_in.received[-1] == {"weights_only": False}


def test_a_misspelt_retention_is_refused(models: Path) -> None:
    with pytest.raises(ConfigurationError, match="'mirror' or 'all'"):
        DtoolCheckpointIO(str(models), retention="everything")  # type: ignore[arg-type]


def test_relative_and_absolute_paths_have_the_same_uri(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    provenance = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, provenance)
    t.fit(TinyNet(), loader())
    t.save_checkpoint("by-hand.ckpt")
    assert provenance.uri_for("by-hand.ckpt") == provenance.uri_for(tmp_path / "by-hand.ckpt") == provenance.last_uri


@pytest.mark.filterwarnings("ignore::lightning_dtool.errors.ProvenanceWarning")
def test_a_failing_description_loses_no_checkpoint(tmp_path: Path, models: Path, monkeypatch) -> None:
    monkeypatch.setattr("lightning_dtool.capture.recorder.describe", lambda *_: 1 / 0)
    provenance = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, provenance)
    model = TinyNet()
    t.fit(model, loader())

    assert [type(error) for error in provenance.errors] == [ZeroDivisionError] * 2
    path = t.checkpoint_callback.best_model_path
    assert same(weights(TinyNet.load_from_checkpoint(path, weights_only=True)), weights(model))


@pytest.mark.parametrize("options", [{"background": False}, {"staging_memory": 0}])
def test_without_memory_for_a_copy_a_checkpoint_is_streamed(
    tmp_path: Path, models: Path, options: dict[str, Any]
) -> None:
    provenance = DtoolProvenanceCallback(str(models), **options)
    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True)
    t = trainer(tmp_path, provenance, policy)
    frozen: list[bool] = []

    class Watch(ModelCheckpoint):
        def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
            super()._save_checkpoint(trainer, filepath)
            frozen.append(provenance.uri_for(filepath) is not None)

    t.callbacks.append(watch := Watch(dirpath=tmp_path / "watched", save_top_k=-1))
    model = TinyNet()
    t.fit(model, loader())

    # The dataset exists as soon as the save ends, and equal states of one step share a dataset.
    assert frozen == [True, True]
    assert provenance.uri_for(policy.last_model_path) == provenance.uri_for(policy.best_model_path)
    assert provenance.uri_for(watch.best_model_path) is not None
    assert t.strategy.checkpoint_io._staging.nbytes == 0
    assert same(weights(DtoolCheckpoint.from_uri(provenance.last_uri).load_module(TinyNet)), weights(model))
    DtoolCheckpoint.from_uri(provenance.last_uri).verify()


class Uncopyable:
    """An object that can be saved but not copied."""

    def __deepcopy__(self, memory: Any) -> "Uncopyable":
        raise TypeError("no copies, please")


def test_a_state_that_cannot_be_copied_is_streamed(tmp_path: Path, models: Path) -> None:
    io = DtoolCheckpointIO(str(models))
    state = {"pytorch-lightning_version": "2", "epoch": 0, "global_step": 1, "state_dict": {}, "mine": Uncopyable()}
    io.save_checkpoint(state, tmp_path / "a.ckpt")
    io.teardown()
    assert io.errors == []
    assert isinstance(torch.load(tmp_path / "a.ckpt", weights_only=False)["mine"], Uncopyable)


@pytest.mark.parametrize("small", [True, False])
def test_ctrl_c_while_a_checkpoint_is_published_leaves_nothing_half_written(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    if not small:
        monkeypatch.setattr("lightning_dtool.publishing.saving.LARGE", 0)

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_dtool.publishing.publisher.write_dataset", interrupted)
    io = DtoolCheckpointIO(str(models), background=False)
    state = {"pytorch-lightning_version": "2", "epoch": 0, "global_step": 1, "state_dict": {}}
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint(state, tmp_path / "a.ckpt")
    io.teardown()
    # The file, if it was written before, is whole. There is no dataset.
    assert (tmp_path / "a.ckpt").exists() == small
    if small:
        assert torch.load(tmp_path / "a.ckpt", weights_only=True)["global_step"] == 1
    assert list(iter_datasets(str(models))) == []
    assert io.publication_for(tmp_path / "a.ckpt") is None


def test_a_negative_staging_memory_is_refused(models: Path) -> None:
    with pytest.raises(ConfigurationError, match="staging_memory"):
        DtoolProvenanceCallback(str(models), staging_memory=-1)


def test_staging_memory_is_allocated_early_and_freed_at_the_end(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_dtool.publishing.saving.LARGE", 0)

    class Wide(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.zeros(64, 1024))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.table[0, :3]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    held: list[int] = []

    class Watch(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            io = trainer.strategy.checkpoint_io
            io.flush()
            held.append(io._staging.nbytes)

    t = trainer(tmp_path, DtoolProvenanceCallback(str(models)), Watch(), ModelCheckpoint(dirpath=tmp_path / "ckpt"))
    t.fit(Wide(), loader())
    assert held == [3 * 64 * 1024 * 4] * 2
    assert t.strategy.checkpoint_io._staging.nbytes == 0


@pytest.mark.parametrize("possible", [True, False])
def test_a_process_writes_large_checkpoints_where_possible(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, possible: bool
) -> None:
    def train(*callbacks: Any) -> tuple[TinyNet, Any]:
        seed_everything(3)
        model = TinyNet(hidden=250_000)
        t = trainer(tmp_path, *callbacks)
        t.fit(model, loader(workers=2, shuffle=True))  # workers are forked while the writing process runs
        return model, t.strategy.checkpoint_io

    started: list[Any] = []

    class Process(WritingProcess):
        def __init__(self) -> None:
            if not possible:
                raise OSError("no more processes")
            super().__init__()
            started.append(self)

    plain, _ = train(ModelCheckpoint(dirpath=tmp_path / "plain"))
    monkeypatch.setattr("lightning_dtool.publishing.publisher.WritingProcess", Process)
    provenance = DtoolProvenanceCallback(str(models), retention="all")
    model, _ = train(provenance, ModelCheckpoint(dirpath=tmp_path / "ours", save_top_k=-1))

    assert same(weights(model), weights(plain))
    assert provenance.errors == []
    assert len(provenance.uris) == 2
    for uri in provenance.uris:
        DtoolCheckpoint.from_uri(uri).verify()
    assert same(weights(DtoolCheckpoint.from_uri(provenance.last_uri).load_module(TinyNet)), weights(model))
    assert [process.usable for process in started] == ([False] if possible else [])


def large_state(step: int, value: float) -> dict[str, Any]:
    """Return a state of several tensors of equal size, like weights and their Adam state."""
    tensors = {f"w{number}": torch.full((100_000,), value + number) for number in range(6)}
    return {"pytorch-lightning_version": "2", "epoch": 0, "global_step": step, "state_dict": tensors}


def test_a_checkpoint_saved_after_ctrl_c_during_a_copy_is_consistent(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ModelCheckpoint may save immediately after an interruption: that copy must not mix two states."""
    copy_all, main, interrupts = staging._copy_all, threading.main_thread(), [False, True, False]

    def slow_and_interrupted(pairs: Any) -> None:
        if threading.current_thread() is not main:
            time.sleep(0.2)
        elif interrupts.pop(0):
            raise KeyboardInterrupt
        copy_all(pairs)

    monkeypatch.setattr(staging, "_THREADS", 2)
    monkeypatch.setattr(staging, "_copy_all", slow_and_interrupted)
    monkeypatch.setattr("lightning_dtool.publishing.saving.LARGE", 0)
    monkeypatch.setattr("lightning_dtool.publishing.saving.asking_policies", lambda: [ModelCheckpoint()])
    plugin = DtoolCheckpointIO(str(models), retention="all")
    plugin.save_checkpoint(large_state(1, 10.0), tmp_path / "a.ckpt")
    with pytest.raises(KeyboardInterrupt):
        plugin.save_checkpoint(large_state(2, 20.0), tmp_path / "b.ckpt")
    assert not (tmp_path / "b.ckpt").exists()
    plugin.save_checkpoint(large_state(2, 20.0), tmp_path / "c.ckpt")
    plugin.teardown()
    assert plugin.errors == []
    for name, value in (("a", 10.0), ("c", 20.0)):
        publication = plugin.publication_for(tmp_path / f"{name}.ckpt")
        assert publication is not None
        found = DtoolCheckpoint.from_uri(publication.uri or "").load()["state_dict"]
        assert {key: set(tensor.tolist()) for key, tensor in found.items()} == {
            f"w{number}": {value + number} for number in range(6)
        }


def save_and_end(plugin: DtoolCheckpointIO, path: Path) -> None:
    plugin.save_checkpoint(large_state(1, 1.0), path)
    plugin.teardown()


@pytest.mark.parametrize("background", [True, False])
def test_a_failed_write_leaves_nothing_that_looks_like_a_checkpoint(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lightning_dtool.publishing.publisher.write_dataset", full)
    monkeypatch.setattr("lightning_dtool.publishing.linking._write", full)
    plugin = DtoolCheckpointIO(str(models), background=background)
    with pytest.warns(ProvenanceWarning, match=r"No space left.*Lightning's path does not hold it either.*Make room"):
        save_and_end(plugin, tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt").exists()
    assert [type(error) for error in plugin.errors] == [OSError, OSError]


def test_an_error_keeps_no_state_alive(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[weakref.ref[Any]] = []

    def failing(staged: Any, *_: Any) -> None:
        kept.append(weakref.ref(staged))
        raise ValueError("no store")

    monkeypatch.setattr("lightning_dtool.publishing.publisher.write_dataset", failing)
    plugin = DtoolCheckpointIO(str(models))
    with pytest.warns(ProvenanceWarning, match="plain file at Lightning's path was kept, and training continues"):
        save_and_end(plugin, tmp_path / "a.ckpt")
    gc.collect()
    assert [reference() for reference in kept] == [None]
    assert str(plugin.errors[0]) == "no store"


PROGRAM = """
import sys, torch
from lightning_dtool import DtoolCheckpointIO
state = {"pytorch-lightning_version": "2", "epoch": 0, "global_step": 1, "state_dict": {"w": torch.zeros(2 * 10**6)}}
DtoolCheckpointIO(sys.argv[1]).save_checkpoint(state, sys.argv[2])
"""


def test_a_program_does_not_end_before_its_last_checkpoint_is_written(tmp_path: Path, models: Path) -> None:
    programs.run("-c", PROGRAM, str(models), str(tmp_path / "a.ckpt"), cwd=tmp_path)
    (dataset,) = iter_datasets(str(models))
    dataset.verify()
    assert (tmp_path / "a.ckpt").samefile(dataset.path(dataset.item("checkpoint.ckpt").identifier))
