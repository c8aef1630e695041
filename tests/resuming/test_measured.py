"""Tests that metrics which take part in training continue after a resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.aggregation import RunningMean
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError
from torchmetrics.wrappers import (
    ClasswiseWrapper,
    MetricTracker,
    MinMaxMetric,
    MultioutputWrapper,
    Running,
)

from interrupted import Resumed, Small

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning"),
    pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning"),
]


class Measured(Small):
    """The value of a metric scales the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.metric = self.make()

    def make(self) -> Any:
        return RunningMean(window=3)

    def value(self, out: torch.Tensor, y: torch.Tensor) -> Any:
        self.metric.update(torch.nn.functional.cross_entropy(out, y).detach())
        return self.metric.compute()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        out = self.layer(batch[0])
        loss = torch.nn.functional.cross_entropy(out, batch[1])
        return loss * (0.5 + self.value(out.detach(), batch[1]))


class MinMax(Measured):
    def make(self) -> Any:
        return MinMaxMetric(MeanMetric())

    def value(self, out: torch.Tensor, y: torch.Tensor) -> Any:
        self.metric.update(out.mean())
        found = self.metric.compute()
        if self.global_step % 5 == 0:
            self.metric._base_metric.reset()
        return (found["max"] - found["min"]).abs()


class Tracked(Measured):
    def make(self) -> Any:
        return MetricTracker(MeanAbsoluteError(), maximize=False)

    def on_train_epoch_start(self) -> None:
        self.metric.increment()

    def value(self, out: torch.Tensor, y: torch.Tensor) -> Any:
        self.metric.update(out[:, 0], y.float())
        return self.metric.compute_all().sum()


class Classwise(Measured):
    def make(self) -> Any:
        return ClasswiseWrapper(MulticlassAccuracy(2, average=None))

    def value(self, out: torch.Tensor, y: torch.Tensor) -> Any:
        self.metric.update(out, y)
        return sum(self.metric.compute().values())


class Multioutput(Measured):
    def make(self) -> Any:
        return MultioutputWrapper(MeanSquaredError(), 2)

    def value(self, out: torch.Tensor, y: torch.Tensor) -> Any:
        self.metric.update(out, torch.ones_like(out))
        return self.metric.compute().mean()


class RunningCollection(Measured):
    def make(self) -> Any:
        return MetricCollection({"a": Running(MeanAbsoluteError(), 3), "b": Running(MeanSquaredError(), 5)})

    def value(self, out: torch.Tensor, y: torch.Tensor) -> Any:
        self.metric.update(out[:, 0], y.float())
        return sum(self.metric.compute().values())


@pytest.mark.parametrize(
    "policy", [{"save_on_train_epoch_end": True}, {"every_n_train_steps": 4}], ids=["end of epoch", "inside an epoch"]
)
@pytest.mark.parametrize("make", [Measured, MinMax, Tracked, Classwise, Multioutput, RunningCollection])
def test_a_metric_in_the_loss_continues(tmp_path: Path, make: Any, policy: Any) -> None:
    assert Resumed(tmp_path, make, policy).equal


class Late(Measured):
    """Creates a metric in the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.metric = None

    def value(self, out: torch.Tensor, y: torch.Tensor) -> Any:
        self.metric = self.metric or MeanMetric()
        return super().value(out, y)


def test_a_metric_that_is_not_there_when_training_begins_is_announced(tmp_path: Path) -> None:
    run = Resumed(tmp_path, Late, {"save_on_train_epoch_end": True})
    assert "the metric metric of the checkpoint is not part of the module" in "".join(run.reasons)
