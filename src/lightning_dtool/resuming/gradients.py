"""Gradients that no optimizer has used yet."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_dtool.resuming.moment import Moment


def save_gradients(trainer: Any, module: LightningModule, moment: Moment) -> dict[str, torch.Tensor]:
    """Return copies of the gradients that the next batch adds to; empty if it begins with none.

    Args:
        trainer: The Trainer.
        module: The LightningModule.
        moment: The moment of the save.
    """
    # Manual optimization, and code that decides when gradients are cleared, may let them wait over the end of an epoch.
    by_lightning = module.automatic_optimization and not is_overridden("optimizer_zero_grad", module)
    if by_lightning and not (moment.inside_epoch and _accumulates(trainer, moment)):
        return {}
    return {
        name: parameter.grad.detach().cpu().clone()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def restore_gradients(module: LightningModule, gradients: dict[str, torch.Tensor]) -> None:
    """Restore what `save_gradients` returned.

    Args:
        module: The LightningModule.
        gradients: The gradients, by the names of their parameters.
    """
    parameters = dict(module.named_parameters())
    for name, gradient in gradients.items():
        if name in parameters:
            parameters[name].grad = gradient.to(parameters[name].device, copy=True)


def _accumulates(trainer: Any, moment: Moment) -> bool:
    """Return True if the gradients of finished batches are accumulated with those of later ones."""
    epoch_loop = trainer.fit_loop.epoch_loop
    if moment is Moment.INSIDE_BATCH:
        return bool(epoch_loop.batch_progress.current.completed % trainer.accumulate_grad_batches)
    return bool(epoch_loop._should_accumulate())
