"""The recorded optimizers and schedulers, with all their settings and parts."""

import functools
import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.optim import lr_scheduler

from kit import TinyNet, loader, trainer
from lightning_dtool.capture.optimizers import (
    NOT_IN_MODULE,
    capture_optimizers,
    capture_schedulers,
)
from lightning_dtool.record import Gaps, Optimizer, Scheduler
from zoo import ZOO

HALVING = 0.5


def halve(step: int, floor: float = 0.1) -> float:
    return max(floor, HALVING**step)


class Ramp:
    """A callable object."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, step: int) -> float:
        return min(1.0, step / self.steps)

    def method(self, step: int) -> float:
        return 1 / (1 + step * self.steps)


class Watch(L.Callback):
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        random = torch.get_rng_state()
        self.gaps = Gaps()
        self.optimizers: list[Optimizer] = capture_optimizers(trainer, pl_module, self.gaps)
        self.schedulers: list[Scheduler] = capture_schedulers(trainer, self.gaps)
        assert torch.equal(torch.get_rng_state(), random)


def watch(tmp_path: Path, configure: Any, module: L.LightningModule | None = None) -> Watch:
    """Fit with the optimizers that `configure(module)` returns."""
    module = module or TinyNet()
    module.configure_optimizers = lambda: configure(module)  # type: ignore[method-assign]
    found = Watch()
    trainer(tmp_path, found, max_epochs=2, enable_checkpointing=False).fit(module, loader(16))
    for section in (*found.optimizers, *found.schedulers):
        json.dumps(section.model_dump(), allow_nan=False)
        assert "0x" not in section.model_dump_json()
    return found


def scheduled(tmp_path: Path, make: Any) -> tuple[Scheduler, Gaps]:
    def configure(module: L.LightningModule) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [{"scheduler": make(optimizer), "interval": "step", "frequency": 2}]

    found = watch(tmp_path, configure)
    (scheduler,) = found.schedulers
    assert (scheduler.interval, scheduler.frequency) == ("step", 2)
    return scheduler, found.gaps


def test_all_optimizers_are_recorded_under_manual_optimization(tmp_path: Path) -> None:
    module, options = ZOO["gan"]()
    found = Watch()
    trainer(tmp_path, found, max_epochs=1, enable_checkpointing=False, **options).fit(module)
    one, two = found.optimizers
    assert one.class_path == "torch.optim.adam:Adam"
    assert one.defaults["betas"]["value"] == [0.5, 0.999]
    assert one.param_groups[0].parameters == ["generator.weight", "generator.bias"]
    assert two.param_groups[0].parameters[0] == "discriminator.0.weight"
    assert not found.gaps


def test_parameter_groups_and_names_are_recorded(tmp_path: Path) -> None:
    stranger = torch.nn.Parameter(torch.zeros(2))

    def configure(module: L.LightningModule) -> Any:
        assert isinstance(module, TinyNet)
        return torch.optim.AdamW(
            [
                {"params": list(module.layers[0].named_parameters()), "lr": 0.5, "name": "body"},
                {"params": [("stray", stranger)], "weight_decay": 0.0},
            ],
            lr=0.25,
        )

    found = watch(tmp_path, configure)
    body, other = found.optimizers[0].param_groups
    assert (body.options["name"], body.options["lr"], other.options["lr"]) == ("body", 0.5, 0.25)
    assert (body.options["weight_decay"], other.options["weight_decay"]) == (0.01, 0.0)
    assert body.parameters == ["layers.0.weight", "layers.0.bias"]
    assert other.parameters == ["stray"]
    assert [gap.fact for gap in found.gaps] == ["optimizers[0].param_groups[1].parameters"]


def test_a_parameter_outside_the_module_is_marked(tmp_path: Path) -> None:
    stranger = torch.nn.Parameter(torch.zeros(2))
    found = watch(tmp_path, lambda module: torch.optim.SGD([*module.parameters(), stranger], lr=0.1))
    assert found.optimizers[0].param_groups[0].parameters[-1] == NOT_IN_MODULE


def test_a_learning_rate_in_a_tensor_is_recorded(tmp_path: Path) -> None:
    found = watch(tmp_path, lambda module: torch.optim.Adam(module.parameters(), lr=torch.tensor(0.125), foreach=False))
    options = found.optimizers[0].param_groups[0].options
    assert options["lr"] == {"type": "torch:Tensor", "dtype": "float32", "shape": [], "value": 0.125}


class Wrapper(torch.optim.SGD):
    """An optimizer that wraps another one."""

    def __init__(self, parameters: Any, lr: float) -> None:
        parameters = list(parameters)
        super().__init__(parameters, lr)
        self.base_optimizer = torch.optim.Adam(parameters, lr=7.0)


def test_an_optimizer_inside_an_optimizer_is_a_gap(tmp_path: Path) -> None:
    found = watch(tmp_path, lambda module: Wrapper(module.parameters(), lr=0.1))
    assert [gap.fact for gap in found.gaps] == ["optimizers[0].base_optimizer"]


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`:UserWarning")
def test_no_optimizer_is_a_gap(tmp_path: Path) -> None:
    found = watch(tmp_path, lambda module: None)
    assert found.optimizers == []
    assert [gap.fact for gap in found.gaps] == ["optimizers"]


# -- schedulers ---------------------------------------------------------------------------------------


def test_a_lambda_is_recorded_with_its_closure_and_defaults(tmp_path: Path) -> None:
    warmup = 4
    scheduler, gaps = scheduled(
        tmp_path, lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step, power=2: (step / warmup) ** power)
    )
    (described,) = scheduler.settings["lr_lambdas"]
    assert (described["closure"], described["defaults"]) == ({"warmup": 4}, {"power": 2})
    assert "(step / warmup) ** power" in described["source"]
    assert not gaps


@pytest.mark.parametrize(
    ("function", "expected", "source"),
    [
        (halve, {"globals": {"HALVING": 0.5}, "defaults": {"floor": 0.1}}, "max(floor, HALVING**step)"),
        (functools.partial(halve, floor=0.3), {"keywords": {"floor": 0.3}}, "max(floor, HALVING**step)"),
        (Ramp(3), {"init": {"steps": 3}}, "class Ramp"),
        (Ramp(5).method, {"name": f"{__name__}:Ramp.method"}, "step * self.steps"),
    ],
    ids=["function", "partial", "object", "method"],
)
def test_every_kind_of_callable_is_recorded(
    tmp_path: Path, function: Any, expected: dict[str, Any], source: str
) -> None:
    scheduler, gaps = scheduled(tmp_path, lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, function))
    (described,) = scheduler.settings["lr_lambdas"]
    assert {key: described[key] for key in expected} == expected
    assert source in described.get("func", described)["source"]
    assert described.get("self", {"init": {"steps": 5}})["init"] == {"steps": 5}
    assert not gaps


def test_nested_schedulers_are_recorded_with_all_parts(tmp_path: Path) -> None:
    def make(optimizer: torch.optim.Optimizer) -> Any:
        chained = lr_scheduler.ChainedScheduler(
            [lr_scheduler.ExponentialLR(optimizer, 0.9), lr_scheduler.StepLR(optimizer, 7, gamma=0.3)]
        )
        warm = lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=3)
        second = lr_scheduler.SequentialLR(
            optimizer,
            [lr_scheduler.LambdaLR(optimizer, halve), lr_scheduler.CosineAnnealingLR(optimizer, T_max=11)],
            milestones=[5],
        )
        return lr_scheduler.SequentialLR(optimizer, [warm, second, chained], milestones=[3, 20])

    scheduler, gaps = scheduled(tmp_path, make)
    assert scheduler.settings["_milestones"] == [3, 20]
    warm, second, chained = scheduler.settings["_schedulers"]
    assert warm["attributes"]["start_factor"] == 0.25
    assert second["attributes"]["_milestones"] == [5]
    assert second["attributes"]["_schedulers"][1]["attributes"]["T_max"] == 11
    assert [part["type"] for part in chained["attributes"]["_schedulers"]] == [
        "torch.optim.lr_scheduler:ExponentialLR",
        "torch.optim.lr_scheduler:StepLR",
    ]
    assert "HALVING" in second["attributes"]["_schedulers"][0]["attributes"]["lr_lambdas"][0]["source"]
    assert not gaps


def test_the_settings_of_one_cycle_are_recorded(tmp_path: Path) -> None:
    scheduler, gaps = scheduled(
        tmp_path, lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.9, total_steps=10, anneal_strategy="linear")
    )
    assert scheduler.settings["_anneal_func_type"] == "linear"
    assert scheduler.settings["total_steps"] == 10
    assert scheduler.settings["_schedule_phases"][0]["end_lr"] == "max_lr"
    assert not gaps


def test_a_cyclic_schedule_with_a_user_defined_scale_is_recorded(tmp_path: Path) -> None:
    scheduler, _ = scheduled(
        tmp_path, lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=3, scale_fn=halve)
    )
    assert scheduler.settings["_scale_fn_custom"]["defaults"] == {"floor": 0.1}
    assert "HALVING" in scheduler.settings["_scale_fn_custom"]["source"]
    assert scheduler.settings["total_size"] == 6.0


def test_a_plateau_scheduler_is_recorded_under_manual_optimization(tmp_path: Path) -> None:
    class Manual(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            self.optimizers().zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            self.optimizers().step()

    def configure(module: L.LightningModule) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
        plateau = lr_scheduler.ReduceLROnPlateau(optimizer, "max", factor=0.2, patience=4, min_lr=0.01)
        return {"optimizer": optimizer, "lr_scheduler": plateau}

    found = watch(tmp_path, configure, Manual())
    (scheduler,) = found.schedulers
    kept = {name: scheduler.settings[name] for name in ("mode", "factor", "patience", "min_lrs", "threshold")}
    assert kept == {"mode": "max", "factor": 0.2, "patience": 4, "min_lrs": [0.01], "threshold": 1e-4}
    assert [gap.fact for gap in found.gaps] == ["schedulers[0].interval"]


class Odd(lr_scheduler.ExponentialLR):
    """A scheduler with a reference to itself."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__(optimizer, 0.5)
        self.me = self


def test_a_scheduler_with_a_reference_to_itself_is_recorded(tmp_path: Path) -> None:
    scheduler, gaps = scheduled(tmp_path, Odd)
    assert scheduler.settings["gamma"] == 0.5
    assert [gap.fact for gap in gaps] == ["schedulers[0].settings.me"]


def test_an_optimizer_that_cannot_be_inspected_is_a_gap() -> None:
    class Slotted:
        __slots__ = ()

    class Odd:
        param_groups = [{"lr": 1}, {}]

    class Config:
        scheduler, interval, frequency, monitor, strict, reduce_on_plateau = Slotted(), "epoch", 1, "x", False, True

    class Fake:
        lightning_module = TinyNet()
        optimizers = [Odd()]
        lr_scheduler_configs = [Config]

    gaps = Gaps()
    (scheduler,) = capture_schedulers(Fake(), gaps)  # type: ignore[arg-type]
    (optimizer,) = capture_optimizers(Fake(), TinyNet(), gaps)  # type: ignore[arg-type]
    assert scheduler.settings == {"strict": False}
    assert optimizer.class_path.endswith("Odd")
    assert [gap.fact for gap in gaps] == ["schedulers[0].settings", "optimizers[0]"]
