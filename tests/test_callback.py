"""DtoolProvenanceCallback in real Trainers, under the user's checkpoint policy."""

import copy
import gc
import logging
import os
import pickle
import threading
import weakref
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolCheckpointIO, DtoolProvenanceCallback
from lightning_dtool.errors import (
    ConfigurationError,
    InvalidURIError,
    MixedNamespaceError,
    ProvenanceWarning,
    PublishError,
    StoreError,
    UnsupportedStrategyError,
)
from lightning_dtool.store import FrozenDataset, delete_dataset, iter_datasets


def datasets(models: Path) -> list[FrozenDataset]:
    return list(iter_datasets(str(models)))


# -- the main job -------------------------------------------------------------------------------


def test_a_checkpoint_can_be_loaded_by_the_best_uri(tmp_path: Path, models: Path) -> None:
    provenance = DtoolProvenanceCallback(str(models))
    model = TinyNet()
    t = trainer(tmp_path, provenance)
    t.fit(model, loader(), loader())

    checkpoint = DtoolCheckpoint.from_uri(provenance.best_uri)

    assert same(weights(checkpoint.load_module()), weights(model))
    assert checkpoint.record.checkpoint.epoch == 1
    assert checkpoint.record.model.hyperparameters == {"lr": 0.05, "hidden": 16, "dropout": 0.2}
    assert checkpoint.record.optimizers[0].param_groups[0].options["lr"] == 0.05
    assert checkpoint.record.metrics.at_checkpoint["val_loss"] == pytest.approx(t.callback_metrics["val_loss"].item())
    assert checkpoint.annotations["run_status"] == "finished"
    assert set(checkpoint.tags) == {"lightning-checkpoint", "best", "last"}


def test_checkpoints_can_be_loaded_by_their_local_paths(tmp_path: Path, models: Path) -> None:
    provenance = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, provenance)
    model = TinyNet()
    t.fit(model, loader(), loader())
    best = t.checkpoint_callback.best_model_path

    assert same(weights(TinyNet.load_from_checkpoint(best, weights_only=True)), weights(model))
    assert provenance.uri_for(best) == provenance.best_uri
    assert t.test(model, loader(), ckpt_path="best", verbose=False) == t.test(
        model, loader(), ckpt_path=best, verbose=False
    )
    assert Path(best).samefile(DtoolCheckpoint.from_uri(provenance.best_uri).path)


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_every_stage_loads_a_checkpoint_by_uri(tmp_path: Path, models: Path, stage: str) -> None:
    provenance = DtoolProvenanceCallback(str(models))
    model = TinyNet()
    trainer(tmp_path, provenance).fit(model, loader(), loader())

    blank = TinyNet()
    # Another Trainer needs the callback or the plug-in to load a URI. The callback keeps the URIs of the first run.
    uri = provenance.best_uri
    other = trainer(tmp_path, provenance)
    if stage == "predict":
        blank.predict_step = lambda batch, batch_idx: blank(batch[0])  # type: ignore[method-assign]
        other.predict(blank, loader(), ckpt_path=uri)
    else:
        getattr(other, stage)(blank, loader(), ckpt_path=uri, verbose=False)

    assert same(weights(blank), weights(model))
    assert provenance.best_uri == uri


MOVED = pytest.mark.filterwarnings(
    "ignore:The dirpath has changed:UserWarning"
)  # Lightning's warning about another folder


@MOVED
def test_resuming_by_uri_names_the_parent(tmp_path: Path, models: Path) -> None:
    provenance = DtoolProvenanceCallback(str(models))
    trainer(tmp_path, provenance).fit(TinyNet(), loader(), loader())
    first = provenance.best_uri

    again = trainer(tmp_path / "again", provenance, max_epochs=4)
    again.fit(TinyNet(), loader(), loader(), ckpt_path=first)

    assert again.current_epoch == 4
    record = DtoolCheckpoint.from_uri(provenance.best_uri).record
    assert record.lineage.parent_checkpoint is not None
    assert record.lineage.parent_checkpoint.uri == first
    DtoolCheckpoint.from_uri(first).verify()  # the dataset of another run is never changed


@MOVED
def test_resuming_by_local_path_names_the_parent(tmp_path: Path, models: Path) -> None:
    provenance = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, provenance)
    t.fit(TinyNet(), loader())
    first, path = provenance.best_uri, t.checkpoint_callback.best_model_path

    trainer(tmp_path / "again", provenance, max_epochs=3).fit(TinyNet(), loader(), ckpt_path=path)

    record = DtoolCheckpoint.from_uri(provenance.best_uri).record
    assert record.lineage.parent_checkpoint is not None
    assert record.lineage.parent_checkpoint.uri == first


# -- the user's policy --------------------------------------------------------------------------


def test_retention_mirror_keeps_what_modelcheckpoint_keeps(tmp_path: Path, models: Path) -> None:
    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", monitor="train_loss", save_top_k=2, save_last=True)
    provenance = DtoolProvenanceCallback(str(models))
    trainer(tmp_path, provenance, policy, max_epochs=6).fit(TinyNet(), loader())

    kept = list((tmp_path / "ckpt").iterdir())
    items = {dataset.name: DtoolCheckpoint.from_uri(dataset.uri).path for dataset in datasets(models)}
    assert all(any(path.samefile(item) for path in kept) for item in items.values())
    assert all(any(path.samefile(item) for item in items.values()) for path in kept)
    assert len(kept) == 3
    assert {path.name for path in models.iterdir()} == set(items)


def test_retention_all_keeps_every_dataset(tmp_path: Path, models: Path) -> None:
    provenance = DtoolProvenanceCallback(str(models), retention="all")
    trainer(tmp_path, provenance, max_epochs=4).fit(TinyNet(), loader())

    assert len(datasets(models)) == len(provenance.uris) == 4
    assert [DtoolCheckpoint.from_uri(uri).record.checkpoint.epoch for uri in provenance.uris] == [0, 1, 2, 3]


def test_best_and_last_of_one_step_share_a_dataset(tmp_path: Path, models: Path) -> None:
    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True)
    provenance = DtoolProvenanceCallback(str(models))
    trainer(tmp_path, provenance, policy).fit(TinyNet(), loader())

    (dataset,) = datasets(models)
    assert set(dataset.tags()) == {"lightning-checkpoint", "best", "last"}
    assert provenance.uri_for(policy.last_model_path) == provenance.uri_for(policy.best_model_path) == dataset.uri


def test_a_run_resumed_from_last_keeps_writing_to_last(tmp_path: Path, models: Path) -> None:
    def policy() -> ModelCheckpoint:
        return ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True)

    provenance = DtoolProvenanceCallback(str(models))
    trainer(tmp_path, provenance, policy(), max_epochs=1).fit(TinyNet(), loader())
    trainer(tmp_path, provenance, policy(), max_epochs=2).fit(
        TinyNet(), loader(), ckpt_path=str(tmp_path / "ckpt" / "last.ckpt")
    )

    assert sorted(path.name for path in (tmp_path / "ckpt").iterdir()) == ["epoch=1-step=12.ckpt", "last.ckpt"]


def test_a_last_checkpoint_saved_as_a_link_has_a_uri(tmp_path: Path, models: Path) -> None:
    torch.manual_seed(0)
    policy = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last="link", monitor="train_loss", save_top_k=2)
    provenance = DtoolProvenanceCallback(str(models))
    trainer(tmp_path, provenance, policy, max_epochs=3).fit(TinyNet(), loader())

    assert provenance.uri_for(policy.last_model_path) == provenance.last_uri
    assert torch.load(policy.last_model_path, weights_only=True)["epoch"] == 2


def test_two_policies_with_the_same_file_name_get_lightnings_versions(tmp_path: Path, models: Path) -> None:
    def run(folder: Path, *callbacks: L.Callback) -> list[str]:
        one = ModelCheckpoint(dirpath=folder, monitor="train_loss", mode="min")
        two = ModelCheckpoint(dirpath=folder, monitor="val_loss", mode="max")
        L.seed_everything(3)
        trainer(tmp_path, one, two, *callbacks, max_epochs=4).fit(TinyNet(), loader(), loader())
        return sorted(path.name for path in folder.iterdir())

    # Both save in the same hook: the first name must count as taken even before its file is written.
    plain = run(tmp_path / "plain")
    assert run(tmp_path / "ours", DtoolProvenanceCallback(str(models))) == plain


def test_a_fixed_file_name_gets_the_same_versions_as_without_the_callback(tmp_path: Path, models: Path) -> None:
    def run(folder: Path, *callbacks: L.Callback) -> list[str]:
        policy = ModelCheckpoint(dirpath=folder, filename="model", monitor="train_loss", save_top_k=-1)
        trainer(tmp_path, policy, *callbacks, max_epochs=3).fit(TinyNet(), loader())
        return sorted(path.name for path in folder.iterdir())

    plain = run(tmp_path / "plain")
    assert run(tmp_path / "ours", DtoolProvenanceCallback(str(models))) == plain
    assert len(datasets(models)) == len(plain) == 3


def test_items_that_do_not_change_in_a_run_take_their_space_once(tmp_path: Path, models: Path) -> None:
    policy = ModelCheckpoint(dirpath=tmp_path / "c", save_top_k=-1)
    provenance = DtoolProvenanceCallback(str(models))
    trainer(tmp_path, provenance, policy, max_epochs=3).fit(TinyNet(), loader())

    first, *others = [FrozenDataset.from_uri(uri) for uri in provenance.uris]
    for relpath in ("source.zip", "requirements.txt", "random_states.json", "provenance.json", "checkpoint.ckpt"):
        shared = relpath not in ("provenance.json", "checkpoint.ckpt")
        for other in others:
            paths = [dataset.path(dataset.item(relpath).identifier) for dataset in (first, other)]
            assert paths[0].samefile(paths[1]) == shared, relpath
    delete_dataset(first.uri)
    for other in others:
        other.verify()


def test_weights_only_checkpoints_every_n_steps_are_published(tmp_path: Path, models: Path) -> None:
    policy = ModelCheckpoint(dirpath=tmp_path / "c", every_n_train_steps=4, save_top_k=-1, save_weights_only=True)
    provenance = DtoolProvenanceCallback(str(models))
    trainer(tmp_path, provenance, policy).fit(TinyNet(), loader())

    records = [DtoolCheckpoint.from_uri(uri).record.checkpoint for uri in provenance.uris]
    assert [record.global_step for record in records] == [4, 8, 12]
    assert all(record.weights_only for record in records)


def test_save_checkpoint_after_the_run_is_published(tmp_path: Path, models: Path) -> None:
    provenance = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, provenance)
    t.fit(TinyNet(), loader())
    t.save_checkpoint(tmp_path / "final.ckpt")

    uri = provenance.uri_for(tmp_path / "final.ckpt")
    assert uri in provenance.uris
    assert DtoolCheckpoint.from_uri(uri).annotations["run_status"] == "finished"
    assert torch.load(tmp_path / "final.ckpt", weights_only=True)["global_step"] == 12


# -- runs without checkpoints -------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"fast_dev_run": True}, {"enable_checkpointing": False}, {"barebones": True, "limit_train_batches": 2}],
    ids=["fast_dev_run", "no checkpointing", "barebones"],
)
@pytest.mark.filterwarnings("ignore:.*barebones.*", "ignore:Nothing will be published")
def test_a_run_without_checkpoints_writes_no_dataset_and_no_output(tmp_path: Path, models: Path, options: dict) -> None:
    provenance = DtoolProvenanceCallback(str(models))
    if options.get("barebones"):
        t = L.Trainer(accelerator="cpu", max_epochs=1, callbacks=[provenance], **options)
    else:
        t = trainer(tmp_path, provenance, **options)
    t.fit(TinyNet(), loader())

    assert provenance.best_uri is None
    assert provenance.uris == []
    assert list(models.iterdir()) == []


def test_one_trainer_can_fit_twice_and_validate(tmp_path: Path, models: Path) -> None:
    provenance = DtoolProvenanceCallback(str(models), retention="all")
    t = trainer(tmp_path, provenance, max_epochs=1)
    model = TinyNet()
    t.fit(model, loader())
    io = t.strategy.checkpoint_io
    t.fit_loop.max_epochs = 2
    t.fit(model, loader())
    t.validate(model, loader(), verbose=False)

    assert t.strategy.checkpoint_io is io
    assert not isinstance(io.checkpoint_io, DtoolCheckpointIO)
    assert len(provenance.uris) == 2
    runs = {DtoolCheckpoint.from_uri(uri).record.run.uuid for uri in provenance.uris}
    assert len(runs) == 2


def test_the_uris_of_every_fit_are_listed(tmp_path: Path, models: Path, monkeypatch) -> None:
    provenance = DtoolProvenanceCallback(str(models))
    first = trainer(tmp_path / "a", provenance, max_epochs=1)
    first.fit(TinyNet(), loader())
    one, path = provenance.best_uri, first.checkpoint_callback.best_model_path
    second = trainer(tmp_path / "b", provenance, max_epochs=1)
    second.fit(TinyNet(), loader())
    two = provenance.best_uri
    assert one != two == provenance.last_uri
    assert provenance.uris == [one, two]
    assert provenance.uri_for(path) == one
    assert pickle.loads(pickle.dumps(provenance)).uris == [one, two]

    first.strategy.remove_checkpoint(path)  # as a longer fit of the first Trainer would
    first.strategy.checkpoint_io.flush()
    assert provenance.uris == [two]
    assert provenance.uri_for(path) is None

    monkeypatch.setattr("lightning_dtool.publishing.publisher.write_dataset", lambda *_: 1 / 0)
    for folder in ("c", "d"):
        with pytest.warns(ProvenanceWarning, match="division by zero"):
            trainer(tmp_path / folder, provenance, max_epochs=1).fit(TinyNet(), loader())
    assert [type(error) for error in provenance.errors] == [ZeroDivisionError] * 2
    assert (provenance.best_uri, provenance.last_uri) == (None, None)
    assert provenance.uris == [two]


def test_a_callback_keeps_no_trainer_of_an_earlier_fit_alive(tmp_path: Path, models: Path) -> None:
    provenance = DtoolProvenanceCallback(str(models))
    model = TinyNet()
    trainer(tmp_path / "a", provenance, max_epochs=1).fit(model, loader())
    earlier = weakref.ref(model)
    del model
    trainer(tmp_path / "b", provenance, max_epochs=1).fit(TinyNet(), loader())
    gc.collect()
    assert earlier() is None


def test_the_number_that_is_announced_is_that_of_the_run(
    tmp_path: Path, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provenance = DtoolProvenanceCallback(str(models), retention="all")
    t = trainer(tmp_path, provenance, max_epochs=2)
    model = TinyNet()
    t.fit(model, loader())
    t.fit_loop.max_epochs = 3
    caplog.clear()
    with caplog.at_level(logging.INFO):
        t.fit(model, loader())
    assert "Published with provenance: 1 checkpoint(s)" in caplog.text
    assert len(provenance.uris) == 3


def test_learning_rate_finder_leaves_no_dataset_and_no_false_parent(tmp_path: Path, models: Path) -> None:
    provenance = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, provenance, LearningRateFinder(num_training_steps=5), max_epochs=1)
    t.fit(TinyNet(), loader())

    (dataset,) = datasets(models)
    assert DtoolCheckpoint.from_uri(dataset.uri).record.lineage.parent_checkpoint is None


# -- loggers ------------------------------------------------------------------------------------


def test_the_uri_reaches_the_loggers(tmp_path: Path, models: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = [CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "tb")]
    provenance = DtoolProvenanceCallback(str(models))
    trainer(tmp_path, provenance, logger=loggers).fit(TinyNet(), loader())

    assert provenance.best_uri in (Path(loggers[0].log_dir) / "hparams.yaml").read_text()
    events = EventAccumulator(loggers[1].log_dir).Reload()
    written = events.Tensors("dtool_uri/text_summary")[0].tensor_proto.string_val[0].decode()
    assert written == provenance.best_uri


def test_a_logger_that_fails_does_not_fail_the_run(tmp_path: Path, models: Path, monkeypatch) -> None:
    logger = CSVLogger(tmp_path, "csv")
    original = logger.log_hyperparams
    monkeypatch.setattr(
        logger, "log_hyperparams", lambda params=None: 1 / 0 if "dtool_uri" in params else original(params)
    )
    with pytest.warns(ProvenanceWarning, match="CSVLogger could not log the URI"):
        trainer(tmp_path, DtoolProvenanceCallback(str(models)), logger=logger).fit(TinyNet(), loader())


def test_the_uri_is_announced(tmp_path: Path, models: Path, caplog: pytest.LogCaptureFixture) -> None:
    provenance = DtoolProvenanceCallback(str(models))
    with caplog.at_level(logging.INFO):
        trainer(tmp_path, provenance).fit(TinyNet(), loader())
    assert provenance.best_uri in caplog.text


# -- invalid input, before training starts ------------------------------------------------------


class Untouchable(TinyNet):
    """A model that must not be trained."""

    def training_step(self, batch, batch_idx):
        raise AssertionError("training started")


def test_a_missing_base_uri_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        trainer(tmp_path, DtoolProvenanceCallback(str(tmp_path / "nowhere"))).fit(Untouchable(), loader())


def test_an_unknown_scheme_is_refused_immediately() -> None:
    with pytest.raises(InvalidURIError, match="ftp"):
        DtoolProvenanceCallback("ftp://lab/models")


def test_a_misspelt_retention_is_refused_immediately(models: Path) -> None:
    with pytest.raises(ConfigurationError, match="miror"):
        DtoolProvenanceCallback(str(models), retention="miror")


def test_two_base_uris_in_one_trainer_are_refused(tmp_path: Path, models: Path) -> None:
    (tmp_path / "other").mkdir()
    callbacks = [DtoolProvenanceCallback(str(models)), DtoolProvenanceCallback(str(tmp_path / "other"))]
    with pytest.raises(ConfigurationError, match="other"):
        trainer(tmp_path, *callbacks).fit(Untouchable(), loader())


def test_sharded_strategies_are_refused(tmp_path: Path, models: Path, monkeypatch) -> None:
    from lightning.pytorch.strategies import FSDPStrategy

    t = trainer(tmp_path)
    monkeypatch.setattr(t.strategy, "__class__", type("Sharded", (FSDPStrategy,), {"__init__": lambda self: None}))
    with pytest.raises(UnsupportedStrategyError, match="sharded"):
        DtoolProvenanceCallback(str(models)).setup(t, TinyNet(), "fit")


def test_a_trainer_from_pytorch_lightning_is_refused(tmp_path: Path, models: Path) -> None:
    pl = pytest.importorskip("pytorch_lightning")

    class PlNet(pl.LightningModule):
        pass

    t = pl.Trainer(accelerator="cpu", logger=False, max_epochs=1, enable_progress_bar=False)
    with pytest.raises(MixedNamespaceError, match="import lightning"):
        DtoolProvenanceCallback(str(models)).setup(t, PlNet(), "fit")


# -- a store that fails during training ---------------------------------------------------------


def break_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr("lightning_dtool.publishing.dataset.DatasetWriter.commit", refuse)


@pytest.mark.filterwarnings("ignore::lightning_dtool.errors.ProvenanceWarning")
def test_a_store_that_fails_never_stops_training(tmp_path: Path, models: Path, monkeypatch) -> None:
    break_the_store(monkeypatch)
    provenance = DtoolProvenanceCallback(str(models), retention="all")
    t = trainer(tmp_path, provenance, max_epochs=3)
    model = TinyNet()
    t.fit(model, loader())

    assert t.current_epoch == 3
    assert len(provenance.errors) == 3
    assert provenance.best_uri is None
    # The plain checkpoint is at Lightning's own path.
    assert same(
        weights(TinyNet.load_from_checkpoint(t.checkpoint_callback.best_model_path, weights_only=True)), weights(model)
    )
    assert list(models.iterdir()) == []


def test_a_failing_store_gives_a_warning(tmp_path: Path, models: Path, monkeypatch) -> None:
    break_the_store(monkeypatch)
    with pytest.warns(ProvenanceWarning, match="the disk is full"):
        trainer(tmp_path, DtoolProvenanceCallback(str(models)), max_epochs=1).fit(TinyNet(), loader())


def test_a_strict_callback_raises_a_failure_of_the_store(tmp_path: Path, models: Path, monkeypatch) -> None:
    break_the_store(monkeypatch)
    with pytest.raises(PublishError, match="the disk is full"):
        trainer(tmp_path, DtoolProvenanceCallback(str(models), strict=True)).fit(TinyNet(), loader())


@pytest.mark.filterwarnings("ignore::lightning_dtool.errors.ProvenanceWarning")
def test_the_last_good_dataset_survives_a_failed_successor(tmp_path: Path, models: Path, monkeypatch) -> None:
    from lightning_dtool.store import DatasetWriter

    commit = DatasetWriter.commit
    monkeypatch.setattr(
        "lightning_dtool.publishing.dataset.DatasetWriter.commit",
        lambda self: commit(self) if "epoch0" in self.uri else (_ for _ in ()).throw(StoreError("gone")),
    )
    trainer(tmp_path, DtoolProvenanceCallback(str(models)), max_epochs=3).fit(TinyNet(), loader())

    (dataset,) = datasets(models)
    assert "epoch0" in dataset.name
    assert "superseded" in dataset.tags()


def _local() -> object:
    class Inner:
        pass

    return Inner()


class _Refusing:
    def __getstate__(self) -> Any:
        raise ArithmeticError("not now")


class _Unpicklable(TinyNet):
    def __init__(self, make: Any, at: str) -> None:
        super().__init__()
        self._make, self._at = make, at
        if at == "hyperparameters":
            self.hparams["made"] = make()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._at == "state":
            checkpoint["made"] = self._make()


class _Stateful(L.Callback):
    def __init__(self, make: Any) -> None:
        self._make = make

    def state_dict(self) -> dict[str, Any]:
        return {"made": self._make()}


@pytest.mark.parametrize("make", [threading.Lock, _local, _Refusing, lambda: (i for i in ())])
@pytest.mark.parametrize("at", ["state", "hyperparameters", "callback"])
@pytest.mark.parametrize("background", [True, False])
def test_a_state_that_cannot_be_pickled_ends_training_as_in_lightning(
    tmp_path: Path, models: Path, make: Any, at: str, background: bool
) -> None:
    def ends(*callbacks: L.Callback) -> tuple[type[BaseException], str, int]:
        module = _Unpicklable(make, at)
        other = [_Stateful(make)] if at == "callback" else []
        t = trainer(tmp_path, *callbacks, *other, max_epochs=3)
        with pytest.raises(Exception) as raised:
            t.fit(module, loader())
        return raised.type, str(raised.value).partition(" at 0x")[0], t.global_step

    provenance = DtoolProvenanceCallback(str(models), background=background)
    assert ends(provenance) == ends()
    assert provenance.errors == []
    assert list(models.iterdir()) == []
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_previous_checkpoint_stays_when_a_state_can_no_longer_be_pickled(tmp_path: Path, models: Path) -> None:
    class Later(TinyNet):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            if self.current_epoch == 1:
                checkpoint["lock"] = threading.Lock()

    provenance = DtoolProvenanceCallback(str(models))
    keep = ModelCheckpoint(dirpath=tmp_path, filename="only", enable_version_counter=False)
    with pytest.raises(TypeError, match="pickle"):
        trainer(tmp_path, provenance, keep, max_epochs=3).fit(Later(), loader())
    assert torch.load(tmp_path / "only.ckpt", weights_only=True)["epoch"] == 0
    (uri,) = provenance.uris
    assert DtoolCheckpoint.from_uri(uri).record.checkpoint.epoch == 0


def test_an_exception_of_the_user_is_raised_unchanged(tmp_path: Path, models: Path, monkeypatch) -> None:
    class Broken(TinyNet):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                raise ZeroDivisionError("mine")

    provenance = DtoolProvenanceCallback(str(models))
    with pytest.raises(ZeroDivisionError, match="mine"):
        trainer(tmp_path, provenance, max_epochs=3).fit(Broken(), loader())

    # The checkpoint is published nevertheless, and its record says how the run ended.
    checkpoint = DtoolCheckpoint.from_uri(provenance.last_uri)
    assert checkpoint.annotations["run_status"] == "failed"
    checkpoint.verify()


def test_hyperparameters_that_are_not_json_are_recorded_with_a_gap(tmp_path: Path, models: Path) -> None:
    class WithPath(TinyNet):
        def __init__(self, folder: Path, lr: float = 0.1) -> None:
            super().__init__(lr)
            self.hparams.folder = folder
            self._set_hparams({"folder": os.fspath(folder), "lr": lr, "hidden": 16, "dropout": 0.2, "sizes": (1, 2)})
            self._hparams_initial = {"folder": folder, "lr": lr, "sizes": (1, 2), "act": lambda x: x}

    provenance = DtoolProvenanceCallback(str(models))
    trainer(tmp_path, provenance, max_epochs=1).fit(WithPath(tmp_path), loader())

    record = DtoolCheckpoint.from_uri(provenance.best_uri).record
    assert record.model.hyperparameters["sizes"] == {"type": "builtins:tuple", "value": [1, 2]}
    assert "lambda" in record.model.hyperparameters["act"]["name"]
    assert any(gap.fact == "model.hyperparameters.act" for gap in record.gaps)


def test_a_skipped_epoch_leaves_no_function_mode_behind(tmp_path: Path, models: Path) -> None:
    from torch.overrides import _get_current_function_mode_stack

    class Skips(TinyNet):
        def on_train_batch_start(self, batch, batch_idx):
            return -1

    trainer(tmp_path, DtoolProvenanceCallback(str(models)), max_epochs=1).fit(Skips(), loader())
    assert _get_current_function_mode_stack() == []


def test_an_exception_leaves_no_function_mode_behind(tmp_path: Path, models: Path) -> None:
    from torch.overrides import _get_current_function_mode_stack

    class Breaks(TinyNet):
        def training_step(self, batch, batch_idx):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        trainer(tmp_path, DtoolProvenanceCallback(str(models)), max_epochs=1).fit(Breaks(), loader())
    assert _get_current_function_mode_stack() == []


def test_data_without_a_uri_gives_one_warning_with_guideline_and_remedy(tmp_path: Path, models: Path) -> None:
    with pytest.warns(ProvenanceWarning, match="The record cannot name the URI") as caught:
        trainer(tmp_path, DtoolProvenanceCallback(str(models)), max_epochs=3).fit(TinyNet(), loader(), loader())
    (warning_text,) = [str(warning.message) for warning in caught if "URI of the data" in str(warning.message)]
    assert "lightning-dtool pack" in warning_text
    assert "dtoolAI" in warning_text


def test_a_secret_in_hyperparameters_gives_a_warning_before_saving(tmp_path: Path, models: Path) -> None:
    class Careless(TinyNet):
        def __init__(self, wandb_api_key: str, lr: float = 0.1) -> None:
            super().__init__(lr=lr)
            self.save_hyperparameters()

    provenance = DtoolProvenanceCallback(str(models))
    with pytest.warns(ProvenanceWarning, match="wandb_api_key"):
        trainer(tmp_path, provenance, max_epochs=1).fit(Careless("9f8e7d6c5b4a39281706f5e4d3c2b1a0"), loader())

    record = DtoolCheckpoint.from_uri(provenance.best_uri).record
    assert record.model.hyperparameters["wandb_api_key"] == "[redacted]"
    assert "checkpoint.hyper_parameters.wandb_api_key" in {gap.fact for gap in record.gaps}


def test_a_model_can_be_pickled_with_its_trainer(tmp_path: Path, models: Path) -> None:
    provenance = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, provenance)
    model = TinyNet()
    t.fit(model, loader())
    torch.save(model, tmp_path / "model.pt")

    assert same(weights(torch.load(tmp_path / "model.pt", weights_only=False)), weights(model))
    assert pickle.loads(pickle.dumps(provenance)).best_uri == copy.deepcopy(provenance).best_uri == provenance.best_uri


class CopiesCallbacks(L.Callback):
    """Copies all callbacks, of which a progress bar knows the Trainer, when training begins."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.copies = copy.deepcopy(trainer.callbacks)  # type: ignore[attr-defined]


def test_a_trainer_can_be_pickled_and_its_callbacks_copied(tmp_path: Path, models: Path) -> None:
    copying = CopiesCallbacks()
    t = trainer(tmp_path, DtoolProvenanceCallback(str(models)), copying, enable_progress_bar=True)
    t.fit(TinyNet(), loader())
    assert [type(each) for each in copying.copies] == [type(each) for each in t.callbacks]
    torch.save(t, tmp_path / "trainer.pt")
    again = torch.load(tmp_path / "trainer.pt", weights_only=False)
    assert same(weights(again.lightning_module), weights(t.lightning_module))


def test_an_observation_that_fails_never_stops_training(tmp_path: Path, models: Path, monkeypatch) -> None:
    monkeypatch.setattr("lightning_dtool.capture.recorder.observe_run", lambda *_: 1 / 0)
    provenance = DtoolProvenanceCallback(str(models))
    t = trainer(tmp_path, provenance, max_epochs=1)
    model = TinyNet()
    with pytest.warns(ProvenanceWarning, match="ZeroDivisionError"):
        t.fit(model, loader())
    assert same(
        weights(TinyNet.load_from_checkpoint(t.checkpoint_callback.best_model_path, weights_only=True)), weights(model)
    )
