"""DtoolDataModule with real Trainers."""

import io
import json
import re
import sys
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from PIL import Image
from torch import nn

from lightning_dtool import DtoolDataModule
from lightning_dtool.errors import (
    ConfigurationError,
    DatasetNotFoundError,
    DecodeError,
    MetadataKeyError,
    MixedNamespaceError,
    ProvenanceWarning,
    RecordError,
    SelectionError,
    StoreError,
    VerificationError,
)
from lightning_dtool.record import Data, DataModule, DatasetReference, DataSource, to_json
from lightning_dtool.store import DatasetWriter, FrozenDataset, delete_dataset, local_path
from record.samples import record

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*`isinstance\\(treespec, LeafSpec\\)` is deprecated"),
]

COUNT = 40


class Net(pl.LightningModule):
    """Keeps the batches that it receives."""

    def __init__(self, lr: float = 0.1, dropout: float = 0.0) -> None:
        super().__init__()
        self.lr = lr
        self.dropout = nn.Dropout(dropout)
        self.layer = nn.Linear(12, 2)
        self.seen = []
        self.evaluated = []

    def forward(self, x):
        return self.layer(self.dropout(x.flatten(1)))

    def training_step(self, batch, batch_idx):
        x, y = batch
        assert y.dtype == torch.int64
        self.seen.append((self.current_epoch, (x.flatten(1)[:, 0] * 255).round().int().tolist()))
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, _ = batch
        self.evaluated += (x.flatten(1)[:, 0] * 255).round().int().tolist()

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def trainer(**arguments):
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "max_epochs": 1,
    }
    return pl.Trainer(**{**quiet, **arguments})


def image(value):
    file = io.BytesIO()
    Image.new("L", (4, 3), value).save(file, "PNG")
    return file.getvalue()


FILES = {f"{'oak' if i % 4 else 'elm'}/{i:02}.png": image(i) for i in range(COUNT)}
CATEGORY = {relpath: relpath[:3] for relpath in FILES}
USETYPE = {relpath: ["train", "train", "Validation", "test"][i % 4] for i, relpath in enumerate(FILES)}


@pytest.fixture
def leaves(make_dataset):
    return make_dataset(FILES, overlays={"category": CATEGORY, "usetype": USETYPE})


@pytest.fixture
def uri(leaves):
    return leaves.uri


def facts(module):
    return {stage: facts["count"] for stage, facts in module.description()["stages"].items()}


# -- the stages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_every_stage_receives_its_samples(uri, workers):
    data = DtoolDataModule(uri, val_split=0.2, test_split=0.1, batch_size=8, num_workers=workers)
    model, runner = Net(), trainer(max_epochs=2, num_sanity_val_steps=0)
    runner.fit(model, data)
    held_out = sorted(model.evaluated[: len(model.evaluated) // 2])
    for epoch in range(2):
        trained = [value for number, batch in model.seen if number == epoch for value in batch]
        assert len(trained) == 28
        assert not set(trained) & set(held_out)
    assert model.seen[0][1] != model.seen[4][1]
    model.evaluated.clear()
    runner.validate(model, data, verbose=False)
    assert sorted(model.evaluated) == held_out
    model.evaluated.clear()
    runner.test(model, data, verbose=False)
    assert len(model.evaluated) == 4
    assert not set(model.evaluated) & set(held_out)
    assert sum(len(batch) for batch in runner.predict(model, data)) == COUNT
    assert facts(data) == {"train": 28, "val": 8, "test": 4, "predict": COUNT}


def test_a_stage_without_data_is_skipped_in_fit_and_an_error_elsewhere(uri):
    data, model = DtoolDataModule(uri), Net()
    trainer().fit(model, data)
    assert not model.evaluated
    for run, name in ((trainer().validate, "val"), (trainer().test, "test")):
        with pytest.raises(ConfigurationError, match=rf"no data for '{name}'.*{name}_split"):
            run(model, data)
    assert data.val_dataloader() == data.test_dataloader() == []
    with pytest.raises(ConfigurationError, match="train_uri"):
        trainer().fit(model, DtoolDataModule(test_uri=uri))
    with pytest.raises(ConfigurationError, match="predict_uri"):
        trainer().predict(model, DtoolDataModule(train_uri=uri))


def test_an_overlay_splits_the_data(uri):
    data = DtoolDataModule(uri, split_overlay="usetype")
    data.setup()
    assert facts(data) == {"train": 20, "val": 10, "test": 10, "predict": COUNT}
    assert data.classes == ["elm", "oak"]
    assert data.num_classes == 2
    only_test = DtoolDataModule(uri, split_overlay="usetype", select={"usetype": "test"})
    model = Net()
    trainer().test(model, only_test, verbose=False)
    assert len(model.evaluated) == 10


def test_select_is_applied_before_the_split(uri):
    data = DtoolDataModule(uri, select={"usetype": ("train", "test")}, test_split=0.1, stratify=True)
    data.setup()
    assert facts(data) == {"train": 27, "test": 3, "predict": 30}
    assert data.description()["stages"]["test"]["class_counts"] == {"elm": 1, "oak": 2}


def test_class_numbers_of_the_training_data_apply_to_all_stages(make_dataset, uri):
    only_oak = make_dataset({"9.png": image(9)}, "val", overlays={"category": {"9.png": "oak"}})
    plain = make_dataset({"9.png": image(9)}, "new")
    data = DtoolDataModule(train_uri=uri, val_uri=only_oak.uri, predict_uri=plain.uri)
    data.setup("fit")
    assert next(iter(data.val_dataloader()))[1].tolist() == [1]
    data.setup("predict")
    assert next(iter(data.predict_dataloader())).shape == (1, 1, 3, 4)
    ash = make_dataset({"9.png": image(9)}, "ash", overlays={"category": {"9.png": "ash"}})
    with pytest.raises(DecodeError, match=r"'ash' for item 9.png, which is none of the classes 'elm', 'oak'"):
        DtoolDataModule(train_uri=uri, val_uri=ash.uri).setup("fit")
    with pytest.raises(ConfigurationError, match="do not fit together"):
        DtoolDataModule(train_uri=uri, val_uri=plain.uri).setup("fit")


def test_transforms_and_targets_are_applied(uri):
    data = DtoolDataModule(
        uri,
        val_split=0.5,
        target="folder",
        train_transform=lambda image: torch.zeros(1),
        eval_transform=lambda image: torch.ones(1),
        target_transform=lambda target: target + 5,
        collate_fn=list,
        eval_batch_size=2,
        batch_size=3,
        drop_last=True,
    )
    data.setup("fit")
    train, val = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    assert [len(train), len(val)] == [3, 2]
    assert train[0][0] == 0
    assert val[0][0] == 1
    assert {target for _, target in train + val} <= {5, 6}
    assert len(data.train_dataloader()) == 6


def test_arrays_are_split_by_rows(make_dataset):
    def npy(array):
        file = io.BytesIO()
        np.save(file, array)
        return file.getvalue()

    labels = np.arange(20) % 2
    arrays = make_dataset({"data.npy": npy(np.arange(20.0)), "labels.npy": npy(labels)}, "arrays")
    data = DtoolDataModule(arrays.uri, val_split=0.2, stratify=True, batch_size=20)
    data.prepare_data()
    data.setup("fit")
    x, y = next(iter(data.train_dataloader()))
    assert x.dtype == torch.float64
    assert torch.equal(x.long() % 2, y)
    assert data.description()["stages"]["val"]["class_counts"] == {"0": 2, "1": 2}
    with pytest.raises(SelectionError, match="rows have no overlays"):
        DtoolDataModule(arrays.uri, split_overlay="usetype").setup("fit")


def test_dtoolai_images_are_split_by_usetype(base_uri):
    import dtoolcore

    from lightning_dtool.store import generate_identifier

    with dtoolcore.DataSetCreator("dtoolai", base_uri) as creator:
        for relpath, content in FILES.items():
            path = Path(creator.prepare_staging_abspath_promise(relpath))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        creator.proto_dataset.put_annotation("dtoolAI.inputtype", "ImageDataSet")
        creator.proto_dataset.put_annotation("category_encoding", {"oak": 0, "elm": 1})
    dataset = dtoolcore.DataSet.from_uri(creator.uri)
    for name, values in (("category", CATEGORY), ("usetype", USETYPE)):
        dataset.put_overlay(name, {generate_identifier(relpath): value for relpath, value in values.items()})
    data = DtoolDataModule(creator.uri)
    data.setup()
    assert facts(data) == {"train": 20, "val": 10, "test": 10, "predict": COUNT}
    assert data.classes == ["oak", "elm"]
    by_fraction = DtoolDataModule(creator.uri, val_split=0.5)
    by_fraction.setup()
    assert facts(by_fraction)["train"] == 20


def test_only_the_datasets_of_the_present_stage_are_opened(uri, tmp_path):
    data = DtoolDataModule(uri, val_split=0.2, predict_uri=tmp_path / "not there yet")
    trainer().fit(Net(), data)
    assert set(facts(data)) == {"train", "val"}
    with pytest.raises(DatasetNotFoundError, match="not there yet"):
        trainer().predict(Net(), data)
    with pytest.raises(DatasetNotFoundError, match="not there yet"):
        DtoolDataModule(uri, predict_uri=tmp_path / "not there yet").prepare_data()


def test_remote_items_are_fetched_before_training(make_dataset, s3_base_uri):
    remote = make_dataset(FILES, base=s3_base_uri, overlays={"category": CATEGORY, "usetype": USETYPE})
    data = DtoolDataModule(remote.uri, select={"usetype": "test"}, batch_size=5, num_workers=2)
    data.prepare_data()
    fetched = {path.suffix for path in map(remote.path, data.train_dataloader().dataset.identifiers)}
    assert fetched == {".png"}
    model = Net()
    trainer().fit(model, data)
    assert len(model.seen) == 2


# -- before training starts -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "There is no data"),
        ({"uri": "a", "train_uri": "b"}, r"Both uri='file://\S+/a' and train_uri='file://\S+/b'"),
        ({"train_uri": "a", "val_split": 0.1}, "divide the dataset"),
        ({"uri": "a", "val_split": 0.5, "test_split": 0.5}, "no items for training"),
        ({"uri": "a", "val_split": -0.5}, "val_split is -0.5"),
        ({"uri": "a", "val_split": 0.5, "split_overlay": "x"}, "already assigns"),
        ({"uri": "a", "val_split": 0.5, "val_uri": "b"}, "val_split"),
        ({"uri": "a", "split_overlay": "x", "test_uri": "b"}, "split_overlay"),
        ({"uri": "a", "batch_size": 0}, "batch_size is 0"),
        ({"uri": "a", "eval_batch_size": 0}, "eval_batch_size is 0"),
        ({"uri": "a", "num_workers": -1}, "num_workers is -1"),
        ({"uri": "a", "persistent_workers": True}, "num_workers"),
    ],
)
def test_conflicting_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        DtoolDataModule(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split_overlay": "nothing"}, MetadataKeyError, "nothing"),
        ({"split_overlay": "category"}, SelectionError, "'elm', which names no stage"),
        ({"target": "nothing"}, MetadataKeyError, "nothing"),
        ({"select": {"usetype": "x"}}, SelectionError, r"'train' \(20\)"),
        ({"val_split": 0.001}, SelectionError, "less than one item"),
        ({"val_split": 0.5, "stratify": True, "target": "none"}, SelectionError, "stratify"),
        (
            {"select": {"usetype": "test"}, "split_overlay": "usetype"},
            SelectionError,
            "no selected item is for 'train' by the overlay",
        ),
    ],
)
def test_arguments_that_the_data_cannot_meet_fail_before_training(uri, arguments, error, message):
    model = Net()
    with pytest.raises(error, match=message):
        trainer().fit(model, DtoolDataModule(uri, **arguments))
    assert not model.seen


def test_a_missing_dataset_is_an_error(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="nothing"):
        trainer().fit(Net(), DtoolDataModule(tmp_path / "nothing"))


def test_a_trainer_from_pytorch_lightning_is_refused(uri):
    other = pytest.importorskip("pytorch_lightning")
    runner = other.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")

    class Model(other.LightningModule):
        def training_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            pass

    with pytest.raises(MixedNamespaceError, match="import lightning as L"):
        runner.fit(Model(), datamodule=DtoolDataModule(uri))


def test_setup_opens_the_dataset_once_and_draws_no_random_numbers(uri, monkeypatch):
    from lightning_dtool.store import FrozenDataset

    opened = []
    from_uri = FrozenDataset.from_uri.__func__
    monkeypatch.setattr(
        FrozenDataset, "from_uri", classmethod(lambda cls, uri: opened.append(uri) or from_uri(cls, uri))
    )
    torch.manual_seed(0)
    state = torch.get_rng_state()
    data = DtoolDataModule(uri, val_split=0.2)
    for _ in range(2):
        data.prepare_data()
        data.setup("fit")
        data.setup("predict")
        data.description()
    assert opened == [uri]
    assert torch.equal(state, torch.get_rng_state())


# -- resuming -------------------------------------------------------------------------------------


class EveryStep(pl.Callback):
    """Saves a checkpoint after each step: a checkpoint saved after `fit` always holds complete epochs."""

    def __init__(self, folder) -> None:
        self.folder = folder

    def on_train_batch_end(self, runner, *_):
        runner.save_checkpoint(self.folder / f"step={runner.global_step}.ckpt")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("limit", [1.0, 3])
def test_training_resumes_at_the_next_batch(uri, tmp_path, workers, limit):
    def fit(model, **arguments):
        data = DtoolDataModule(uri, batch_size=10, num_workers=workers)
        callbacks = [] if arguments else [EveryStep(tmp_path)]
        trainer(max_epochs=3, limit_train_batches=limit, callbacks=callbacks).fit(model, data, **arguments)
        return model.seen

    whole = fit(Net())
    for step in (1, 2, 3, 5, 7):
        assert fit(Net(), ckpt_path=tmp_path / f"step={step}.ckpt") == whole[step:]


def test_training_resumes_after_a_validation_inside_an_epoch(uri, tmp_path):
    class Save(pl.Callback):
        def on_validation_end(self, runner, model):
            runner.save_checkpoint(tmp_path / f"step={runner.global_step}.ckpt")

    def fit(callbacks=(), **arguments):
        model = Net()
        data = DtoolDataModule(uri, batch_size=8, val_split=0.2)
        runner = trainer(max_epochs=3, val_check_interval=2, num_sanity_val_steps=0, callbacks=[*callbacks])
        runner.fit(model, data, **arguments)
        return model.seen

    whole = fit([Save()])
    for step in (2, 4, 6, 8):
        assert fit(ckpt_path=tmp_path / f"step={step}.ckpt") == whole[step:]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("saved", "limit"), [("on_train_epoch_end", 1.0), ("on_train_epoch_end", 0.5), ("on_validation_end", 0.5)]
)
def test_training_resumes_with_the_next_epoch_after_a_finished_one(uri, tmp_path, workers, saved, limit):
    def fit(model, epochs, **arguments):
        data = DtoolDataModule(uri, batch_size=8, num_workers=workers, val_split=0.2)
        keep = ModelCheckpoint(
            tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=saved == "on_train_epoch_end"
        )
        runner = trainer(max_epochs=epochs, limit_train_batches=limit, callbacks=[keep], enable_checkpointing=True)
        runner.fit(model, data, **arguments)

    whole, second = Net(), Net()
    fit(whole, 3)
    fit(second, 3, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert second.seen == [batch for batch in whole.seen if batch[0] > 0]


def test_resuming_gives_the_same_weights_with_dropout(uri, tmp_path):
    """The test restores the random state, as the provenance callback does; nothing else may differ."""
    states = []

    class Save(pl.Callback):
        def on_train_batch_end(self, runner, *_):
            states.append(torch.get_rng_state())

    class Restore(pl.Callback):
        def on_train_start(self, runner, model):
            torch.set_rng_state(states[5])

    def fit(callbacks, **arguments):
        pl.seed_everything(3, verbose=False)
        model = Net(dropout=0.5)
        runner = trainer(max_epochs=2, callbacks=callbacks)
        runner.fit(model, DtoolDataModule(uri, batch_size=10), **arguments)
        return model.layer.weight

    whole = fit([Save(), EveryStep(tmp_path)])
    resumed = fit([Restore()], ckpt_path=tmp_path / "step=6.ckpt")
    assert torch.equal(whole, resumed)


def test_a_checkpoint_holds_plain_values_and_loads_with_weights_only(uri, tmp_path):
    data = DtoolDataModule(
        Path(uri.partition("://")[2].partition("/")[2] and "/" + uri.partition("://")[2].partition("/")[2]),
        batch_size=10,
        train_transform=lambda image: torch.zeros(12),
        target=lambda item: item.relpath[:3],
        select={"usetype": {"train", "test"}},
    )
    runner = trainer()
    runner.fit(Net(), data)
    runner.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    hyperparameters = checkpoint["datamodule_hyper_parameters"]
    assert hyperparameters["batch_size"] == 10
    assert hyperparameters["select"] == {"usetype": ["test", "train"]}
    assert isinstance(hyperparameters["uri"], str)
    assert not any(map(callable, hyperparameters.values()))
    assert checkpoint["DtoolDataModule"]["selection_digest"].startswith("sha256:")
    again = DtoolDataModule.load_from_checkpoint(tmp_path / "x.ckpt", target="folder")
    assert (again.batch_size, again.target) == (10, "folder")


def test_resuming_with_other_data_gives_a_warning(uri, tmp_path):
    runner = trainer()
    runner.fit(Net(), DtoolDataModule(uri, batch_size=10, val_split=0.5))
    runner.save_checkpoint(tmp_path / "x.ckpt")
    with pytest.warns(ProvenanceWarning, match="resumes with other data"):
        trainer(max_epochs=2).fit(Net(), DtoolDataModule(uri, val_split=0.5, seed=1), ckpt_path=tmp_path / "x.ckpt")
    trainer().validate(Net(), DtoolDataModule(uri, val_split=0.1), ckpt_path=tmp_path / "x.ckpt", verbose=False)


def test_resuming_inside_an_epoch_with_another_seed_is_refused(uri, tmp_path):
    trainer(callbacks=[EveryStep(tmp_path)]).fit(Net(), DtoolDataModule(uri, batch_size=10))
    with pytest.raises(ConfigurationError, match="had seed 0; here it is 1"):
        trainer().fit(Net(), DtoolDataModule(uri, batch_size=10, seed=1), ckpt_path=tmp_path / "step=2.ckpt")


# -- Lightning's tools ----------------------------------------------------------------------------


class SeenPerRank(Net):
    """Writes the batches that each process received to a file."""

    def __init__(self, folder) -> None:
        super().__init__()
        self.folder = folder

    def on_train_end(self):
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(self.seen))


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_processes_share_an_epoch_without_overlap(uri, tmp_path, workers):
    data = DtoolDataModule(uri, batch_size=5, num_workers=workers)
    trainer(strategy="ddp_fork", devices=2, max_epochs=2).fit(SeenPerRank(tmp_path), data)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for epoch in range(2):
        seen = [[value for number, batch in rank if number == epoch for value in batch] for rank in ranks]
        assert [len(part) for part in seen] == [COUNT // 2] * 2
        assert sorted(seen[0] + seen[1]) == list(range(COUNT))


@pytest.mark.filterwarnings("ignore:.*log_every_n_steps")
def test_the_batch_size_and_learning_rate_finders_work(uri, tmp_path):
    def run(callback, **arguments):
        data = DtoolDataModule(uri, batch_size=3, val_split=0.2)
        model = Net()
        # The finders write temporary checkpoints.
        runner = trainer(callbacks=[callback], default_root_dir=tmp_path, enable_checkpointing=True, **arguments)
        runner.fit(model, data)
        return data, model

    data, _ = run(BatchSizeFinder(steps_per_trial=1, max_trials=2, init_val=2))
    assert data.batch_size in (4, 8)  # the number of trials depends on Lightning's version
    data, model = run(LearningRateFinder(num_training_steps=6))
    assert sorted(v for _, batch in model.seen[-11:] for v in batch) == sorted(
        v for batch in list(data.train_dataloader()) for v in (batch[0].flatten(1)[:, 0] * 255).round().int().tolist()
    )


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize("arguments", [{"fast_dev_run": 2}, {"overfit_batches": 2}, {"barebones": True}])
def test_special_modes_of_the_trainer_work(uri, arguments):
    model = Net()
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"))
    trainer(**arguments, **(quiet if "barebones" in arguments else {})).fit(model, DtoolDataModule(uri, batch_size=8))
    assert model.seen


def test_lightning_cli_works(uri, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # a deprecation in Lightning's own code
    arguments = [
        "fit",
        f"--data.uri={uri}",
        "--data.val_split=0.25",
        "--data.select={usetype: [train, test]}",
        "--data.batch_size=4",
        "--data.target=folder",
        "--data.decoder=lightning_dtool.data.decoding.read_image",
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]
    cli = LightningCLI(Net, args=arguments, datamodule_class=DtoolDataModule, seed_everything_default=1)
    assert facts(cli.datamodule)["val"] == 8
    assert len(cli.model.seen) == 6
    data = ["fit", "--data=lightning_dtool.DtoolDataModule", *arguments[1:6]]
    with pytest.raises(SystemExit) as stopped:
        LightningCLI(Net, args=[*data, "--print_config"], seed_everything_default=1)
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "class_path: lightning_dtool.DtoolDataModule" in printed
    assert "persistent_workers: false" in printed


# -- description, and construction from a checkpoint -----------------------------------------------


def test_the_description_is_strict_json(leaves, uri):
    data = DtoolDataModule(uri, val_split=0.2, train_transform=nn.Dropout(0.5), collate_fn=partial(list))
    assert data.description()["stages"] == {}
    data.setup("fit")
    text = json.dumps(data.description(), allow_nan=False)
    stage = json.loads(text)["stages"]["train"]
    assert stage.pop("selection_digest").startswith("sha256:")
    assert stage.pop("targets_digest").startswith("sha256:")
    assert stage == {
        "uri": uri,
        "uuid": leaves.uuid,
        "name": "leaves",
        "content_digest": leaves.content_digest,
        "count": 32,
        "classes": ["elm", "oak"],
        "class_to_idx": {"elm": 0, "oak": 1},
        "class_counts": {"elm": stage["class_counts"]["elm"], "oak": 32 - stage["class_counts"]["elm"]},
    }
    assert data.description()["arguments"]["train_transform"]["init"] == {"p": 0.5, "inplace": False}


def checkpoint_of(data, base_uri, name="checkpoint", class_path="lightning_dtool:DtoolDataModule"):
    """Write a checkpoint dataset as the callback does."""
    data.setup("fit")
    description = json.loads(json.dumps(data.description()))
    stages = {
        stage: [
            DataSource(
                dataset=DatasetReference(**{key: facts[key] for key in DatasetReference.model_fields}),
                **{key: facts[key] for key in IDENTITY},
            )
        ]
        for stage, facts in description["stages"].items()
    }
    module = DataModule(class_path=class_path, arguments=description["arguments"])
    with DatasetWriter(name, base_uri) as writer:
        writer.put_bytes(to_json(record(data=Data(datamodule=module, stages=stages))).encode(), "provenance.json")
        return writer.commit().uri


def test_a_module_is_constructed_from_the_uri_of_a_dataset(uri):
    assert DtoolDataModule.from_uri(uri, batch_size=7).batch_size == 7


def test_a_module_is_constructed_from_the_uri_of_a_checkpoint(uri, base_uri):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    from torchvision import transforms as v1

    train = v2.Compose(
        [v2.ToImage(), v2.Resize((8, 8)), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.2])]
    )
    evaluate = v1.Compose([v1.Resize(8, v1.InterpolationMode.NEAREST), v1.ToTensor()])
    data = DtoolDataModule(
        uri, val_split=0.2, seed=3, select={"usetype": ["train"]}, train_transform=train, eval_transform=evaluate
    )
    again = DtoolDataModule.from_uri(checkpoint_of(data, base_uri))
    again.setup("fit")
    assert again.description() == data.description()
    for one, other in zip(data.train_dataloader(), again.train_dataloader(), strict=True):
        assert torch.equal(one[0], other[0])
    assert DtoolDataModule.from_uri(checkpoint_of(data, base_uri, "b"), batch_size=2).batch_size == 2


def test_recorded_data_in_another_store_is_opened_only_with_consent(uri, base_uri, web):
    there = web.put(FrozenDataset.from_uri(uri))
    checkpoint = checkpoint_of(DtoolDataModule(there), base_uri)
    web.asked.clear()
    for verify in (True, False):
        with pytest.raises(StoreError, match=r"not looked at \(offline\).*online=True.*pass the URI of a copy as uri="):
            DtoolDataModule.from_uri(checkpoint, verify=verify)
    assert DtoolDataModule.from_uri(checkpoint, uri=uri).uri == uri
    assert web.asked == []
    assert DtoolDataModule.from_uri(checkpoint, online=True, verify=False).uri == there


def named_collate(samples):
    return torch.utils.data.default_collate(samples)


def test_a_recorded_function_is_imported_only_on_trust(uri, base_uri):
    checkpoint = checkpoint_of(DtoolDataModule(uri, collate_fn=named_collate), base_uri)
    with pytest.raises(
        ConfigurationError, match=r"collate_fn is .*named_collate.*trust_source=True, or pass collate_fn"
    ):
        DtoolDataModule.from_uri(checkpoint)
    assert DtoolDataModule.from_uri(checkpoint, trust_source=True).collate_fn is named_collate
    assert DtoolDataModule.from_uri(checkpoint, collate_fn=None).collate_fn is None
    a_lambda = checkpoint_of(DtoolDataModule(uri, collate_fn=lambda x: x), base_uri, "lambda")
    with pytest.raises(ConfigurationError, match=r"Pass collate_fn=\.\.\. yourself"):
        DtoolDataModule.from_uri(a_lambda, trust_source=True)


def test_changed_and_moved_data_is_an_error(make_dataset, base_uri, tmp_path):
    first = make_dataset({"a.txt": b"a", "b.txt": b"b"}, "first")
    checkpoint = checkpoint_of(DtoolDataModule(first.uri), base_uri)
    same = make_dataset({"a.txt": b"a", "b.txt": b"b"}, "same")
    other = make_dataset({"a.txt": b"a", "b.txt": b"c"}, "other")
    assert DtoolDataModule.from_uri(checkpoint, uri=same.uri).uri == same.uri
    with pytest.raises(VerificationError, match="the data has changed"):
        DtoolDataModule.from_uri(checkpoint, uri=other.uri)
    assert DtoolDataModule.from_uri(checkpoint, uri=other.uri, verify=False).uri == other.uri
    delete_dataset(first.uri)
    with pytest.raises(DatasetNotFoundError, match=r"if it has moved, pass its new URI as uri=\.\.\."):
        DtoolDataModule.from_uri(checkpoint)


IDENTITY = ("count", "selection_digest", "targets_digest", "class_to_idx")


def rewrite(uri, name, change):
    """Change an overlay of a dataset, as any editor does."""
    file = local_path(uri) / ".dtool" / "overlays" / f"{name}.json"
    file.write_text(
        json.dumps({identifier: change(value) for identifier, value in json.loads(file.read_text()).items()})
    )


def test_exchanged_labels_are_found(uri, base_uri):
    checkpoint = checkpoint_of(DtoolDataModule(uri, val_split=0.25), base_uri)
    assert DtoolDataModule.from_uri(checkpoint).classes == ["elm", "oak"]
    rewrite(uri, "category", {"oak": "elm", "elm": "oak"}.get)
    with pytest.raises(VerificationError, match=r"the targets of 'train' are not those that .* pass verify=False"):
        DtoolDataModule.from_uri(checkpoint)
    for allowed in ({"verify": False}, {"target": "usetype"}, {"val_split": 0.5}):
        assert DtoolDataModule.from_uri(checkpoint, **allowed).batch_size == 32
    rewrite(uri, "category", {"oak": "elm", "elm": "oak"}.get)
    assert DtoolDataModule.from_uri(checkpoint, batch_size=4).batch_size == 4
    rewrite(uri, "category", {"oak": "ash", "elm": "elm"}.get)
    with pytest.raises(VerificationError, match="the numbers of the classes of 'train'"):
        DtoolDataModule.from_uri(checkpoint)


def test_an_overlay_that_now_selects_other_items_is_found(uri, base_uri):
    checkpoint = checkpoint_of(DtoolDataModule(uri, split_overlay="usetype"), base_uri)
    rewrite(uri, "usetype", {"train": "test", "test": "train", "Validation": "val"}.get)
    with pytest.raises(VerificationError, match="the selected items of 'train'"):
        DtoolDataModule.from_uri(checkpoint)


def test_a_flipped_bit_is_found_when_the_data_of_a_checkpoint_is_opened(uri, base_uri):
    checkpoint = checkpoint_of(DtoolDataModule(uri), base_uri)
    file = next((local_path(uri) / "data").rglob("*.png"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(VerificationError, match=file.name):
        DtoolDataModule.from_uri(checkpoint)
    assert not DtoolDataModule.from_uri(checkpoint, verify=False).verify


def test_a_record_without_this_datamodule_is_refused(uri, base_uri, make_dataset):
    checkpoint = checkpoint_of(DtoolDataModule(uri), base_uri, class_path="__main__:Mine")
    with pytest.raises(RecordError, match=r"trained with __main__:Mine"):
        DtoolDataModule.from_uri(checkpoint)
    without = make_dataset({"provenance.json": to_json(record()).encode()}, "without")
    with pytest.raises(RecordError, match="trained with no DataModule"):
        DtoolDataModule.from_uri(without.uri)
    newer = {**json.loads(to_json(record())), "schema_version": 999}
    for number, text in enumerate(["", "[]", '{"data": {"datamodule": null, "stages": {}}}', json.dumps(newer)]):
        broken = make_dataset({"provenance.json": text.encode()}, f"broken{number}")
        with pytest.raises(RecordError, match=broken.uri):
            DtoolDataModule.from_uri(broken.uri)


def test_recorded_arguments_that_the_class_does_not_take_are_refused(uri, base_uri):
    data = DtoolDataModule(uri)
    data.setup("fit")
    described = data.description()
    data.description = lambda: {**described, "arguments": {**described["arguments"], "colour": 1}}
    checkpoint = checkpoint_of(data, base_uri)
    with pytest.raises(RecordError, match=rf"{re.escape(checkpoint)}.*does not take: colour"):
        DtoolDataModule.from_uri(checkpoint)


def test_a_changed_record_is_refused(uri, base_uri):
    checkpoint = checkpoint_of(DtoolDataModule(uri, batch_size=7), base_uri)
    file = local_path(checkpoint) / "data" / "provenance.json"
    text = file.read_text()
    changed = re.sub(r'("batch_size": ?)7', r"\g<1>9", text)
    assert changed != text
    file.write_text(changed)
    with pytest.raises(VerificationError, match=r"provenance\.json"):
        DtoolDataModule.from_uri(checkpoint)


def test_a_relative_path_is_recorded_as_an_absolute_uri(leaves, tmp_path, monkeypatch):
    folder = local_path(leaves.uri)
    monkeypatch.chdir(folder.parent)
    arguments = DtoolDataModule(folder.name).description()["arguments"]
    monkeypatch.chdir("/")
    assert DtoolDataModule(**arguments).uri == leaves.uri
