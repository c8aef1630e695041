"""Optimizers and schedulers that are not the ones whose states a checkpoint holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from kit import TinyNet, loader
from resuming.runs import at_step, fit, resumed

# Lightning's warning about a run that is resumed in another folder.
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")


class At(L.Callback):
    """Changes the optimization when the second epoch begins."""

    def __init__(self, change: Callable[[L.Trainer, L.LightningModule], None]) -> None:
        self.change = change

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.change(trainer, module)


def others(trainer: L.Trainer, module: L.LightningModule) -> None:
    trainer.optimizers = [torch.optim.RAdam(module.parameters(), lr=0.05)]
    config = trainer.lr_scheduler_configs[0]
    config.scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizers[0], 3, gamma=0.1)


def other_parameters(trainer: L.Trainer, module: L.LightningModule) -> None:
    trainer.optimizers = [torch.optim.Adam([each for each in module.parameters() if each.ndim == 1], lr=0.05)]


class Scheduled(TinyNet):
    """A learning rate that a scheduler lowers each epoch."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class Drawn(TinyNet):
    """Layers of one shape, given to the optimizer in an order that differs from run to run, as that of a set does."""

    runs = 0

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(8, 8, bias=False) for _ in range(2)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        Drawn.runs += 1
        return torch.optim.Adam(list(self.parameters())[:: 1 if Drawn.runs % 2 else -1], lr=0.05)


def test_what_replaces_an_optimizer_and_its_scheduler_is_announced(tmp_path: Path) -> None:
    found = resumed(tmp_path, Scheduled, lambda: loader(), 12, callbacks=lambda: [At(others)], max_epochs=4)
    assert not found.equal  # the states of one class are loaded into another, without an error
    for became in (
        "optimizer 0 has become torch.optim.radam:RAdam",
        "scheduler 0 has become torch.optim.lr_scheduler:S",
    ):
        assert any(became in each for each in found.gaps)
        assert any(became in each for each in found.reasons)
    assert any("for optimizer 0, which is torch.optim.adam:Adam now" in each for each in found.reasons)
    assert any("for scheduler 0, which is torch.optim.lr_scheduler:ExponentialLR" in each for each in found.reasons)


@pytest.mark.filterwarnings("ignore:Training resumes, but may differ")
def test_a_warning_comes_before_the_error_of_an_optimizer_that_cannot_load_the_states(tmp_path: Path) -> None:
    how: dict[str, Any] = {"module": TinyNet, "data": loader, "callbacks": lambda: [At(other_parameters)]}
    _, _, provenance = fit(tmp_path, **how, max_epochs=2)
    with (
        pytest.warns(match="optimizer 0 has other parameters than at the save"),
        pytest.raises(ValueError, match="parameter group"),
    ):
        fit(tmp_path, **how, ckpt=at_step(provenance, 12).uri)


def test_parameters_in_another_order_are_announced(tmp_path: Path) -> None:
    Drawn.runs = 0
    found = resumed(tmp_path, Drawn, lambda: loader(), 6)
    assert not found.equal
    assert not found.gaps
    assert any("optimizer 0 has other parameters than at the save, or in another order" in r for r in found.reasons)
