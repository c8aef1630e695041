"""Metrics that act on the training."""

from typing import Any

import torch
from torchmetrics import MeanMetric, MinMaxMetric
from torchmetrics.aggregation import RunningMean
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.wrappers import MetricTracker

from resume_cases.models import Net, Training


class Running(Net):
    def __init__(self) -> None:
        super().__init__()
        self.running = RunningMean(window=5)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.running.update(loss.detach())
        return loss / self.running.compute()


class MinMax(Net):
    def __init__(self) -> None:
        super().__init__()
        self.extremes = MinMaxMetric(MulticlassAccuracy(3))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.extremes.update(self(batch[0]), batch[1])
        extremes = self.extremes.compute()
        return loss * (1 + extremes["max"] - extremes["min"])


class Tracked(Net):
    def __init__(self) -> None:
        super().__init__()
        self.tracker = MetricTracker(MulticlassAccuracy(3), maximize=True)

    def on_train_epoch_start(self) -> None:
        self.tracker.increment()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.tracker.update(self(batch[0]), batch[1])
        return loss * (1 + self.tracker.compute_all().sum())


class NeverReset(Net):
    """A metric that is updated by hand and not logged."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.mean.update(loss.detach())
        return loss / self.mean.compute()


class InSeveralHooks(Net):
    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.mean(loss.detach())
        self.log("mean", self.mean, on_step=True, on_epoch=True)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.log("mean_after", self.mean, on_step=False, on_epoch=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("mean_in_validation", self.mean)


class InAList(Net):
    """Metrics that are no submodules."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = [MeanMetric()]

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.metrics[0].update(loss.detach())
        return loss / self.metrics[0].compute()


KINDS = {
    "RunningMean in the loss": Training(Running),
    "MinMaxMetric in the loss": Training(MinMax),
    "MetricTracker in the loss": Training(Tracked),
    "metric that is not logged": Training(NeverReset),
    "metric logged in several hooks": Training(InSeveralHooks),
    "metric in a list": Training(InAList),
}
