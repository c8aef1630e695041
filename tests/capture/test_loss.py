"""The recorded loss, as observed in the first training batch, without any effect on training."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torchmetrics
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from counting import counted
from kit import TinyNet, same, trainer, weights
from lightning_dtool.capture.loss import LossObserver
from lightning_dtool.record import Gaps, Loss
from watching import LossWatch
from zoo import ZOO, Cnn, Exhibited


def fit(tmp_path: Path, module: L.LightningModule, *callbacks: L.Callback, **options: Any) -> L.LightningModule:
    settings = {"max_epochs": 1, "enable_checkpointing": False, **options}
    trainer(tmp_path, *settings.pop("callbacks", []), *callbacks, **settings).fit(module)
    return module


def observe(tmp_path: Path, module: L.LightningModule, **options: Any) -> LossWatch:
    watch = LossWatch()
    fit(tmp_path, module, watch, **options)
    assert _get_current_function_mode_stack() == []
    return watch


def names(loss: Loss) -> list[str]:
    return [call.name.partition(":")[2] for call in loss.calls]


class Stepping(Exhibited):
    """A model with 10 inputs and 3 outputs; each test defines the training step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1), nn.Linear(8, 3))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


# -- what is recorded ---------------------------------------------------------------------------------


def test_a_loss_function_is_recorded_with_all_arguments(tmp_path: Path) -> None:
    class Model(Stepping):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x, y = batch
            weight = torch.tensor([1.0, 2.0, 0.5])
            return functional.cross_entropy(self.net(x), y, weight, ignore_index=7, label_smoothing=0.1)

    watch = observe(tmp_path, Model())
    (call,) = watch.loss.calls
    assert (call.name, call.kind, call.attribute) == ("torch.nn.functional:cross_entropy", "function", None)
    assert call.arguments == {
        "input": {"type": "torch:Tensor", "dtype": "float32", "shape": [4, 3]},
        "target": {"type": "torch:Tensor", "dtype": "int64", "shape": [4]},
        "weight": {"type": "torch:Tensor", "dtype": "float32", "shape": [3], "value": [1.0, 2.0, 0.5]},
        "ignore_index": 7,
        "reduction": "mean",
        "label_smoothing": 0.1,
    }
    assert "label_smoothing=0.1" in (watch.loss.training_step or "")
    assert "NllLossBackward0" in watch.loss.operations
    assert not watch.gaps


class FocalLoss(nn.Module):
    """A user-defined loss that calls a loss of PyTorch."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.inner = nn.CrossEntropyLoss(reduction="none")

    def forward(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = self.inner(logits, y)
        smooth = functional.l1_loss(logits, torch.zeros_like(logits))
        return ((1 - torch.exp(-loss)) ** self.gamma * loss).mean() + smooth


class Inner(nn.Module):
    """A submodule that computes a loss in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        y = self.layer(x)
        return y, {"commitment": functional.mse_loss(y, x)}


def test_only_minimised_losses_are_recorded_and_in_order(tmp_path: Path) -> None:
    class Model(Stepping):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()
            self.losses = nn.ModuleDict({"focal": FocalLoss(2.0)})
            self.unused = nn.L1Loss()
            self.error = torchmetrics.MeanAbsoluteError()
            self.watched = torchmetrics.MeanSquaredError()

        def training_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
            x, y = batch
            x, inner = self.inner(x)
            logits = self.net(x)
            one_hot = functional.one_hot(y, 3).float()
            self.watched(logits, one_hot)
            self.log("seen", functional.smooth_l1_loss(logits, one_hot))
            with torch.no_grad():
                functional.huber_loss(logits, one_hot)
            loss = self.losses["focal"](logits, y) + self.error(logits, one_hot)
            loss = loss + nn.HingeEmbeddingLoss(margin=0.5)(logits, one_hot.mul(2).sub(1))
            for scale in (1, 2):
                loss = loss + functional.kl_div(logits.log_softmax(-1) * scale, one_hot, reduction="batchmean")
            return {"loss": loss + 0.1 * inner["commitment"]}

    loss = observe(tmp_path, Model()).loss
    assert names(loss) == ["mse_loss", "FocalLoss", "MeanAbsoluteError", "HingeEmbeddingLoss", "kl_div", "kl_div"]
    assert [call.kind for call in loss.calls] == ["function", "module", "metric", "module", "function", "function"]
    assert [call.attribute for call in loss.calls] == [None, "losses.focal", "error", None, None, None]
    focal = loss.calls[1].arguments
    assert focal["gamma"] == 2.0
    assert [inner["name"] for inner in focal["computes"]] == [
        "torch.nn.modules.loss:CrossEntropyLoss",
        "torch.nn.functional:l1_loss",
    ]
    assert focal["computes"][0]["arguments"]["reduction"] == "none"
    assert loss.calls[3].arguments["margin"] == 0.5
    assert loss.calls[4].arguments["reduction"] == "batchmean"


def test_a_loss_in_a_closure_is_recorded_once(tmp_path: Path) -> None:
    watch = observe(tmp_path, ZOO["lbfgs"]()[0])
    assert names(watch.loss) == ["mse_loss", "mse_loss"]
    assert not [operation for operation in watch.loss.operations if operation.startswith("loss 2")]


def test_the_losses_of_two_optimizers_are_recorded(tmp_path: Path) -> None:
    watch = observe(tmp_path, ZOO["gan"]()[0])
    assert names(watch.loss) == ["binary_cross_entropy_with_logits"] * 3
    assert watch.loss.operations[0] == "BinaryCrossEntropyWithLogitsBackward0"
    assert "loss 2: DivBackward0" in watch.loss.operations


def test_a_loss_from_plain_operations_is_recorded_as_its_operations(tmp_path: Path) -> None:
    first, second = (observe(tmp_path, ZOO["autoencoder"]()[0]).loss for _ in range(2))
    assert first == second
    assert first.calls == []
    # Lightning divides by the number of accumulated batches.
    assert first.operations[:4] == ["DivBackward0", "AddBackward0", "MeanBackward0", "MulBackward0"]
    assert "code.abs().sum()" in (first.training_step or "")


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad * 2


def test_user_defined_autograd_functions_and_a_direct_backward_are_observed(tmp_path: Path) -> None:
    class Model(Stepping):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            loss = Double.apply(functional.cross_entropy(self.net(x), y))
            loss.backward()
            self.optimizers().step()

    watch = observe(tmp_path, Model())
    assert watch.loss.operations[:2] == ["DoubleBackward", "NllLossBackward0"]
    assert names(watch.loss) == ["cross_entropy"]
    assert not watch.gaps


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
def test_a_missing_loss_is_a_gap(tmp_path: Path) -> None:
    class Model(Stepping):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            return None

    watch = observe(tmp_path, Model())
    assert (watch.loss.calls, watch.loss.operations) == ([], [])
    assert [gap.fact for gap in watch.gaps] == ["loss.operations"]


def test_a_loss_under_activation_checkpointing_is_recorded_once(tmp_path: Path) -> None:
    class Model(Stepping):
        def __init__(self) -> None:
            super().__init__()
            self.criterion = nn.CrossEntropyLoss()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x, y = batch
            return checkpoint(lambda x: self.criterion(self.net(x), y), x.requires_grad_(), use_reentrant=False)

    assert names(observe(tmp_path, Model()).loss) == ["CrossEntropyLoss"]


def test_the_operations_of_a_large_graph_are_truncated(tmp_path: Path) -> None:
    class Model(Stepping):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x, y = batch
            loss = functional.cross_entropy(self.net(x), y)
            for _ in range(500):
                loss = loss + 0.001
            return loss

    loss = observe(tmp_path, Model()).loss
    assert names(loss) == ["cross_entropy"]  # found deeper in the graph than the listed operations
    assert len(loss.operations) == 201
    assert loss.operations[-1] == "…"


@pytest.fixture
def _forget_compiled() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_forget_compiled")
@pytest.mark.parametrize("how", ["child", "method", "function", "hidden"])
def test_compiled_modules_are_not_observed(tmp_path: Path, how: str) -> None:
    class Model(Stepping):
        def __init__(self) -> None:
            super().__init__()
            self.criterion = nn.CrossEntropyLoss(label_smoothing=0.2)
            if how == "child":
                self.net = torch.compile(self.net, backend="eager")  # type: ignore[assignment]
            elif how == "method":
                self.net.compile(backend="eager")
            elif how == "hidden":
                self.box = [torch.compile(lambda x: x + 1, backend="eager")]
            else:
                self.shift = torch.compile(lambda x: x + 1, backend="eager")

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            assert _get_current_function_mode_stack() == []
            x, y = batch
            return self.criterion(x[:, :3] * next(self.net.parameters()).sum(), y)

    watch = observe(tmp_path, Model())
    assert [(call.name, call.attribute) for call in watch.loss.calls] == [
        ("torch.nn.modules.loss:CrossEntropyLoss", "criterion")
    ]
    assert watch.loss.calls[0].arguments["label_smoothing"] == 0.2
    assert "MulBackward0" in watch.loss.operations
    assert [gap.fact for gap in watch.gaps] == ["loss.calls"]


# -- no effect on training ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ZOO))
def test_weights_and_random_numbers_stay_bitwise_equal(tmp_path: Path, name: str) -> None:
    def once(*callbacks: L.Callback) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        L.seed_everything(5, verbose=False)
        module, options = ZOO[name]()
        return weights(fit(tmp_path, module, *callbacks, **options)), torch.get_rng_state()

    (plain, stream), (watched, other) = once(), once(LossWatch())
    assert same(plain, watched)
    assert torch.equal(stream, other)


def test_a_frozen_transformer_keeps_its_fast_path() -> None:
    module = ZOO["transformer"]()[0]
    module.frozen.eval()
    x = torch.randn(2, 5, 8)
    observer = LossObserver(module)
    with torch.no_grad():
        plain = module.frozen(x)
        observer.start()
        try:
            assert torch.equal(module.frozen(x), plain)
            assert len(_get_current_function_mode_stack()) == 1
        finally:
            observer.stop()
    assert _get_current_function_mode_stack() == []


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_no_function_mode_behind(tmp_path: Path, kind: type[BaseException]) -> None:
    class Model(Stepping):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x, y = batch
            functional.cross_entropy(self.net(x), y)
            raise kind("now")

    with pytest.raises((ValueError, SystemExit)):
        fit(tmp_path, Model(), LossWatch())
    assert _get_current_function_mode_stack() == []
    assert torch.nn.Module.__call__ is torch.nn.Module._wrapped_call_impl


class Other(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_stopping_leaves_other_function_modes_in_place() -> None:
    module = TinyNet()
    below, above = Other(), Other()
    observer = LossObserver(module)
    observer.stop()  # before it was started
    observer = LossObserver(module)
    with below:
        observer.start()
        observer.start()
        with above:
            assert len(_get_current_function_mode_stack()) == 3
            observer.stop()
            observer.stop()
            assert _get_current_function_mode_stack() == [below, above]
        assert _get_current_function_mode_stack() == [below]
    assert _get_current_function_mode_stack() == []


def test_the_observer_keeps_no_graph_and_no_module_alive() -> None:
    class Model(Stepping):
        def __init__(self) -> None:
            super().__init__()
            self.criterion = nn.CrossEntropyLoss(weight=torch.ones(3))

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x, y = batch
            return self.criterion(self.net(x), y)

    module = Model()
    observer = LossObserver(module)
    observer.start()
    loss = module.training_step(module.data(), 0)
    observer.before_backward(loss)
    observer.stop()
    found = observer.loss(module, Gaps())
    # A tensor that the graph saves for the backward pass lives as long as the graph.
    kept = weakref.ref(module), weakref.ref(loss), weakref.ref(module.criterion.weight)
    del module, loss
    gc.collect()
    assert [reference() for reference in kept] == [None, None, None]
    assert names(found) == ["CrossEntropyLoss"]


def test_observing_costs_nothing_after_the_first_batch() -> None:
    module = Cnn()
    observer = LossObserver(module)
    observer.start()
    observer.stop()
    assert _get_current_function_mode_stack() == []
    assert torch.nn.Module.__call__ is torch.nn.Module._wrapped_call_impl
    loss = torch.ones((), requires_grad=True) * 1
    assert counted(observer.before_backward, loss)[1] < 5
    assert observer._noted.operations() == []


def test_a_failure_while_observing_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr("lightning_dtool.capture.loss.encode_arguments", fail)
    monkeypatch.setattr("lightning_dtool.capture.noted_calls.walk_graph", fail)
    watch = observe(tmp_path, Cnn())
    assert watch.loss.calls == []
    assert {gap.fact for gap in watch.gaps} == {"loss.calls", "loss.operations"}


def test_only_the_first_batch_is_observed(tmp_path: Path) -> None:
    class Model(Stepping):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            assert len(_get_current_function_mode_stack()) == (batch_idx == 0)
            x, y = batch
            logits = self.net(x)
            return functional.cross_entropy(logits, y) if batch_idx == 0 else functional.multi_margin_loss(logits, y)

    assert names(observe(tmp_path, Model()).loss) == ["cross_entropy"]


def test_a_training_step_without_source_is_a_gap(tmp_path: Path) -> None:
    module = TinyNet()
    observer = LossObserver(module)
    kind = type("Nowhere", (TinyNet,), {"training_step": len})
    gaps = Gaps()
    assert observer.loss(kind(), gaps).training_step is None
    assert "loss.training_step" in [gap.fact for gap in gaps]
