"""The record of a whole run, and the shorter record of a checkpoint without a run."""

import getpass
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from kit import TinyNet, loader, trainer
from lightning_dtool.capture.optimizers import capture_optimizers, capture_schedulers
from lightning_dtool.capture.provenance import describe, observe_checkpoint, observe_run
from lightning_dtool.capture.trainer import capture_metrics, capture_monitors, capture_trainer
from lightning_dtool.record import Gaps, Metrics, from_json, to_json


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
        metrics = Metrics(at_checkpoint=capture_metrics(trainer, Gaps()))
        checkpoint = {"epoch": 1, "global_step": 2, "optimizer_states": []}
        description = describe(self.observed, checkpoint, "/a/b\udcff.ckpt", trainer, metrics=metrics)
        self.record, _ = description.sealed()


def test_a_whole_run_is_recorded(tmp_path: Path) -> None:
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


def test_a_checkpoint_without_a_run_has_a_record_with_gaps() -> None:
    checkpoint = {
        "epoch": 0,
        "global_step": 1,
        "hyper_parameters": {"lr": 0.1, 1: 2, "token": "abc", "_class_path": "x"},
    }
    record, _ = describe(observe_checkpoint(checkpoint), checkpoint, "a.ckpt").sealed()
    assert record.model.hyperparameters == {"lr": 0.1, "1": 2, "token": "[redacted]"}
    assert record.checkpoint.weights_only
    assert {"optimizers", "data", "metrics"} <= {gap.fact for gap in record.gaps}


def test_recording_draws_no_random_number(tmp_path: Path) -> None:
    class Check(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            before = torch.get_rng_state()
            observe_run(trainer, pl_module, {})
            capture_trainer(trainer, Gaps())
            capture_monitors(trainer, Gaps())
            capture_optimizers(trainer, pl_module, Gaps())
            capture_schedulers(trainer, Gaps())
            assert torch.equal(torch.get_rng_state(), before)
            self.done = True

    check = Check()
    trainer(tmp_path, check, max_epochs=1).fit(Scheduled(), loader())
    assert check.done


def test_a_user_without_a_name_is_recorded_as_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert observe_checkpoint({}).run.creator_username == "unknown"
