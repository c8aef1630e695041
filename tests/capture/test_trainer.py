"""The recorded settings of the Trainer, its callbacks and its loggers."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool.capture.trainer import capture_metrics, capture_trainer
from lightning_dtool.record import Gaps, Trainer


class Observe(L.Callback):
    """Records the Trainer when training starts, as the provenance callback does."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.gaps = Gaps()
        self.found = capture_trainer(trainer, self.gaps, pl_module)


def observed(folder: Path, *callbacks: L.Callback, module: L.LightningModule | None = None, **options: Any) -> Observe:
    watch = Observe()
    trainer(folder, watch, *callbacks, **{"max_epochs": 1, **options}).fit(module or TinyNet(), loader(), loader())
    assert Trainer.model_validate_json(watch.found.model_dump_json()) == watch.found
    return watch


DEFAULT: dict[str, Any] = {"enable_checkpointing": False}


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return observed(tmp_path_factory.mktemp("default"), **DEFAULT).found.settings


@pytest.mark.parametrize(
    ("option", "value", "recorded"),
    [
        ("precision", "bf16-mixed", "bf16-mixed"), ("accumulate_grad_batches", 2, 2), ("gradient_clip_val", 0.5, 0.5),
        ("gradient_clip_algorithm", "value", "value"), ("limit_train_batches", 2, 2), ("limit_val_batches", 0.5, 0.5),
        ("max_steps", 3, 3), ("min_epochs", 1, 1), ("min_steps", 1, 1), ("val_check_interval", 2, 2),
        ("check_val_every_n_epoch", 2, 2), ("overfit_batches", 2, 2), ("num_sanity_val_steps", 0, 0),
        ("detect_anomaly", True, True), ("inference_mode", False, False), ("deterministic", "warn", "warn"),
        ("use_distributed_sampler", False, False), ("reload_dataloaders_every_n_epochs", 1, 1),
        ("sync_batchnorm", True, True), ("max_epochs", 2, 2), ("log_every_n_steps", 1, 1), ("barebones", True, True),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_every_setting_of_the_trainer_is_recorded(
    tmp_path: Path, default: dict[str, Any], option: str, value: Any, recorded: Any
) -> None:
    more = {option: value, "gradient_clip_val": 0.5} if option == "gradient_clip_algorithm" else {option: value}
    if option == "barebones":
        more |= dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"))
    try:
        settings = observed(tmp_path, **{**DEFAULT, **more}).found.settings
    finally:
        torch.use_deterministic_algorithms(False)
    assert settings[option] == recorded
    assert default[option] != recorded


def test_the_strategy_and_plugins_are_recorded(tmp_path: Path) -> None:
    strategy = DDPStrategy(find_unused_parameters=True, process_group_backend="gloo")
    gaps = Gaps()
    settings = capture_trainer(
        trainer(tmp_path, precision="bf16-mixed", strategy=strategy, **DEFAULT), gaps, TinyNet()
    ).settings
    assert settings["strategy"] == "lightning.pytorch.strategies.ddp:DDPStrategy"
    assert settings["strategy_settings"]["find_unused_parameters"] is True
    assert settings["strategy_settings"]["process_group_backend"] == "gloo"
    assert settings["devices"] == ["cpu"]
    assert settings["plugins"]["precision"].endswith(":MixedPrecision")
    assert settings["precision_settings"]["precision"] == "bf16-mixed"
    assert settings["automatic_optimization"] is True
    assert settings["hooks_of_the_module"] == []
    assert not gaps


class Manual(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        optimizer: Any = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss

    def configure_gradient_clipping(self, optimizer: Any, **_: Any) -> None:
        self.clip_gradients(optimizer, 1.0)


def test_manual_optimization_and_overridden_hooks_are_recorded(tmp_path: Path) -> None:
    settings = observed(tmp_path, module=Manual(), **DEFAULT).found.settings
    assert settings["automatic_optimization"] is False
    assert settings["hooks_of_the_module"] == ["configure_gradient_clipping"]


class Keeps(L.Callback):
    def __init__(self, rate: float, *, api_key: str = "", hook: Any = None) -> None:
        self.rate = rate
        self._api_key = api_key
        self.hook = hook

    @property
    def state_key(self) -> str:
        return f"Keeps-{self.rate}"


class Forgets(L.Callback):
    def __init__(self, rate: float, momentum: float = 0.9) -> None:
        self.scaled = 2 * rate
        self.momentum = momentum


class Derived(Keeps):
    def __init__(self, more: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.more = more


class Several(L.Callback):
    def __init__(self, *names: str, **options: Any) -> None:
        self.names = names
        self.options = options


class Passes(Keeps):
    def __init__(self, *names: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Loses(L.Callback):
    def __init__(self, *names: str, **options: Any) -> None:
        self.first = names[0]


def test_parameters_that_take_any_number_of_values_are_recorded_or_a_gap(tmp_path: Path) -> None:
    watch = observed(tmp_path, Several("a", "b", width=2), Passes("c", rate=0.25), Loses("d", width=3))
    found = {part.class_path.rpartition(":")[2]: part.settings for part in watch.found.callbacks}
    assert found["Several"] == {"names": {"type": "builtins:tuple", "value": ["a", "b"]}, "options": {"width": 2}}
    assert found["Passes"] == {"rate": 0.25, "api_key": "", "hook": None}
    assert found["Loses"] == {}
    places = {part.class_path.rpartition(":")[2]: i for i, part in enumerate(watch.found.callbacks)}
    reasons = {gap.fact: gap.reason for gap in watch.gaps}
    assert f"trainer.callbacks[{places['Several']}].settings" not in reasons
    assert f"trainer.callbacks[{places['Passes']}].settings" not in reasons
    assert reasons[f"trainer.callbacks[{places['Loses']}].settings"].endswith(": names, options")


def test_callbacks_are_recorded_with_their_settings(tmp_path: Path) -> None:
    watch = observed(
        tmp_path,
        EarlyStopping("val_loss", patience=7),
        ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=2, every_n_epochs=3),
        Timer(timedelta(hours=1)),
        GradientAccumulationScheduler({0: 2}),
        Keeps(0.5, api_key="hunter2", hook=len),
        Forgets(0.5),
        Derived(more=4, rate=0.25),
    )
    found = {part.class_path.rpartition(":")[2]: part for part in watch.found.callbacks}
    assert watch.found.callbacks[0].class_path.endswith(":Observe")
    assert {k: found["EarlyStopping"].settings[k] for k in ("monitor", "patience", "mode")} == {
        "monitor": "val_loss", "patience": 7, "mode": "min"}  # fmt: skip
    assert (found["EarlyStopping"].state_key or "").startswith("EarlyStopping{'monitor': 'val_loss'")
    checkpoint = found["ModelCheckpoint"].settings
    assert (checkpoint["save_top_k"], checkpoint["monitor"], checkpoint["every_n_epochs"]) == (2, "val_loss", 3)
    assert found["Keeps"].settings == {
        "rate": 0.5,
        "api_key": "[redacted]",
        "hook": {"type": "builtins:function", "name": "builtins:len"},
    }
    assert found["Keeps"].state_key == "Keeps-0.5"
    assert found["Forgets"].settings == {"momentum": 0.9}
    assert found["Derived"].settings["more"] == 4
    assert found["Derived"].settings["rate"] == 0.25
    facts = {gap.fact: gap.reason for gap in watch.gaps}
    places = {part.class_path.rpartition(":")[2]: i for i, part in enumerate(watch.found.callbacks)}
    assert facts.pop(f"trainer.callbacks[{places['Forgets']}].settings").endswith("does not keep these parameters: rate")  # fmt: skip  # noqa: E501
    assert facts.keys() == {f"trainer.callbacks[{places['Keeps']}].settings.api_key"}


class Unreadable(L.Callback):
    def __init__(self, rate: float = 0.1) -> None:
        self.rate = rate

    __init__.__signature__ = "wrong"  # type: ignore[attr-defined]


def test_a_callback_that_cannot_be_read_is_a_gap(tmp_path: Path) -> None:
    watch = observed(tmp_path, Unreadable())
    place = [part.class_path.rpartition(":")[2] for part in watch.found.callbacks].index("Unreadable")
    assert watch.found.callbacks[place].settings == {}
    reason = {gap.fact: gap.reason for gap in watch.gaps}[f"trainer.callbacks[{place}].settings"]
    assert reason == f"reading a {__name__}:Unreadable raised TypeError"


def test_loggers_are_recorded_without_secrets(tmp_path: Path) -> None:
    class Mine(CSVLogger):
        def __init__(self, folder: Path, token: str) -> None:
            super().__init__(folder, name="mine", version=3)
            self._token = token

    watch = observed(tmp_path, logger=[TensorBoardLogger(tmp_path, name="tb", version=1), Mine(tmp_path, "hunter2")])
    first, second = watch.found.loggers
    assert (first.settings["name"], first.settings["version"]) == ("tb", 1)
    assert second.settings["token"] == "[redacted]"
    assert second.class_path.endswith("Mine")
    assert "hunter2" not in json.dumps(watch.found.model_dump())
    assert "trainer.loggers[1].settings.token" in [gap.fact for gap in watch.gaps]


def test_a_callback_setting_that_cannot_be_inspected_is_a_gap(tmp_path: Path) -> None:
    class Prickly(L.Callback):
        def __init__(self, a: int = 1) -> None:
            self.a = Explodes()

    class Explodes:
        __slots__ = ()

        def __repr__(self) -> str:
            raise RuntimeError

    watch = observed(tmp_path, Prickly(), **DEFAULT)
    assert [gap.fact for gap in watch.gaps] == ["trainer.callbacks[1].settings.a"]


def test_recording_the_trainer_does_not_change_training(tmp_path: Path) -> None:
    result = []
    for callbacks in ([], [Observe()]):
        L.seed_everything(5, verbose=False)
        net = TinyNet()
        trainer(tmp_path, *callbacks, **DEFAULT, gradient_clip_val=0.5).fit(net, loader(shuffle=True), loader())
        result.append((weights(net), torch.get_rng_state()))
    assert same(result[0][0], result[1][0])
    assert torch.equal(result[0][1], result[1][1])


def test_nan_and_infinite_metrics_are_recorded_as_text() -> None:
    class Fake:
        callback_metrics = {
            "a": torch.tensor(float("nan")),
            "b": torch.tensor(float("-inf")),
            "c": torch.tensor(0.5),
            "d": 2,
        }

    found = capture_metrics(Fake(), Gaps())  # type: ignore[arg-type]
    assert found == {"a": "nan", "b": "-inf", "c": 0.5, "d": 2.0}
    json.dumps(found, allow_nan=False)


LIMIT = 1


class Limiting(L.Callback):
    factor = 1

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.limit_val_batches = LIMIT * self.factor


@pytest.mark.parametrize("changed", [{"LIMIT": 2}, {"factor": 2}])
def test_values_that_the_code_of_a_callback_uses_are_recorded(
    changed: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def constants() -> dict[str, Any]:
        found = capture_trainer(trainer(tmp_path, Limiting()), Gaps()).callbacks
        return next(each.constants for each in found if each.class_path.endswith(":Limiting"))

    assert constants() == {"LIMIT": 1, "Limiting.factor": 1}
    monkeypatch.setitem(globals(), "LIMIT", changed.get("LIMIT", 1))
    monkeypatch.setattr(Limiting, "factor", changed.get("factor", 1))
    assert constants() == {"LIMIT": changed.get("LIMIT", 1), "Limiting.factor": changed.get("factor", 1)}
