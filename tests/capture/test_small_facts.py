"""Randomness, environment, Trainer, model, optimizers, data: what is observed of a run."""

import json
import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset

import programs
from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolDataset
from lightning_dtool.capture.data import capture_data, training_datasets
from lightning_dtool.capture.environment import capture_environment, requirements
from lightning_dtool.capture.model import capture_model
from lightning_dtool.capture.optimizers import capture_optimizers, capture_schedulers
from lightning_dtool.capture.provenance import describe, observe_checkpoint, observe_run
from lightning_dtool.capture.randomness import capture_randomness
from lightning_dtool.capture.trainer import capture_metrics, capture_monitors, capture_trainer
from lightning_dtool.record import Gap, Metrics, from_json, to_json


@pytest.mark.parametrize(
    ("seed", "workers", "expected"),
    [("7", "1", (7, True)), ("7", "0", (7, False)), ("", "", (None, None)), ("²", "x", (None, None)), ("9" * 30, "", (None, None))],  # noqa: E501
)  # fmt: skip
def test_the_seed(monkeypatch: pytest.MonkeyPatch, seed: str, workers: str, expected: tuple[Any, Any]) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", seed)
    monkeypatch.setenv("PL_SEED_WORKERS", workers)
    gaps: list[Gap] = []
    found = capture_randomness({}, gaps)
    assert (found.global_seed, found.seed_workers) == expected
    assert ("randomness.global_seed" in [gap.fact for gap in gaps]) == (expected[0] is None)


def test_the_environment() -> None:
    assert capture_environment().versions["torch"].startswith(torch.__version__.split("+")[0])
    # A comment says where a package lies that was installed from a folder.
    lines = [line for line in requirements().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+(==| @ )\S+", line) for line in lines)
    names = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines]
    assert names == sorted(set(names))
    assert "torch" in names


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter([])

    def __len__(self) -> int:
        raise NotImplementedError


class Scheduled(TinyNet):
    def __init__(self, password: str = "hunter2", act: Any = torch.Generator(), lr: float = 0.1) -> None:  # noqa: B008
        super().__init__(lr=lr)
        self.save_hyperparameters()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(
            [{"params": self.layers[0].parameters(), "lr": 0.5}, {"params": self.layers[3].parameters()}], lr=0.1
        )
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2), "interval": "step"}]


class Watch(L.Callback):
    """Observes at the start, as the callback does, and again at the end."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.observed = observe_run(trainer, pl_module, {})

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metrics = Metrics(at_checkpoint=capture_metrics(trainer, []))
        checkpoint = {"epoch": 1, "global_step": 2, "optimizer_states": []}
        description = describe(self.observed, checkpoint, "/a/b\udcff.ckpt", trainer, metrics=metrics)
        self.record, _ = description.sealed()


def test_a_whole_run(tmp_path: Path) -> None:
    watch = Watch()
    run = trainer(tmp_path, watch, L.pytorch.callbacks.ModelCheckpoint(tmp_path, monitor="val_loss"))
    run.fit(Scheduled(), loader(), loader())
    record = watch.record
    assert from_json(to_json(record), "uri") == record
    assert "hunter2" not in to_json(record)
    assert record.checkpoint.filename == "b\\udcff.ckpt"
    assert record.model.class_path == f"{__name__}:Scheduled"
    assert record.model.parameters_total == sum(p.numel() for p in Scheduled().parameters())
    assert record.model.source_sha256 is not None
    first, second = record.optimizers[0].param_groups
    assert first.options["lr"] == 0.5
    assert first.parameters == ["layers.0.weight", "layers.0.bias"]
    assert second.parameters == ["layers.3.weight", "layers.3.bias"]
    assert (record.schedulers[0].interval, record.schedulers[0].settings["step_size"]) == ("step", 2)
    assert record.checkpoint.monitors[0].name == "val_loss"
    assert record.checkpoint.monitors[0].value == record.metrics.at_checkpoint["val_loss"]
    assert record.trainer.settings["max_epochs"] == 2
    facts = [gap.fact for gap in record.gaps]
    assert "model.hyperparameters.password" in facts
    assert "model.hyperparameters.act" in facts
    assert "data.stages.train[0].dataset" in facts
    assert record.data.stages["train"][0].count == 48


def test_a_checkpoint_alone() -> None:
    checkpoint = {
        "epoch": 0,
        "global_step": 1,
        "hyper_parameters": {"lr": 0.1, 1: 2, "token": "abc", "_class_path": "x"},
    }
    record, _ = describe(observe_checkpoint(checkpoint), checkpoint, "a.ckpt").sealed()
    assert record.model.hyperparameters == {"lr": 0.1, "1": 2, "token": "[redacted]"}
    assert record.checkpoint.weights_only
    assert {"optimizers", "data", "metrics"} <= {gap.fact for gap in record.gaps}


class FakeTrainer:
    """What `capture_data` and `capture_metrics` look at."""

    datamodule = None
    val_dataloaders = None
    callback_metrics: dict[str, Any] = {}

    def __init__(self, *datasets: Any) -> None:
        self.train_dataloader = [DataLoader(dataset) for dataset in datasets]


def test_data_within_data(make_dataset: Any) -> None:
    one, two = (DtoolDataset(make_dataset(name=name).uri) for name in ("one", "two"))
    gaps: list[Gap] = []
    data = capture_data(FakeTrainer(Subset(one, [0, 1]), ConcatDataset([one, Subset(two, [0])]), Stream()), None, gaps)  # type: ignore[arg-type]
    found = [(source.dataset.name if source.dataset else None, source.count) for source in data.stages["train"]]
    assert found == [("one", 2), ("one", 3), ("two", 1), (None, None)]
    assert "data.stages.train[2].dataset" in [gap.fact for gap in gaps]
    assert [reference.name for reference in training_datasets(data)] == ["one", "two"]


def test_a_selection_from_several_datasets_is_a_gap(make_dataset: Any) -> None:
    one, two = (DtoolDataset(make_dataset(name=name).uri) for name in ("one", "two"))
    gaps: list[Gap] = []
    data = capture_data(FakeTrainer(Subset(ConcatDataset([one, two]), [0, 4])), None, gaps)  # type: ignore[arg-type]
    assert [source.count for source in data.stages["train"]] == [None, None]
    assert "data.stages.train[0].count" in [gap.fact for gap in gaps]


def test_metrics_that_are_no_numbers() -> None:
    fake = FakeTrainer()
    fake.callback_metrics = {
        "a": torch.tensor(float("nan")),
        "b": torch.tensor(float("-inf")),
        "c": torch.tensor(0.5),
        "d": 2,
    }
    found = capture_metrics(fake, [])  # type: ignore[arg-type]
    assert found == {"a": "nan", "b": "-inf", "c": 0.5, "d": 2.0}
    json.dumps(found, allow_nan=False)


def test_a_lazy_layer_and_a_model_without_source() -> None:
    class Lazy(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.LazyLinear(3)

    gaps: list[Gap] = []
    assert capture_model(Lazy(), gaps).parameters_total == 0
    nowhere = type("Nowhere", (L.LightningModule,), {"__module__": "nowhere"})
    assert capture_model(nowhere(), gaps).source_sha256 is None
    assert [gap.fact for gap in gaps] == ["model.parameters_total", "model.source_sha256"]


def test_observing_draws_no_random_number(tmp_path: Path) -> None:
    class Check(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            before = torch.get_rng_state()
            observe_run(trainer, pl_module, {})
            capture_trainer(trainer, [])
            capture_monitors(trainer, [])
            capture_optimizers(trainer, pl_module, [])
            capture_schedulers(trainer, [])
            assert torch.equal(torch.get_rng_state(), before)
            self.done = True

    check = Check()
    trainer(tmp_path, check, max_epochs=1).fit(Scheduled(), loader())
    assert check.done


def test_a_user_without_a_name(tmp_path: Path) -> None:
    program = "import getpass\ndef fail(): raise KeyError\ngetpass.getuser = fail\n"
    program += "from lightning_dtool.capture.provenance import _username\nprint(_username())"
    assert programs.run("-c", program, cwd=tmp_path).stdout.strip() == "unknown"
