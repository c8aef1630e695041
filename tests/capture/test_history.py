"""The recorded history: the metrics of each epoch, and the learning rates that its steps used."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torchmetrics import Accuracy, F1Score, MetricCollection

from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.capture.history import History, metric_objects, peak_memory
from lightning_dtool.record import Gaps, Metrics


class Watch(L.Callback):
    """Calls a History as the recorder does."""

    def __init__(self) -> None:
        self.history = History()
        self.gaps = Gaps()
        self.seen: list[Metrics] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.history.before_optimizer_step(optimizer)

    def on_train_batch_end(self, *_: Any) -> None:
        self.history.after_batch()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.history.before_epoch(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.history.after_epoch(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append(self.history.metrics(trainer, pl_module, self.gaps))


class Scheduled(TinyNet):
    """Halves its learning rate after every epoch, and logs at the very end of one."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(
            [{"params": self.layers[0].parameters()}, {"params": self.layers[3].parameters(), "lr": 0.001}], lr=0.8
        )
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]

    def on_train_epoch_end(self) -> None:
        self.log("late", float(self.current_epoch))


def run(tmp_path: Path, model: L.LightningModule, **options: Any) -> Metrics:
    watch = Watch()
    trainer(tmp_path, watch, enable_checkpointing=False, **options).fit(model, loader(), loader())
    assert not watch.gaps
    return watch.seen[0]


def test_every_epoch_has_its_metrics_and_the_learning_rates_used(tmp_path: Path) -> None:
    metrics = run(tmp_path, Scheduled(), max_epochs=3)

    assert [entry.epoch for entry in metrics.history] == [0, 1, 2]
    assert [entry.global_step for entry in metrics.history] == [6, 12, 18]
    # The scheduler has already stepped at the end of an epoch: the rate of the last step counts.
    assert [entry.learning_rates for entry in metrics.history] == [
        [[0.8, 0.001]],
        [[0.4, 0.0005]],
        [[0.2, 0.00025]],
    ]
    assert all({"train_loss", "val_loss"} <= set(entry.metrics) for entry in metrics.history)
    assert metrics.history[0].metrics != metrics.history[1].metrics
    assert metrics.at_checkpoint["late"] == 2.0
    # The module logs this metric after the hook of the callback.
    assert [entry.metrics["late"] for entry in metrics.history] == [0.0, 1.0, 2.0]
    assert 0 < metrics.history[0].seconds <= metrics.history[1].seconds <= (metrics.seconds or 0)
    assert metrics.steps_per_second is not None
    assert metrics.steps_per_second > 0
    assert (metrics.peak_memory_bytes or 0) > 2**24


def test_learning_rates_of_two_optimizers_and_in_tensors_are_recorded(tmp_path: Path) -> None:
    class Two(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(torch.nn.functional.cross_entropy(self(batch[0]), batch[1]))
                optimizer.step()

        def configure_optimizers(self) -> Any:
            first = torch.optim.Adam(self.layers[0].parameters(), lr=torch.tensor(0.5), foreach=False)
            return first, torch.optim.SGD(self.layers[3].parameters(), lr=0.25)

    metrics = run(tmp_path, Two(), max_epochs=1)
    assert metrics.history[0].learning_rates == [[0.5], [0.25]]


def test_a_learning_rate_changed_in_place_is_recorded(tmp_path: Path) -> None:
    class InPlace(TinyNet):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=torch.tensor(0.5), foreach=False)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]

    metrics = run(tmp_path, InPlace(), max_epochs=2)
    assert [entry.learning_rates for entry in metrics.history] == [[[0.5]], [[0.25]]]


def test_a_metric_that_is_not_finite_is_recorded(tmp_path: Path) -> None:
    class Diverged(TinyNet):
        def on_train_epoch_end(self) -> None:
            self.log("diverged", float("nan"))

    assert run(tmp_path, Diverged(), max_epochs=1).history[0].metrics["diverged"] == "nan"


def test_torchmetrics_objects_are_recorded_with_their_configuration() -> None:
    class Measured(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.accuracy = Accuracy(task="multiclass", num_classes=3, top_k=2, average="micro")
            self.scores = MetricCollection({"f1": F1Score(task="multiclass", num_classes=3, average="macro")})

    gaps = Gaps()
    found = {found.attribute: found for found in metric_objects(Measured(), gaps)}
    assert not gaps
    assert found["accuracy"].class_path.endswith(":MulticlassAccuracy")
    assert found["accuracy"].settings["top_k"] == 2
    assert found["accuracy"].settings["average"] == "micro"
    assert found["scores.f1"].settings["average"] == "macro"
    assert found["scores.f1"].settings["num_classes"] == 3


def test_peak_memory_grows_with_allocations() -> None:
    before = peak_memory()
    if before is None:
        pytest.skip("this system does not report peak memory")
    held = torch.ones(2**25)
    assert (peak_memory() or 0) >= before + held.nbytes // 2


class Telling(TinyNet):
    """Keeps the true metrics of each epoch. Optimizes by hand if told to."""

    def __init__(self, manual: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = not manual
        self.truth: dict[int, dict[str, float]] = {}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        self.manual_backward(loss)
        if batch_idx % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
        return None

    def on_train_epoch_end(self) -> None:
        self.truth[self.current_epoch] = {name: float(value) for name, value in self.trainer.callback_metrics.items()}


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ({"accumulate_grad_batches": 4}, {"every_n_train_steps": 1}),
        ({"accumulate_grad_batches": 100}, {"every_n_epochs": 1}),
        ({"val_check_interval": 2}, {}),
        ({"accumulate_grad_batches": 2, "val_check_interval": 7, "check_val_every_n_epoch": None}, {}),
        ({"max_epochs": -1, "max_steps": 9}, {"every_n_train_steps": 2}),
        ({"check_val_every_n_epoch": 2, "accumulate_grad_batches": 3}, {"every_n_train_steps": 1}),
        ({}, {"every_n_train_steps": 1}),
    ],
    ids=[
        "accumulation",
        "a step an epoch",
        "validation inside",
        "validation over epochs",
        "steps",
        "every other",
        "plain",
    ],
)
@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
def test_the_history_of_every_checkpoint_is_true(
    tmp_path: Path, options: dict[str, Any], policy: dict[str, Any], manual: bool
) -> None:
    if manual:
        options = {name: value for name, value in options.items() if name != "accumulate_grad_batches"}
    (tmp_path / "models").mkdir()
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"), retention="all")
    saving = policy or {"save_on_train_epoch_end": False}
    checkpoints = ModelCheckpoint(tmp_path / "local", save_top_k=-1, **saving)
    model = Telling(manual)
    trainer(tmp_path, provenance, checkpoints, **{"max_epochs": 3, **options}).fit(model, loader(), loader())
    records = [DtoolCheckpoint.from_uri(uri).record for uri in provenance.uris]
    assert len(records) > 1
    for record in records:
        history = {entry.epoch: dict(entry.metrics) for entry in record.metrics.history}
        assert history == {epoch: model.truth[epoch] for epoch in history}
        assert list(history) == list(range(len(history)))
        # An epoch is complete when its hooks run, also those in which ModelCheckpoint saves.
        assert len(history) in (record.checkpoint.epoch, record.checkpoint.epoch + 1)
