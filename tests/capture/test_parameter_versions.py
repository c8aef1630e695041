"""Changes of parameters that are seen without reading them."""

from collections.abc import Callable

import pytest
import torch

from kit import TinyNet
from lightning_dtool.capture.parameter_versions import changed_parameters, may_be_replaced, note_versions


def in_place(module: TinyNet) -> None:
    with torch.no_grad():
        module.layers[0].bias.zero_()


def by_assignment(module: TinyNet) -> None:
    module.layers[0].bias = torch.nn.Parameter(torch.zeros_like(module.layers[0].bias))


def by_loading(module: TinyNet) -> None:
    module.load_state_dict(module.state_dict())


@pytest.mark.parametrize("change", [in_place, by_assignment, by_loading])
def test_a_change_after_the_beginning_is_seen(change: Callable[[TinyNet], None]) -> None:
    module = TinyNet()
    change(module)
    note_versions(module)
    assert not may_be_replaced(module)
    assert changed_parameters(module) == frozenset()
    change(module)
    assert may_be_replaced(module)
    assert "layers.0.bias" in changed_parameters(module)


def test_nothing_is_claimed_of_a_module_whose_beginning_was_not_seen() -> None:
    module = TinyNet()
    assert may_be_replaced(module)
    assert changed_parameters(module) == {name for name, _ in module.named_parameters()}
