"""Weights and buffers that change and that a checkpoint does not contain are named."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_dtool.resuming.weights_moved import marks, moved_and_not_saved


def made() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2).requires_grad_(False))


def in_place(module: nn.Sequential) -> None:
    module[2].weight.mul_(2)


def through_data(module: nn.Sequential) -> None:
    module[2].weight.data[1] += 1


def with_other_memory(module: nn.Sequential) -> None:
    module[2].weight.data = module[2].weight.data + 1


def replaced(module: nn.Sequential) -> None:
    module[2].weight = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


@pytest.mark.parametrize("change", [in_place, through_data, with_other_memory, replaced])
def test_frozen_weights_that_change_are_named(change: Callable[[nn.Sequential], None]) -> None:
    module = made()
    before = marks(module)
    change(module)
    saved = {name: value for name, value in module.state_dict().items() if not name.startswith("2.")}
    (reason,) = moved_and_not_saved(before, module, {"state_dict": saved})
    assert reason == "training has changed 2.weight, which the checkpoint does not contain"
    assert moved_and_not_saved(before, module, {"state_dict": module.state_dict()}) == []


def test_buffers_that_change_are_counted() -> None:
    module = made()
    before = marks(module)
    module(torch.randn(4, 2))
    saved = {name: value for name, value in module.state_dict().items() if not name.startswith("1.")}
    (reason,) = moved_and_not_saved(before, module, {"state_dict": saved})
    assert "1.running_mean and 2 more" in reason


def test_weights_that_do_not_change_or_have_other_names_give_no_reason() -> None:
    module = made()
    before = marks(module)
    assert moved_and_not_saved(before, module, {"state_dict": {"0.weight": module[0].weight}}) == []
    in_place(module)
    renamed = {f"net.{name}": value for name, value in module.state_dict().items()}
    assert moved_and_not_saved(before, module, {"state_dict": renamed}) == []
    assert moved_and_not_saved(before, module, {"state_dict": {}}) == []  # another rank writes
    assert moved_and_not_saved(before, module, {"state_dict": {"x": 1}, "current_model_state": renamed}) == []
