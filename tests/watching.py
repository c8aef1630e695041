"""A callback that calls the loss observer at the same hooks as the provenance callback."""

from typing import Any

import lightning as L
import torch

from lightning_dtool.capture.loss import LossObserver
from lightning_dtool.record import Gaps, Loss


class LossWatch(L.Callback):
    """Observes the loss of a training; `loss` and `gaps` are set at its end."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.observer = LossObserver(pl_module)
        self.gaps = Gaps()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 0 and batch_idx == 0:
            self.observer.start()

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        self.observer.before_backward(loss)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.observer.stop()

    def on_exception(self, *_: Any) -> None:
        self.observer.stop()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.loss: Loss = self.observer.loss(pl_module, self.gaps)
