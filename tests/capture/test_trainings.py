"""Ten kinds of training: what is recorded of each, end to end."""

from pathlib import Path

import lightning as L
import pytest
import torch
from torch.overrides import _get_current_function_mode_stack

from kit import same, trainer, weights
from lightning_dtool.capture.initial_weights import capture_initial_weights
from lightning_dtool.capture.model import capture_model
from lightning_dtool.capture.optimizers import capture_optimizers, capture_schedulers
from lightning_dtool.record import Model, Optimizer, Scheduler
from lightning_dtool.values.digests import state_digest
from watching import LossWatch
from zoo import ZOO


class Capture(LossWatch):
    """Calls the capture functions for the model at the same hooks as the provenance callback."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        self.model: Model = capture_model(pl_module, self.gaps)
        self.initial = capture_initial_weights(pl_module, self.gaps)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.optimizers: list[Optimizer] = capture_optimizers(trainer, pl_module, self.gaps)
        self.schedulers: list[Scheduler] = capture_schedulers(trainer, self.gaps)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self.kind = type(trainer.strategy.precision_plugin).__name__


def run(tmp_path: Path, name: str, *callbacks: L.Callback) -> L.LightningModule:
    L.seed_everything(9, verbose=False)
    module, options = ZOO[name]()
    settings = {"max_epochs": 2, "enable_checkpointing": False, **options}
    trainer(tmp_path, *settings.pop("callbacks", []), *callbacks, **settings).fit(module)
    return module


@pytest.fixture
def captured(tmp_path: Path, request: pytest.FixtureRequest) -> Capture:
    """Train the model that the test's name gives, with and without recording; both must give the same weights."""
    name = request.node.name.removeprefix("test_")
    capture = Capture()
    L.seed_everything(9, verbose=False)
    initial = state_digest(ZOO[name]()[0].state_dict())
    plain = weights(run(tmp_path, name))
    stream = torch.get_rng_state()
    module = run(tmp_path, name, capture)
    assert same(plain, weights(module))
    assert torch.equal(stream, torch.get_rng_state())
    assert _get_current_function_mode_stack() == []
    assert capture.initial.digest == initial != state_digest(module.state_dict())
    assert capture.initial.origin == "script"
    assert capture.model.parameters_total == sum(parameter.numel() for parameter in module.parameters())
    assert capture.model.source is not None
    assert capture.loss.training_step is not None
    for section in (capture.model, capture.initial, capture.loss, *capture.optimizers, *capture.schedulers):
        assert type(section).model_validate_json(section.model_dump_json()) == section
    return capture


def calls(capture: Capture) -> list[tuple[str, str | None]]:
    return [(call.name.partition(":")[2], call.attribute) for call in capture.loss.calls]


def test_cnn(captured: Capture) -> None:
    assert not captured.gaps
    assert calls(captured) == [("cross_entropy", None)]
    assert captured.loss.calls[0].arguments["label_smoothing"] == 0.1
    assert captured.model.hyperparameters == {"lr": 0.01}
    assert [child.name for child in captured.model.children] == ["features", "head"]
    assert captured.optimizers[0].class_path == "torch.optim.adam:Adam"
    assert "Conv2d(1, 2" in (captured.model.architecture or "")


def test_lstm(captured: Capture) -> None:
    assert not captured.gaps
    assert calls(captured) == [("CrossEntropyLoss", "criterion")]
    arguments = captured.loss.calls[0].arguments
    assert (arguments["ignore_index"], arguments["weight"]["value"]) == (0, [1.0, 1.0, 2.0, 2.0, 1.0])
    (plateau,) = captured.schedulers
    assert (plateau.monitor, plateau.settings["factor"], plateau.settings["patience"]) == ("train_loss", 0.3, 1)


def test_transformer(captured: Capture) -> None:
    assert not captured.gaps
    assert calls(captured) == [("cross_entropy", None)]
    (cycle,) = captured.schedulers
    assert (cycle.interval, cycle.settings["total_steps"]) == ("step", 20)
    assert all(name.startswith("frozen.") for name in captured.model.frozen)
    assert len(captured.model.frozen) == 12


def test_gan(captured: Capture) -> None:
    assert not captured.gaps
    assert calls(captured) == [("binary_cross_entropy_with_logits", None)] * 3
    assert [optimizer.param_groups[0].options["lr"] for optimizer in captured.optimizers] == [2e-4, 1e-4]
    assert any(operation.startswith("loss 2: ") for operation in captured.loss.operations)


def test_autoencoder(captured: Capture) -> None:
    assert not captured.gaps
    assert calls(captured) == []
    assert {"PowBackward0", "AbsBackward0", "MeanBackward0"} <= set(captured.loss.operations)
    assert "code.abs()" in (captured.loss.training_step or "")
    (sequence,) = captured.schedulers
    assert "(step + 1) / warmup" in sequence.settings["_schedulers"][0]["attributes"]["lr_lambdas"][0]["source"]


def test_fine_tuning(captured: Capture) -> None:
    assert not captured.gaps
    assert calls(captured) == [("nll_loss", None)]
    assert captured.model.frozen == ["backbone.0.weight", "backbone.0.bias"]
    body, head = captured.optimizers[0].param_groups
    assert (body.options["lr"], head.options["lr"]) == (1e-4, 1e-2)
    assert body.parameters == ["backbone.2.weight", "backbone.2.bias"]


def test_lbfgs(captured: Capture) -> None:
    assert not captured.gaps
    assert calls(captured) == [("mse_loss", None), ("mse_loss", None)]
    assert captured.optimizers[0].defaults["max_iter"] == 6


def test_swa(captured: Capture) -> None:
    assert not captured.gaps
    assert calls(captured) == [("cross_entropy", None)]


def test_accumulation(captured: Capture) -> None:
    assert not captured.gaps
    assert calls(captured) == [("cross_entropy", None)]
    assert captured.loss.operations[0] == "DivBackward0"  # divided by the number of batches


def test_bf16(captured: Capture) -> None:
    assert not captured.gaps
    assert captured.kind == "MixedPrecision"
    assert captured.loss.calls[0].arguments["input"]["dtype"] == "bfloat16"
    assert captured.loss.calls[0].arguments["label_smoothing"] == 0.1


def test_every_training_of_the_zoo_is_tested() -> None:
    assert {f"test_{name}" for name in ZOO} <= set(globals())
