"""Values that determine what a model does, beside its source, its arguments and its weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kit import TinyNet
from lightning_dtool.capture.model_settings import capture_settings
from lightning_dtool.record import Gaps

ALPHA: Any = 0


def scaled(x: Any) -> Any:
    return x * ALPHA


class Head(torch.nn.Module):
    gamma = 0

    def __init__(self) -> None:
        super().__init__()
        self.scale: Any = [0]
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: Any, shift: int = 0) -> Any:
        return scaled(x) * self.gamma + shift


class Net(TinyNet):
    beta = 0

    def __init__(self) -> None:
        super().__init__()
        self.head = Head()
        self.seen = 0


def set_variable(net: Net, value: int, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(globals(), "ALPHA", value)


def set_class_attribute(net: Net, value: int, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Net, "beta", value)


def set_class_attribute_of_a_part(net: Net, value: int, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Head, "gamma", value)


def set_default(net: Net, value: int, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Head.forward, "__defaults__", (value,))


def set_attribute_of_a_part(net: Net, value: int, patch: pytest.MonkeyPatch) -> None:
    net.head.scale = [value]


def add_hook(net: Net, value: int, patch: pytest.MonkeyPatch) -> None:
    net.layers[0].register_forward_hook(lambda module, inputs, output: output * value)


def replace_method(net: Net, value: int, patch: pytest.MonkeyPatch) -> None:
    net.layers[0].forward = lambda x: x * value


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (set_variable, "ALPHA"),
        (set_class_attribute, "Net.beta"),
        (set_class_attribute_of_a_part, "Head.gamma"),
        (set_default, "forward.shift"),
        (set_attribute_of_a_part, "head.scale"),
        (add_hook, "layers.0.forward_hooks"),
        (replace_method, "layers.0.forward"),
    ],
)
def test_another_value_that_the_code_of_a_model_uses_is_recorded(
    change: Callable[..., None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, gaps = [], Gaps()
    for value in (3, 3, 4):
        net = Net()
        change(net, value, monkeypatch)
        found.append(capture_settings(net, gaps))
    assert found[0] == found[1]
    assert {key for key in found[0] if found[0][key] != found[2][key]} == {name}
    assert not gaps


def test_the_state_of_a_model_is_no_setting() -> None:
    net = Net()
    before = capture_settings(net, Gaps())
    net.seen = 1
    net.head.weight.data += 1
    assert capture_settings(net, Gaps()) == before


def test_a_model_of_a_library_has_no_settings() -> None:
    assert capture_settings(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()), Gaps()) == {}


def test_credentials_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Net, "api_key", "AKIAABCDEFGHIJKLMNOP", raising=False)
    assert "AKIA" not in str(capture_settings(Net(), Gaps()))
