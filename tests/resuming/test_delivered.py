"""Tests that the state at the save counts, not what hooks make of it before the first batch."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from interrupted import Resumed, Small, vectors
from kit import trainer
from lightning_dtool.resuming.delivered import load_optimizer_states, same

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")

EPOCH = {"save_on_train_epoch_end": True}
STEPS = {"every_n_train_steps": 4}


class Centered(Small):
    """Validation moves a persistent buffer that training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(4))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step([batch[0] - self.center, batch[1]], batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.center.mul_(0.9).add_(batch[0].mean(0), alpha=0.1)


class ResetAtStart(Small):
    """`on_train_start` resets a persistent buffer, and makes another weight than the checkpoint has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def on_train_start(self) -> None:
        self.seen = torch.zeros(())
        nn.init.zeros_(self.layer.bias)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen += 1
        return super().training_step(batch, batch_idx) / self.seen


class Normalized(Small):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step([self.norm(batch[0]), batch[1]], batch_idx)


class Warmed(Normalized):
    """A forward pass in `on_fit_start` moves batch norm, as a summary or a logged graph does."""

    def on_fit_start(self) -> None:
        self.norm(torch.randn(5, 4))


class Scaled(nn.Module):
    """A layer whose scale is in `get_extra_state`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x / self.calls


class ExtraState(Small):
    def __init__(self) -> None:
        super().__init__()
        self.scaled = Scaled()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step([self.scaled(batch[0]), batch[1]], batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.scaled(batch[0])


class Tied(Small):
    """`on_train_start` ties two weights that are saved under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(4, 2)

    def setup(self, stage: str) -> None:
        self.other.weight = self.layer.weight

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.layer(batch[0]) + self.other(batch[0]), batch[1])


class Parametrized(Small):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.utils.parametrizations.weight_norm(self.layer)
        self.other = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step([self.other(batch[0]), batch[1]], batch_idx)

    def on_train_start(self) -> None:
        self.other(torch.ones(1, 4))  # moves the vectors of spectral_norm


class Rewarmed(Small):
    """`on_train_start` sets a learning rate and a weight decay, which training lowers."""

    def on_train_start(self) -> None:
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"], group["weight_decay"] = 0.4, 0.1

    def on_train_batch_end(self, *args: Any) -> None:
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] *= 0.9
            group["weight_decay"] *= 0.8


class MadeLate(Small):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.lazy = None, nn.LazyLinear(4)

    def configure_model(self) -> None:
        if self.layer is None:
            self.layer = nn.Linear(4, 2)
        self.lazy(torch.zeros(1, 4))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step([self.lazy(batch[0]), batch[1]], batch_idx)


@pytest.mark.parametrize("policy", [EPOCH, STEPS], ids=["end of epoch", "inside an epoch"])
@pytest.mark.parametrize("make", [Centered, ResetAtStart, Warmed, ExtraState, Tied, Parametrized, Rewarmed, MadeLate])
def test_what_hooks_change_before_the_first_batch_is_put_back(tmp_path: Path, make: Any, policy: Any) -> None:
    val = vectors if hasattr(make, "validation_step") and make in (Centered, ExtraState) else None
    assert Resumed(tmp_path, make, policy, val=val).equal


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "16-true"])
def test_a_run_in_another_precision_resumes_without_rounding(tmp_path: Path, precision: Any) -> None:
    run = Resumed(tmp_path, Normalized, EPOCH, precision=precision)
    assert run.equal
    dtype = {"64-true": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}[precision]
    assert run.module.layer.weight.dtype == dtype


def test_averaged_weights_in_double_precision_resume_without_rounding(tmp_path: Path) -> None:
    def callbacks() -> list[L.Callback]:
        return [L.pytorch.callbacks.EMAWeightAveraging(decay=0.9)]

    assert Resumed(tmp_path, Normalized, EPOCH, precision="64-true", callbacks=callbacks).equal


class Master(torch.optim.SGD):
    """Keeps its weights in float32, while the parameters are in bfloat16."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state.setdefault("master", parameter.float()).sub_(parameter.grad.float(), alpha=0.003)
                parameter.copy_(state["master"])
        return loss


class MasterWeights(Small):
    def configure_optimizers(self) -> Any:
        return Master(self.parameters(), lr=0.1)


def test_the_states_of_an_optimizer_keep_their_types(tmp_path: Path) -> None:
    assert Resumed(tmp_path, MasterWeights, EPOCH, precision="bf16-true").equal


class CountsValidations(L.Callback):
    """Changes training by a count that the sanity check moves, and that it saves itself."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.count += 1

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        for parameter in pl_module.parameters():
            parameter.grad /= 1 + self.count


class Validated(Small):
    def validation_step(self, batch: Any, batch_idx: int) -> None: ...


def test_the_state_of_a_callback_is_that_of_the_save(tmp_path: Path) -> None:
    assert Resumed(tmp_path, Validated, EPOCH, val=vectors, callbacks=lambda: [CountsValidations()]).equal


class Forgetful(Small):
    """Saves only a part of its weights, and does not ask for all of them when it loads."""

    strict_loading = False

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name != "layer.bias"}


def test_trained_weights_that_the_checkpoint_lacks_are_announced(tmp_path: Path) -> None:
    run = Resumed(tmp_path, Forgetful, EPOCH)
    assert "layer.bias is trained, and the checkpoint does not contain it" in "".join(run.reasons)


class Grown(Small):
    """A hook that runs only in a resumed run makes a layer of another size."""

    def on_train_start(self) -> None:
        if self.trainer.ckpt_path:
            self.layer = nn.Linear(4, 2, dtype=torch.float64).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step([batch[0].to(self.layer.weight.dtype), batch[1]], batch_idx).requires_grad_()


def test_what_cannot_be_put_back_is_announced(tmp_path: Path) -> None:
    run = Resumed(tmp_path, Grown, EPOCH)
    assert "layer.weight has the type torch.float32 in the checkpoint and torch.float64" in "".join(run.reasons)


class WaitingGradients(Small):
    """Manual optimization that steps every fourth batch of the run, with six batches in an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.register_buffer("n", torch.zeros((), dtype=torch.long))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(super().training_step(batch, batch_idx) / 4)
        self.n += 1
        if int(self.n) % 4 == 0:
            self.optimizers().step()
            self.optimizers().zero_grad()


class RarelyCleared(Small):
    """Automatic optimization that clears gradients only in every second step."""

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        if self.global_step % 2 == 0 and self.global_step != 6:
            optimizer.zero_grad()


@pytest.mark.parametrize("make", [WaitingGradients, RarelyCleared])
def test_gradients_that_wait_over_the_end_of_an_epoch_are_restored(tmp_path: Path, make: Any) -> None:
    assert Resumed(tmp_path, make, EPOCH, at=0).equal


def test_a_state_is_set_only_where_its_type_was_changed() -> None:
    layer = nn.Linear(2, 1, dtype=torch.bfloat16)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    saved = {"state": {0: {"a": torch.tensor([[0.1, 0.2]]), "b": 3}}, "param_groups": [{"params": [0, 1], "lr": 0.1}]}
    optimizer.load_state_dict(saved)
    assert optimizer.state[layer.weight]["a"].dtype == torch.bfloat16
    load_optimizer_states([optimizer], [saved])
    assert torch.equal(optimizer.state[layer.weight]["a"], saved["state"][0]["a"])
    assert optimizer.state[layer.weight]["b"] == 3


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (torch.tensor(float("nan")), torch.tensor(float("nan")), True),
        (torch.tensor(0.0), torch.tensor(-0.0), False),
        ({"a": [1, (2.0, "b")]}, {"a": [1, (2.0, "b")]}, True),
        ({"a": [1]}, {"a": [True]}, False),
        (object, object, False),
    ],
)
def test_values_are_same_only_if_this_is_known(one: Any, other: Any, equal: bool) -> None:
    assert same(one, other) is equal


def test_a_run_that_is_not_resumed_keeps_what_its_hooks_set(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    from lightning_dtool import DtoolProvenanceCallback

    module = ResetAtStart()
    trainer(tmp_path, DtoolProvenanceCallback(str(tmp_path / "models")), max_epochs=1).fit(module, vectors())
    assert module.seen == 6
