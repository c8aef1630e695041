"""The metrics of a run, epoch by epoch, and how they were computed."""

import inspect
import sys
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from torch.optim import Optimizer
from torchmetrics import Metric

from lightning_dtool.capture.trainer import capture_metrics
from lightning_dtool.record import Epoch, Gaps, MetricObject, Metrics
from lightning_dtool.values.definitions import class_path
from lightning_dtool.values.writing import encode, encode_all


class History:
    """Keeps what each epoch measured, and the learning rates that its steps used.

    The hooks of a step only note references and plain numbers: they cost about a microsecond.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._epochs: list[Epoch] = []
        self._rates: dict[int, list[Any]] = {}
        self._batches = 0

    def before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Note the learning rates of a step that is about to be taken; a scheduler changes them after it."""
        self._rates[id(optimizer)] = [_kept(group.get("lr")) for group in optimizer.param_groups]

    def after_batch(self) -> None:
        """Count a training batch."""
        self._batches += 1

    def after_epoch(self, trainer: LightningTrainer) -> None:
        """Keep what the epoch has measured, and the learning rates of its last step."""
        gaps = Gaps()  # the same gaps are recorded for the values at the checkpoint
        self._epochs.append(
            Epoch(
                epoch=trainer.current_epoch,
                global_step=trainer.global_step,
                seconds=round(self._seconds(), 3),
                metrics=capture_metrics(trainer, gaps),
                learning_rates=[
                    [
                        encode(_number(rate), gaps.at("metrics.history.learning_rates"))
                        for rate in self._rates.get(id(optimizer), [])
                    ]
                    for optimizer in trainer.optimizers
                ],
            )
        )

    def refresh(self, trainer: LightningTrainer) -> None:
        """Add what was logged after `after_epoch`: the module's own hook at the end of an epoch runs later.

        Until the next step the Trainer still has the values of the epoch that has ended.
        """
        if self._epochs and self._epochs[-1].global_step == trainer.global_step:
            self._epochs[-1] = self._epochs[-1].model_copy(update={"metrics": capture_metrics(trainer, Gaps())})

    def metrics(self, trainer: LightningTrainer, module: LightningModule, gaps: Gaps) -> Metrics:
        """Return everything that was measured so far.

        Args:
            trainer: The Trainer.
            module: The LightningModule, whose torchmetrics objects are described.
            gaps: Receives a gap for whatever could not be described.
        """
        self.refresh(trainer)
        seconds = self._seconds()
        return Metrics(
            at_checkpoint=capture_metrics(trainer, gaps),
            history=list(self._epochs),
            objects=metric_objects(module, gaps),
            seconds=round(seconds, 3),
            steps_per_second=round(self._batches / seconds, 3) if self._batches else None,
            peak_memory_bytes=peak_memory(),
            peak_accelerator_memory_bytes=peak_accelerator_memory(),
        )

    def _seconds(self) -> float:
        return time.monotonic() - self._started


def _kept(rate: Any) -> Any:
    """Return a learning rate that does not change any more. A scheduler changes a tensor in place."""
    return rate.detach().clone() if isinstance(rate, torch.Tensor) else rate


def _number(rate: Any) -> Any:
    """Return a learning rate as a number. Optimizers that can be captured in a CUDA graph have tensors."""
    return rate.item() if isinstance(rate, torch.Tensor) else rate


def metric_objects(module: LightningModule, gaps: Gaps) -> list[MetricObject]:
    """Describe the torchmetrics objects of a LightningModule: their configuration, not their state."""
    return [
        MetricObject(
            attribute=name,
            class_path=class_path(type(child)),
            settings=encode_all(_settings(child), gaps.at(f"metrics.objects.{name}")),
        )
        for name, child in module.named_modules()
        if isinstance(child, Metric)
    ]


def _settings(metric: Metric) -> dict[str, Any]:
    """Return what a metric keeps of its constructor's parameters, and its plain public attributes."""
    parameters = {
        name
        for cls in type(metric).__mro__
        if issubclass(cls, Metric) and "__init__" in vars(cls)
        for name in inspect.signature(cls.__init__).parameters
    }
    kept = vars(metric)
    return {
        name: kept[name] for name in sorted(parameters) if name in kept and not isinstance(kept[name], torch.nn.Module)
    }


def peak_memory() -> int | None:
    """Return the largest resident memory of this process so far, in bytes; None if the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_accelerator_memory() -> int | None:
    """Return the largest memory that was allocated on a CUDA device so far, in bytes; None without one in use."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
