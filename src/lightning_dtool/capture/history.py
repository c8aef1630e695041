"""The metrics of each epoch of a run, and the torchmetrics objects that compute metrics."""

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
    """Keeps the metrics and the learning rates of each epoch.

    The hooks of a step only store references and plain numbers, which takes about a microsecond.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._epochs: list[Epoch] = []
        self._rates: dict[int, list[Any]] = {}
        self._batches = 0
        self._batches_begun: int | None = None

    def before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Note the learning rates of the next step, before a scheduler changes them."""
        self._rates[id(optimizer)] = [_kept(group.get("lr")) for group in optimizer.param_groups]

    def after_batch(self) -> None:
        """Count a training batch."""
        self._batches += 1

    def after_epoch(self, trainer: LightningTrainer) -> None:
        """Keep the metrics of the epoch and the learning rates of its last step."""
        gaps = Gaps()  # dropped, because the values at the checkpoint add the same gaps
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

        self._batches_begun = _batches_begun(trainer)

    def refresh(self, trainer: LightningTrainer) -> None:
        """Add metrics that were logged after `after_epoch`, such as by the module's own hook at the end of an epoch.

        The Trainer keeps the values of an epoch until the next one begins.
        """
        # Not the number of optimizer steps, which stands still while gradients accumulate.
        if self._batches_begun is not None and self._batches_begun == _batches_begun(trainer):
            self._epochs[-1] = self._epochs[-1].model_copy(update={"metrics": capture_metrics(trainer, Gaps())})

    def before_epoch(self, trainer: LightningTrainer) -> None:
        """Complete the metrics of the last epoch. What is logged from here on belongs to the next one."""
        self.refresh(trainer)
        self._batches_begun = None

    def metrics(self, trainer: LightningTrainer, module: LightningModule, gaps: Gaps) -> Metrics:
        """Return the metrics so far.

        Args:
            trainer: The Trainer.
            module: The LightningModule, whose torchmetrics objects are described.
            gaps: Receives a gap for everything that could not be described.
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


def _batches_begun(trainer: LightningTrainer) -> int:
    """Return the number of training batches that have begun, over all epochs."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.ready


def _kept(rate: Any) -> Any:
    """Return a copy of a learning rate if it is a tensor, because a scheduler changes a tensor in place."""
    return rate.detach().clone() if isinstance(rate, torch.Tensor) else rate


def _number(rate: Any) -> Any:
    """Return a learning rate as a number. With `capturable=True`, an optimizer's learning rate may be a tensor."""
    return rate.item() if isinstance(rate, torch.Tensor) else rate


def metric_objects(module: LightningModule, gaps: Gaps) -> list[MetricObject]:
    """Describe the configuration of the torchmetrics objects of a LightningModule, without their state."""
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
    """Return the constructor arguments that a metric keeps as attributes of the same names, apart from modules."""
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
    """Return the peak resident memory of this process, in bytes. None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_accelerator_memory() -> int | None:
    """Return the peak memory allocated on the CUDA device, in bytes. None if CUDA is not in use."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
