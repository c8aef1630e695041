"""The recorded model: its parts and size."""

import lightning as L
import pytest
import torch
from torch import nn

from counting import counted
from kit import TinyNet
from lightning_dtool.capture.model import MAX_ARCHITECTURE, capture_model
from lightning_dtool.record import Gaps


class Tied(L.LightningModule):
    """Two children with the same weight, one frozen, one lazy, one without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.again = self.first
        self.frozen = nn.Sequential(nn.Linear(4, 2)).requires_grad_(False)
        self.nothing = nn.ReLU()
        self.scale = nn.Parameter(torch.ones(3))
        self.register_module("none", None)


def test_parts_and_sizes_are_recorded() -> None:
    gaps = Gaps()
    model = capture_model(Tied(), gaps)
    children = {child.name: (child.parameters_total, child.parameters_trainable) for child in model.children}
    assert children == {"first": (16, 16), "second": (20, 20), "again": (16, 16), "frozen": (10, 0), "nothing": (0, 0)}
    assert model.children[0].class_path == "torch.nn.modules.linear:Linear"
    assert (model.parameters_total, model.parameters_trainable) == (16 + 4 + 10 + 3, 16 + 4 + 3)
    assert model.frozen == ["frozen.0.weight", "frozen.0.bias"]
    assert "(frozen): Sequential(" in (model.architecture or "")
    assert (model.source or "").startswith("class Tied(L.LightningModule):")
    assert not gaps


def test_a_credential_in_the_source_is_not_recorded() -> None:
    class Logged(TinyNet):
        def __init__(self, api_key: str = "a1b2c3d4e5f6g7h8") -> None:
            super().__init__()

    gaps = Gaps()
    model = capture_model(Logged(), gaps)
    assert "a1b2c3d4" not in (model.source or "")  # (hyperparameters are redacted when the record is assembled)
    assert "class Logged(TinyNet):" in (model.source or "")
    assert "model.source" in [gap.fact for gap in gaps]


class Odd(nn.Module):
    def __repr__(self) -> str:
        return f"Odd({object()!r})"


class Broken(nn.Module):
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(("part", "known"), [(Odd(), True), (Broken(), False)])
def test_an_architecture_with_unusual_parts_is_recorded_or_a_gap(part: nn.Module, known: bool) -> None:
    module, gaps = TinyNet(), Gaps()
    module.odd = part
    architecture = capture_model(module, gaps).architecture
    assert (architecture is not None) == known
    if known:
        assert "Odd(<object object at 0x…>)" in (architecture or "")
    assert ([gap.fact for gap in gaps] == ["model.architecture"]) != known


def test_the_cost_of_recording_is_linear_in_the_parameters() -> None:
    module = L.LightningModule()
    module.many = nn.ParameterList(nn.Parameter(torch.zeros(1), requires_grad=False) for _ in range(100_000))
    module.layers = nn.ModuleList(nn.ReLU() for _ in range(5000))
    gaps = Gaps()
    model, calls = counted(capture_model, module, gaps)
    assert calls < 50 * 105_000
    assert model.parameters_total == 100_000
    assert len(model.frozen) == 1000
    assert 0 < len(model.architecture or "") <= MAX_ARCHITECTURE
    assert {"model.frozen", "model.architecture"} <= {gap.fact for gap in gaps}


def test_a_long_architecture_is_truncated() -> None:
    module = L.LightningModule()
    module.layers = nn.ModuleList(nn.Linear(1, index + 1) for index in range(2000))
    gaps = Gaps()
    assert len(capture_model(module, gaps).architecture or "") == MAX_ARCHITECTURE
    assert "model.architecture" in [gap.fact for gap in gaps]


def test_lazy_layers_and_a_missing_source_are_gaps() -> None:
    class Lazy(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.LazyLinear(3)

    gaps = Gaps()
    assert capture_model(Lazy(), gaps).parameters_total == 0
    nowhere = type("Nowhere", (L.LightningModule,), {"__module__": "nowhere"})
    assert capture_model(nowhere(), gaps).source_sha256 is None
    assert [gap.fact for gap in gaps] == ["model.parameters_total", "model.source_sha256"]
