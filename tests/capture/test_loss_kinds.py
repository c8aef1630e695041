"""Losses are recognised by what they do, whatever their names: modules, functions and plain operations."""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchmetrics import MeanSquaredError
from torchmetrics.functional import pairwise_cosine_similarity
from torchvision.ops import sigmoid_focal_loss

from capture.test_loss import fit, names, observe
from kit import same, weights
from lightning_dtool.record import Loss
from lightning_dtool.results.checklist import Status, check
from record.samples import record
from watching import LossWatch
from zoo import Exhibited

SMOOTHING = 0.3721
SETTINGS = argparse.Namespace(scale=0.771)


class Smoothed(nn.Module):
    """A cross entropy with smooth labels, such as that of timm."""

    def __init__(self, smoothing: float) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logs = torch.log_softmax(x, dim=-1)
        nll = -logs.gather(dim=-1, index=target.unsqueeze(1)).squeeze(1)
        return ((1 - self.smoothing) * nll - self.smoothing * logs.mean(dim=-1)).mean()


class Dice(nn.Module):
    def __init__(self, eps: float = 0.25, reduce: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.reduce = reduce

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        p, one_hot = x.softmax(-1), functional.one_hot(target, 3)
        each = 1 - (2 * (p * one_hot).sum(-1) + self.eps) / (p.sum(-1) + one_hot.sum(-1) + self.eps)
        return each.mean() if self.reduce else each


class Combined(nn.Module):
    """A loss of two losses, of which one is a module without the name of a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.dice = Dice(0.125)
        self.share = 0.75

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.share * self.dice(x, target) + functional.cross_entropy(x, target, label_smoothing=0.1)


class Margin(nn.Module):
    """A loss with centres that it learns, which also returns the logits."""

    def __init__(self, margin: float, logits: bool) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.eye(3))
        self.margin = margin
        self.logits = logits

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> Any:
        logits = functional.normalize(x) @ functional.normalize(self.centres) - self.margin
        loss = functional.cross_entropy(logits, target)
        return (loss, logits) if self.logits else loss


class Regulariser(nn.Module):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x.abs().mean()


class Network(nn.Module):
    """A network that returns its logits and the loss, such as those of transformers."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)
        self.by_hand = by_hand

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layer(x)
        by_hand = -logits.log_softmax(-1).gather(1, labels[:, None]).mean()
        return {"loss": by_hand if self.by_hand else functional.cross_entropy(logits, labels), "logits": logits}


class Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(1.0))

    def forward(self) -> torch.Tensor:
        return self.value.exp()


class Masked(nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x * mask


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * condition[:, None]


class Objective:
    """A loss that is no module."""

    def __init__(self, power: float) -> None:
        self.power = power

    def __call__(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((x - functional.one_hot(target, 3)).abs() ** self.power).mean()


def dice_loss(pred: torch.Tensor, y: torch.Tensor, smooth: float = 0.5) -> torch.Tensor:
    p, one_hot = pred.softmax(-1), functional.one_hot(y, 3)
    return 1 - SMOOTHING * (2 * (p * one_hot).sum() + smooth) / (p.sum() + one_hot.sum() + smooth)


def charbonnier(pred: torch.Tensor, y: torch.Tensor, eps: float = 0.01) -> torch.Tensor:
    return torch.sqrt((pred - functional.one_hot(y, 3)) ** 2 + eps)


def scaled(pred: torch.Tensor, y: torch.Tensor, scale: float) -> torch.Tensor:
    total = torch.zeros(())
    for index in range(3):  # the code of this loop runs three times in one call
        total = total + (scale * pred[:, index]).pow(2).mean()
    return total


def whole_step(net: nn.Module, batch: Any, known: bool) -> torch.Tensor:
    x, y = batch
    pred = net(x)
    if known:
        return functional.cross_entropy(pred, y)
    return -pred.log_softmax(-1).gather(1, y[:, None]).mean()


def squared(x: torch.Tensor, factor: float = 0.625) -> torch.Tensor:
    return factor * SMOOTHING * x**2


class Model(Exhibited):
    """A model with 8 inputs and 3 outputs, and whatever its training step needs."""

    def __init__(self, **modules: Any) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1), nn.Linear(8, 3))
        for name, module in modules.items():
            setattr(self, name, module)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def stepping(step: Callable[..., torch.Tensor], **modules: Any) -> Model:
    """Return a model whose `training_step` is a function of this file."""
    return type("Stepping", (Model,), {"training_step": step, "__module__": __name__})(**modules)


def only(loss: Loss) -> Any:
    (call,) = loss.calls
    return call


# -- modules ----------------------------------------------------------------------------------------------


def one_criterion(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    x, y = batch
    return self.criterion(self.net(x), target=y)


def in_a_list(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    x, y = batch
    return 0.5 * self.criteria[0](self.net(x), y) + 0.25


def made_on_the_fly(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    x, y = batch
    return Smoothed(SMOOTHING)(self.net(x), y)


@pytest.mark.parametrize(
    ("step", "modules", "attribute"),
    [
        (one_criterion, {"criterion": Smoothed(SMOOTHING)}, "criterion"),
        (in_a_list, {"criteria": [Smoothed(SMOOTHING)]}, None),
        (made_on_the_fly, {}, None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_loss_module_is_recorded_whatever_its_name_and_wherever_it_is(
    tmp_path: Path, step: Any, modules: Any, attribute: str | None
) -> None:
    watch = observe(tmp_path, stepping(step, **modules))
    call = only(watch.loss)
    assert (call.name.rpartition(":")[2], call.kind, call.attribute) == ("Smoothed", "module", attribute)
    assert call.arguments == {"smoothing": 0.3721}
    assert not watch.gaps


def test_what_a_loss_module_computes_belongs_to_it(tmp_path: Path) -> None:
    call = only(observe(tmp_path, stepping(one_criterion, criterion=Combined())).loss)
    assert (call.attribute, call.arguments["share"]) == ("criterion", 0.75)
    assert [inner["name"].rpartition(":")[2] for inner in call.arguments["computes"]] == ["Dice", "cross_entropy"]
    assert call.arguments["computes"][0]["arguments"]["eps"] == 0.125
    assert call.arguments["computes"][1]["arguments"]["label_smoothing"] == 0.1


def weighted(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    x, y = batch
    each = self.criterion(self.net(x), y)
    return (each * (y > 0)).sum() / len(y) + self.regulariser(self.net[0](x))


def test_a_loss_for_each_sample_and_a_regulariser_are_recorded(tmp_path: Path) -> None:
    model = stepping(weighted, criterion=Dice(reduce=False), regulariser=Regulariser(0.03))
    found = observe(tmp_path, model).loss
    assert names(found) == ["Dice", "Regulariser"]
    assert found.calls[1].arguments == {"weight": 0.03}


def with_centres(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    x, y = batch
    found = self.criterion(self.net(x), y)
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("logits", [False, True])
def test_a_loss_with_parameters_is_recorded(tmp_path: Path, logits: bool) -> None:
    call = only(observe(tmp_path, stepping(with_centres, criterion=Margin(0.2, logits))).loss)
    assert (call.name.rpartition(":")[2], call.arguments["margin"]) == ("Margin", 0.2)
    assert call.arguments["centres"]["shape"] == [3, 3]
    assert [inner["name"] for inner in call.arguments["computes"]] == ["torch.nn.functional:cross_entropy"]


def by_network(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    return self.network(*batch)["loss"]


@pytest.mark.parametrize(("by_hand", "expected"), [(False, "cross_entropy"), (True, "Network")])
def test_a_network_that_computes_a_loss_counts_only_if_the_loss_is_not_known(
    tmp_path: Path, by_hand: bool, expected: str
) -> None:
    assert names(observe(tmp_path, stepping(by_network, network=Network(by_hand))).loss) == [expected]


def by_hand(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    x, y = batch
    logits = self.masked(self.net(x), torch.ones(len(x), 3)) * self.temperature()
    return ((logits - functional.one_hot(y, 3)) ** 2).mean() - self.critic(logits, y).mean()


def test_networks_and_their_layers_are_no_losses(tmp_path: Path) -> None:
    model = stepping(by_hand, masked=Masked(), temperature=Temperature(), critic=Critic())
    watch = observe(tmp_path, model)
    assert names(watch.loss) == []
    assert "PowBackward0" in watch.loss.operations
    assert "** 2).mean() - self.critic" in (watch.loss.training_step or "")


def masked_output(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    x, y = batch
    logits = self.masked(self.net(x), torch.ones(len(x), 3))
    return functional.mse_loss(logits, functional.one_hot(y, 3).float())


def test_the_last_layer_is_not_called_a_loss(tmp_path: Path) -> None:
    assert names(observe(tmp_path, stepping(masked_output, masked=Masked())).loss) == ["mse_loss"]


# -- functions --------------------------------------------------------------------------------------------


def by_function(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    x, y = batch
    return 2 * dice_loss(self.net(x), y, smooth=0.125)


def test_a_function_of_the_user_is_recorded_with_arguments_source_and_constants(tmp_path: Path) -> None:
    watch = observe(tmp_path, stepping(by_function))
    call = only(watch.loss)
    assert (call.name, call.kind, call.attribute) == (f"{__name__}:dice_loss", "function", None)
    assert call.arguments["smooth"] == 0.125
    assert call.arguments["pred"] == {"type": "torch:Tensor", "dtype": "float32", "shape": [4, 3]}
    assert (call.source or "").startswith("def dice_loss(")
    assert call.constants == {"SMOOTHING": 0.3721}
    assert not watch.gaps


def by_library(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    x, y = batch
    return sigmoid_focal_loss(self.net(x), functional.one_hot(y, 3).float(), gamma=1.5).mean()


def test_a_function_of_a_library_is_recorded_with_its_defaults_and_without_its_source(tmp_path: Path) -> None:
    call = only(observe(tmp_path, stepping(by_library)).loss)
    assert call.name == "torchvision.ops.focal_loss:sigmoid_focal_loss"
    assert {name: call.arguments[name] for name in ("alpha", "gamma", "reduction")} == {
        "alpha": 0.25, "gamma": 1.5, "reduction": "none",
    }  # fmt: skip
    assert [inner["name"].partition(":")[2] for inner in call.arguments["computes"]] == [
        "binary_cross_entropy_with_logits"
    ]
    assert (call.source, call.constants) == (None, {})


def by_attribute(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    x, y = batch
    return self.loss_function(self.net(x), y).mean()


def enclosed(factor: float) -> Callable[..., torch.Tensor]:
    return lambda pred, y: factor * charbonnier(pred, y)


@pytest.mark.parametrize(
    ("function", "name", "settings"),
    [
        (functools.partial(dice_loss, smooth=0.375), "dice_loss", {"smooth": 0.375}),
        (charbonnier, "charbonnier", {"eps": 0.01}),
        (enclosed(0.875), "<lambda>", {"factor": 0.875}),
        (Objective(1.25), "__call__", {"power": 1.25}),
    ],
)
def test_a_function_is_recognised_however_it_is_held(
    tmp_path: Path, function: Any, name: str, settings: dict[str, float]
) -> None:
    call = only(observe(tmp_path, stepping(by_attribute, loss_function=function)).loss)
    assert call.name.endswith(name)
    assert {**call.arguments, **call.constants}.items() >= settings.items()


def in_a_loop(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    x, y = batch
    logits = self.net(x)
    return sum(scaled(logits, y, scale) for scale in (0.5, 2.0)) + sum([scaled(logits, y, s) for s in (0.5, 3.0)])


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that passes on all arguments but the first, as that of scvi-tools does."""

    @functools.wraps(function)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    return wrapper


class Evidence:
    """A loss that is a method and is given a batch and a distribution."""

    @checked
    def elbo(self, batch: Any, prior: Any, *more: Any, beta: float, weight: Any = None) -> torch.Tensor:
        mean = batch["mean"]
        likelihood = -prior.log_prob(batch["x"] - mean).mean()
        return likelihood + beta * mean.square().mean() + 0 * more[0][0].sum()


def by_objective(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    x, _ = batch
    given = {"x": torch.full((4, 3), 0.123456), "mean": self.net(x), "names": ["a", "b"]}
    prior = torch.distributions.Normal(torch.zeros(3), torch.full((3,), 2.5))
    return Evidence().elbo(given, prior, (torch.ones(2), 7), {"q": prior}, beta=0.375, weight=[torch.ones(5)])


def test_a_batch_that_a_loss_is_given_is_described_by_shape(tmp_path: Path) -> None:
    watch = observe(tmp_path, stepping(by_objective))
    call = only(watch.loss)
    assert call.name == f"{__name__}:Evidence.elbo"
    normal = {"type": "torch.distributions.normal:Normal"}
    assert call.arguments == {
        "batch": {"x": shape(4, 3), "mean": shape(4, 3), "names": ["a", "b"]},
        "prior": {**normal, "loc": shape(3), "scale": shape(3)},
        "more": [[shape(2), 7], {"q": {**normal, "loc": shape(3), "scale": shape(3)}}],
        "beta": 0.375,
        "weight": [shape(5)],
    }
    assert not watch.gaps


def a_metric(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    x, y = batch
    return self.error(self.net(x), functional.one_hot(y, 3).float())


def test_a_metric_as_a_loss_is_recorded_without_the_methods_of_its_base(tmp_path: Path) -> None:
    call = only(observe(tmp_path, stepping(a_metric, error=MeanSquaredError())).loss)
    assert (call.name, call.kind) == ("torchmetrics.regression.mse:MeanSquaredError", "metric")
    assert [inner["name"].partition(":")[2] for inner in call.arguments["computes"]] == ["MeanSquaredError.update"]


def shape(*sizes: int) -> dict[str, Any]:
    return {"type": "torch:Tensor", "dtype": "float32", "shape": list(sizes)}


def test_calls_of_a_function_with_other_arguments_are_recorded_each(tmp_path: Path) -> None:
    found = observe(tmp_path, stepping(in_a_loop)).loss
    assert [call.arguments["scale"] for call in found.calls] == [0.5, 2.0, 0.5, 3.0]


def by_whole_step(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    return whole_step(self.net, batch, self.known)


@pytest.mark.parametrize(("known", "expected"), [(True, "cross_entropy"), (False, "whole_step")])
def test_a_function_that_also_calls_the_network_counts_only_if_the_loss_is_not_known(
    tmp_path: Path, known: bool, expected: str
) -> None:
    assert names(observe(tmp_path, stepping(by_whole_step, known=known)).loss) == [expected]


def with_a_metric(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    x, y = batch
    return 1 - pairwise_cosine_similarity(self.net(x), functional.one_hot(y, 3).float(), reduction="mean").mean()


def test_a_function_of_torchmetrics_is_recorded(tmp_path: Path) -> None:
    call = only(observe(tmp_path, stepping(with_a_metric)).loss)
    assert call.name.endswith(":pairwise_cosine_similarity")
    assert call.arguments["reduction"] == "mean"


# -- plain operations ---------------------------------------------------------------------------------------


def by_operations(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    x, y = batch
    error = self.net(x) - functional.one_hot(y, 3)
    return self.weight * squared(error).mean() + SETTINGS.scale * error.abs().mean()


def test_the_constants_of_a_loss_by_hand_are_recorded(tmp_path: Path) -> None:
    watch = observe(tmp_path, stepping(by_operations, weight=0.6875, unused=3))
    assert watch.loss.calls == []
    assert {name: value for name, value in watch.loss.constants.items() if name != "SETTINGS"} == {
        "self.weight": 0.6875,
        "SMOOTHING": 0.3721,
        "squared.factor": 0.625,
    }
    assert watch.loss.constants["SETTINGS"]["value"] == {"scale": 0.771}
    assert not watch.gaps


class Box:
    def __init__(self) -> None:
        self._hidden = [object()]
        self.scale = 2.0

    def __repr__(self) -> str:
        return f"Box({torch.rand(1).item()})"


def with_a_box(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
    return self.box.scale * self.net(batch[0]).abs().mean()


def test_an_object_that_may_hold_a_constant_is_a_gap_and_fails_the_check(tmp_path: Path) -> None:
    watch = observe(tmp_path, stepping(with_a_box, box=Box()))
    assert [gap.fact for gap in watch.gaps] == ["loss.constants.self.box"]
    (finding,) = [found for found in check(record(loss=watch.loss, gaps=list(watch.gaps))) if found.key == "run.loss"]
    assert finding.status is Status.FAIL
    assert "loss.constants.self.box" in finding.found


# -- no effect on training ----------------------------------------------------------------------------------


class Drawing(Dice):
    """A loss with a setting whose repr draws a random number."""

    def __init__(self) -> None:
        super().__init__()
        self.box = Box()


@pytest.mark.parametrize(
    ("step", "modules"),
    [
        (one_criterion, lambda: {"criterion": Combined()}),
        (one_criterion, lambda: {"criterion": Drawing()}),
        (weighted, lambda: {"criterion": Dice(reduce=False), "regulariser": Regulariser(0.1)}),
        (with_centres, lambda: {"criterion": Margin(0.1, True)}),
        (by_network, lambda: {"network": Network(True)}),
        (by_library, dict),
        (by_attribute, lambda: {"loss_function": Objective(1.5)}),
        (in_a_loop, dict),
        (with_a_box, lambda: {"box": Box()}),
    ],
)
def test_weights_and_random_numbers_stay_bitwise_equal(tmp_path: Path, step: Any, modules: Any) -> None:
    def once(*callbacks: L.Callback) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        L.seed_everything(5, verbose=False)
        return weights(fit(tmp_path, stepping(step, **modules()), *callbacks)), torch.get_rng_state()

    (plain, stream), (watched, other) = once(), once(LossWatch())
    assert same(plain, watched)
    assert torch.equal(stream, other)
