"""Digests of all parameters after each step. They show the first step at which two runs differ."""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer

from lightning_dtool.values.digests import state_digest

_DIGITS = len("sha256:") + 32
"""Half a SHA-256 tells steps apart as well, and halves the trace."""


class Tracer:
    """Notes a line for each optimizer step: which it was, the loss, and a digest of each parameter after it.

    Args:
        fit_index: Which `fit` of its process it is.
    """

    def __init__(self, fit_index: int) -> None:
        self._fit_index = fit_index
        self._lines: list[str] = []
        self._step = 0

    def begin(self, trainer: LightningTrainer) -> None:
        """Note how many steps there were before: a resumed training does not begin at 0.

        Args:
            trainer: The Trainer.
        """
        self._step = trainer.global_step

    def after_batch(self, trainer: LightningTrainer, module: LightningModule, outputs: Any) -> None:
        """Note the batch, if it ended in an optimizer step.

        Args:
            trainer: The Trainer.
            module: The LightningModule.
            outputs: What `on_train_batch_end` is given.
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
    """Return a loss with all its digits; as text, which also holds what is no number."""
    found = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(found, torch.Tensor) or found.numel() != 1:
        return None
    number = float(found.detach())
    return number.hex() if math.isfinite(number) else str(number)
