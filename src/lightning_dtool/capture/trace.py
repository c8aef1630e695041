"""Digests of all parameters after each optimizer step, which show the first step at which two runs differ."""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer

from lightning_dtool.values.digests import state_digest

_DIGITS = len("sha256:") + 32
"""Number of hexadecimal digits of a digest. Half a SHA-256 is enough to distinguish steps."""


class Tracer:
    """Notes a line for each optimizer step: its number, the loss, and a digest of each parameter after the step.

    Args:
        fit_index: Number of the `fit` in its process, from 0.
    """

    def __init__(self, fit_index: int) -> None:
        self._fit_index = fit_index
        self._lines: list[str] = []
        self._step = 0

    def begin(self, trainer: LightningTrainer) -> None:
        """Note the number of steps before training, which is not 0 if training is resumed.

        Args:
            trainer: The Trainer.
        """
        self._step = trainer.global_step

    def after_batch(self, trainer: LightningTrainer, module: LightningModule, outputs: Any) -> None:
        """Note the batch, if it ended in an optimizer step.

        Args:
            trainer: The Trainer.
            module: The LightningModule.
            outputs: The `outputs` of `on_train_batch_end`.
        """
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        line = {
            "fit": self._fit_index,
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "loss": _loss(outputs),
            "parameters": {
                name: state_digest({name: parameter})[:_DIGITS] for name, parameter in module.named_parameters()
            },
        }
        self._lines.append(json.dumps(line))

    def content(self) -> bytes:
        """Return the lines so far."""
        return "".join(f"{line}\n" for line in self._lines).encode()


def _loss(outputs: Any) -> str | None:
    """Return a loss as exact hexadecimal text, or as `nan`, `inf` or `-inf`. None if it is not a single number."""
    found = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(found, torch.Tensor) or found.numel() != 1:
        return None
    number = float(found.detach())
    return number.hex() if math.isfinite(number) else str(number)
