"""The recorded model: its parts and size, and the origin of its initial weights."""

import types
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

import programs
from counting import counted
from kit import TinyNet
from lightning_dtool.capture.model import MAX_ARCHITECTURE, capture_initial_weights, capture_model
from lightning_dtool.record import DatasetReference, Gaps
from lightning_dtool.values.digests import state_digest
from zoo import ZOO

PARENT = DatasetReference(uri="file:///x", uuid="u", name="n", content_digest="sha256:0")


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


# -- initial weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ZOO))
def test_weights_initialised_by_the_script_are_recorded_as_such(name: str) -> None:
    module, _ = ZOO[name]()
    gaps = Gaps()
    versions = {key: value._version for key, value in module.state_dict().items()}
    random = torch.get_rng_state()
    found = capture_initial_weights(module, None, gaps)
    assert (found.origin, found.names, found.checkpoint, list(gaps)) == ("initialised", [], None, [])
    assert found.digest == state_digest(module.state_dict())
    assert {key: value._version for key, value in module.state_dict().items()} == versions
    assert torch.equal(torch.get_rng_state(), random)


def test_weights_loaded_from_a_checkpoint_are_recorded_as_such() -> None:
    found = capture_initial_weights(TinyNet(), PARENT, Gaps())
    assert (found.origin, found.checkpoint) == ("checkpoint", PARENT)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


class Vision(L.LightningModule):
    """A backbone of torchvision with a user-defined head."""

    def __init__(self, weights: Any = None, **options: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        from torchvision.models import squeezenet1_1

        self.backbone = squeezenet1_1(num_classes=3)


def test_pretrained_weights_named_by_hyperparameters_are_recorded() -> None:
    SqueezeNet1_1_Weights = pytest.importorskip("torchvision.models").SqueezeNet1_1_Weights

    for chosen in (SqueezeNet1_1_Weights.DEFAULT, "SqueezeNet1_1_Weights.IMAGENET1K_V1", [{"a": SqueezeNet1_1_Weights.DEFAULT}]):  # noqa: E501  # fmt: skip
        found = capture_initial_weights(Vision(chosen), None, Gaps())
        assert (found.origin, found.names) == ("pretrained", ["SqueezeNet1_1_Weights.IMAGENET1K_V1"])


def test_downloaded_weights_are_recognised_by_their_content(hub: Path) -> None:
    SqueezeNet1_1_Weights = pytest.importorskip("torchvision.models").SqueezeNet1_1_Weights

    module, gaps = Vision(), Gaps()
    assert capture_initial_weights(module, None, gaps).origin == "initialised"
    file = hub / Path(SqueezeNet1_1_Weights.DEFAULT.url).name
    torch.save(Vision().backbone.state_dict(), file)
    assert capture_initial_weights(module, None, gaps).origin == "initialised"  # the file holds other weights
    torch.save({**module.backbone.state_dict(), "classifier.1.weight": torch.ones(7)}, file)
    found = capture_initial_weights(module, None, gaps)
    assert (found.origin, found.names) == ("pretrained", ["SqueezeNet1_1_Weights.IMAGENET1K_V1"])
    assert not gaps
    torch.save(module.backbone.state_dict(), file, _use_new_zipfile_serialization=False)
    assert capture_initial_weights(module, None, gaps).origin == "initialised"
    assert [gap.fact for gap in gaps] == ["model.initial_weights.backbone"]
    file.write_bytes(b"PK")
    gaps = Gaps()
    assert capture_initial_weights(module, None, gaps).names == []
    assert len(gaps) == 1


def _foreign(module: str, name: str = "Net") -> type[nn.Module]:
    return type(name, (nn.Sequential,), {"__module__": module})


def test_incomplete_information_on_pretrained_weights_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    # These stand-ins look like the modules of both libraries, which need not be installed.
    class Holder(L.LightningModule):
        def __init__(self, net: nn.Module, **hparams: Any) -> None:
            super().__init__()
            self.save_hyperparameters(hparams)
            self.net = net

    timm = _foreign("timm.models.vision_transformer")(nn.Linear(2, 2))
    timm.pretrained_cfg = {"architecture": "vit_tiny", "tag": "augreg"}  # type: ignore[assignment]
    gaps = Gaps()
    assert capture_initial_weights(Holder(timm), None, gaps).names == []
    assert "vit_tiny.augreg" in gaps[0].reason
    assert capture_initial_weights(Holder(timm, pretrained=False), None, Gaps()).origin == "initialised"

    gaps = Gaps()
    bert = _foreign("transformers.models.bert")(_foreign("transformers.models.bert", "Layer")())
    bert.config = types.SimpleNamespace(_name_or_path="bert-base-uncased")  # type: ignore[assignment]
    found = capture_initial_weights(Holder(bert), None, gaps)
    assert (found.origin, found.names) == ("pretrained", ["bert-base-uncased"])
    assert [gap.fact for gap in gaps] == ["model.initial_weights.net"]


def test_a_state_without_a_digest_is_a_gap() -> None:
    class Strange(TinyNet):
        def __init__(self, broken: bool) -> None:
            super().__init__()
            self.broken = broken

        def get_extra_state(self) -> Any:
            if self.broken:
                raise RuntimeError("no")
            return {"when": weakref.ref(type(self))}

        def set_extra_state(self, state: Any) -> None:
            pass

    gaps = Gaps()
    assert (capture_initial_weights(Strange(False), None, gaps).digest or "").startswith("sha256:")
    assert [gap.fact for gap in gaps] == ["model.initial_weights.digest._extra_state"]
    gaps = Gaps()
    assert capture_initial_weights(Strange(True), None, gaps).digest is None
    assert [gap.fact for gap in gaps] == ["model.initial_weights.digest"]


def test_recording_initial_weights_does_not_import_torchvision() -> None:
    program = (
        "import sys\nfrom kit import TinyNet\nfrom lightning_dtool.capture.model import capture_initial_weights\n"
        "from lightning_dtool.record import Gaps\n"
        "known = set(sys.modules)\ncapture_initial_weights(TinyNet(), None, Gaps())\n"
        "assert not [name for name in set(sys.modules) - known if name.startswith('torchvision')]"
    )
    programs.run("-c", program, cwd=Path(__file__).parents[1])


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
