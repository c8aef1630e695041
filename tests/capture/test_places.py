"""Warnings keep their place while the first batch is observed, and are shown as often as without observing."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolProvenanceCallback
from lightning_dtool.capture.loss import LossObserver

LEVELS = range(1, 7)


def warn(text: str) -> None:
    for level in LEVELS:
        warnings.warn(f"{text}, level {level}", stacklevel=level)


class Layer(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        warn("layer")
        return x * 1


class OwnLoss(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        warn("loss")
        return F.mse_loss(x, y)


class WarningFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        warn("function")
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class Warns(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Layer()
        self.loss = OwnLoss()
        self.l1 = torch.nn.L1Loss()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        warn("step")
        x = self.layer(self(batch[0]))
        x = WarningFunction.apply(x)
        F.softmax(x)  # warns of its missing dimension, from a function of torch in Python
        torch.nn.Softmax()(x)
        F.mse_loss(x, torch.zeros(len(x), 1))  # warns of another size
        self.l1(x, torch.zeros(len(x), 1))
        (x * 2).grad  # warns in C++  # noqa: B018
        torch.nn.MSELoss(size_average=True)(x, torch.zeros_like(x))
        return self.loss(x, torch.zeros_like(x))


def shown(folder: Path, *callbacks: Any) -> list[tuple[str, str, int]]:
    torch.set_warn_always(True)  # otherwise C++ warns only once in a process
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            trainer(folder, *callbacks, limit_val_batches=0).fit(Warns(), loader())
    finally:
        torch.set_warn_always(False)
    others = ("The record cannot name", "You defined a", "The 'train_dataloader' does", "`isinstance(treespec")
    return [(text, w.filename, w.lineno) for w in caught if not (text := str(w.message)).startswith(others)]


def test_warnings_of_the_first_batch_keep_their_places(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    without = shown(tmp_path / "without")
    recorded = shown(tmp_path / "with", DtoolProvenanceCallback(str(tmp_path / "models")))

    named = {text.partition(",")[0] for text, filename, _ in without if filename == __file__}
    assert {"step", "layer", "loss", "function"} <= named
    assert len([text for text, filename, _ in without if "target size" in text and filename == __file__]) == 1
    assert recorded == without


def test_an_error_in_a_module_is_raised_through_the_lines_of_torch() -> None:
    class Fails(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ArithmeticError("mine")

    def lines() -> list[tuple[str, int]]:
        with pytest.raises(ArithmeticError, match="mine") as raised:
            Fails()(torch.ones(1))
        return [(str(entry.path), entry.lineno) for entry in raised.traceback]

    plain = lines()
    observer = LossObserver(TinyNet())
    observer.start()
    try:
        observed = lines()
    finally:
        observer.stop()
    assert observed == plain


def test_a_replaced_call_of_modules_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_dtool.record import Gaps

    original = torch.nn.Module.__call__

    def replaced(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", replaced)
    module = TinyNet()
    observer = LossObserver(module)
    observer.start()
    assert torch.nn.Module.__call__ is replaced
    observer.stop()
    assert torch.nn.Module.__call__ is replaced
    gaps = Gaps()
    observer.loss(module, gaps)
    assert any("torch.nn.Module.__call__" in gap.reason for gap in gaps)
