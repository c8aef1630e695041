"""Modules from checkpoints: the errors say what to pass, each remedy works, and nothing runs without trust."""

import argparse
import collections
import contextlib
import enum
import functools
import importlib
import json
import os
import pickle
import sys
import textwrap
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import pydantic
import pytest
import torch

import programs
from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.errors import (
    ConfigurationError,
    LightningDtoolError,
    MixedNamespaceError,
    ModuleLoadError,
    ProvenanceWarning,
    UnsafeCheckpointError,
)
from lightning_dtool.items import CHECKPOINT_ITEM, RECORD_ITEM
from lightning_dtool.store import DatasetWriter


def saved(folder: Path, module: L.LightningModule, *callbacks: L.Callback) -> DtoolCheckpoint:
    """Train for an epoch, and return the checkpoint."""
    base = folder / "models"
    base.mkdir(exist_ok=True)
    provenance = DtoolProvenanceCallback(str(base))
    trainer(folder, provenance, *callbacks, max_epochs=1).fit(module, loader())
    return DtoolCheckpoint.from_uri(provenance.last_uri)


class Plain(L.LightningModule):
    """A model that saves no hyperparameters."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(8, 3)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


def with_file(original: DtoolCheckpoint, path: Path, **parts: Any) -> DtoolCheckpoint:
    """Return a checkpoint with the record of another one and a file of its own, as a forger could publish it.

    Each of `parts` replaces some entries of a section of the record.
    """
    record = json.loads(original.item_path(RECORD_ITEM).read_bytes())
    for section, entries in parts.items():
        record[section] = {**record[section], **entries}
    with DatasetWriter(f"forged-{uuid.uuid4().hex}", str(path.parent)) as writer:
        writer.put_file(path, CHECKPOINT_ITEM)
        writer.put_bytes(json.dumps(record).encode(), RECORD_ITEM)
        return DtoolCheckpoint.from_uri(writer.commit().uri)


pytestmark = pytest.mark.filterwarnings("ignore:Attribute '.*' is an instance of `nn.Module`")


# -- the constructor --------------------------------------------------------------------------------


class Encoded(Plain):
    """A model that is given two of its parts."""

    def __init__(self, encoder: torch.nn.Module, decoder: torch.nn.Module, /, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["encoder", "decoder"])
        self.encoder, self.decoder = encoder, decoder


def test_missing_arguments_are_named_and_can_be_passed(tmp_path: Path) -> None:
    model = Encoded(torch.nn.Linear(2, 2), torch.nn.Linear(3, 3))
    checkpoint = saved(tmp_path, model)
    with pytest.raises(ModuleLoadError, match=r"load_module\(encoder=\.\.\., decoder=\.\.\.\)") as caught:
        checkpoint.load_module()
    assert caught.value.uri == checkpoint.uri
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(ModuleLoadError, match=r"argument decoder of its constructor.*load_module\(decoder=\.\.\.\)"):
        checkpoint.load_module(encoder=torch.nn.Linear(2, 2))
    loaded = checkpoint.load_module(encoder=torch.nn.Linear(2, 2), decoder=torch.nn.Linear(3, 3))
    assert same(weights(loaded), weights(model))


class Settings(pydantic.BaseModel):
    """A configuration that is validated."""

    width: int


class Validated(Plain):
    """A model that validates its configuration."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, Settings(**config).width)


def test_an_error_of_the_constructor_says_what_it_was_called_with(tmp_path: Path, monkeypatch) -> None:
    checkpoint = saved(tmp_path, Validated({"width": 3}))
    with pytest.raises(
        ModuleLoadError, match=r"constructor of Validated failed: ValidationError: .*width.*config"
    ) as it:
        checkpoint.load_module(config={"width": "wide"})
    assert isinstance(it.value.__cause__, pydantic.ValidationError)
    assert "\n" not in str(it.value)
    assert checkpoint.load_module().layer.out_features == 3

    def leave(*_: Any) -> None:
        sys.exit(2)

    monkeypatch.setattr(Validated, "__init__", leave)
    with pytest.raises(ModuleLoadError, match="SystemExit: 2"):
        checkpoint.load_module()


def test_an_error_of_this_package_stays_as_it_is(tmp_path: Path, monkeypatch) -> None:
    def fail(self: Any, **_: Any) -> None:
        raise ConfigurationError("as it is")

    checkpoint = saved(tmp_path, TinyNet())
    for name in ("__init__", "on_load_checkpoint", "load_state_dict"):
        with monkeypatch.context() as patch:
            patch.setattr(TinyNet, name, lambda self, *a, **k: fail(self))
            with pytest.raises(ConfigurationError, match="as it is"):
                checkpoint.load_module()


def test_an_argument_that_the_constructor_does_not_take_is_an_error(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, TinyNet())
    with pytest.raises(
        ModuleLoadError, match="TinyNet has no argument hiden; its constructor takes lr, hidden, dropout"
    ):
        checkpoint.load_module(hiden=3)


class Keywords(Plain):
    """A model that takes any keyword."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, settings["width"])


class OneMapping(Plain):
    """A model that takes all hyperparameters in one mapping."""

    def __init__(self, hparams: Any) -> None:
        super().__init__()
        self.save_hyperparameters(hparams)
        self.layer = torch.nn.Linear(2, self.hparams["width"])


class Namespaced(Plain):
    """A model that takes the parsed command line."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, args.width)


@pytest.mark.parametrize(
    "model",
    [
        lambda: Keywords(width=3, other=1),
        lambda: OneMapping({"width": 3, "lr": 0.1}),
        lambda: OneMapping(argparse.Namespace(width=3, lr=0.1)),
        lambda: Namespaced(argparse.Namespace(width=3), Path("a/b")),
    ],
)
def test_hyperparameters_are_passed_as_lightning_passes_them(tmp_path: Path, model: Any) -> None:
    module = model()
    checkpoint = saved(tmp_path, module)
    loaded = checkpoint.load_module()
    again = type(module).load_from_checkpoint(checkpoint.path, weights_only=False)
    assert loaded.layer.out_features == again.layer.out_features == 3
    assert loaded.hparams == again.hparams
    assert same(weights(loaded), weights(module))
    if isinstance(module, OneMapping):
        with pytest.raises(ModuleLoadError, match="of another shape: layer"):
            checkpoint.load_module(width=4)


class OneNamespace(Plain):
    """A model that reads the attributes of the parsed command line, which Lightning saves as a mapping."""

    def __init__(self, hparams: argparse.Namespace) -> None:
        super().__init__()
        self.save_hyperparameters(hparams)
        self.layer = torch.nn.Linear(2, hparams.width)


def test_a_namespace_that_was_saved_as_a_mapping_is_a_namespace_again(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, OneNamespace(argparse.Namespace(width=3, lr=0.1)))
    assert checkpoint.load_module().hparams == {"width": 3, "lr": 0.1}
    with pytest.raises(ModuleLoadError, match="of another shape: layer"):
        checkpoint.load_module(width=4)


def test_a_function_that_a_checkpoint_names_does_not_make_the_module(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, Keywords(width=3))
    state = checkpoint.load()
    for extra, words in (
        ({"_instantiator": "os.system"}, "names 'os.system' as the function"),
        ({"_instantiator": "lightning.pytorch.cli.instantiate_module", "_class_path": "os.system"}, "'os.system'"),
    ):
        torch.save({**state, "hyper_parameters": {**state["hyper_parameters"], **extra}}, tmp_path / "x.ckpt")
        with pytest.raises(ModuleLoadError, match=words):
            with_file(checkpoint, tmp_path / "x.ckpt").load_module()
    torch.save({**state, "hyper_parameters": {1: 2, (1,): 3}}, tmp_path / "x.ckpt")
    with pytest.raises(ModuleLoadError, match="called with width, 1, "):
        with_file(checkpoint, tmp_path / "x.ckpt").load_module()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jsonargparse, about Lightning
def test_a_module_of_lightning_cli_is_made_as_the_cli_made_it(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, TinyNet(hidden=7))
    state = checkpoint.load()
    by_cli = {"_instantiator": "lightning.pytorch.cli.instantiate_module", "lr": 0.5, "hidden": 7, "dropout": 0.0}
    torch.save({**state, "hyper_parameters": by_cli}, tmp_path / "x.ckpt")
    assert with_file(checkpoint, tmp_path / "x.ckpt").load_module().hparams["lr"] == 0.5


class WithParts(TinyNet):
    """A model with a part that LightningCLI builds."""

    def __init__(
        self,
        part: torch.nn.Module | None = None,
        act: Callable[..., Any] | None = None,
        name: str = "",
        rate: float | Callable[..., Any] = 0.0,
        **more: Any,
    ) -> None:
        super().__init__()
        self.part = part
        self.act = act


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jsonargparse, about Lightning
def test_what_hyperparameters_of_lightning_cli_name_is_imported_only_with_trust(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "side_effect.py").write_text(
        "from pathlib import Path\nimport torch\nPath(__file__).with_suffix('.ran').touch()\n"
        "class Part(torch.nn.Module): ...\ndef act(x): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    checkpoint = saved(tmp_path, WithParts())
    state = checkpoint.load()
    part = {"class_path": "side_effect.Part"}

    def with_arguments(record: dict[str, Any] = BY_CLI, **arguments: Any) -> DtoolCheckpoint:
        torch.save({**state, "hyper_parameters": {**INSTANTIATOR, **arguments}}, tmp_path / "x.ckpt")
        return with_file(checkpoint, tmp_path / "x.ckpt", **record)

    for arguments, where in (
        ({"part": part}, r"part \(side_effect\.Part\)\. Pass the objects: load_module\(part=\.\.\.\)"),
        ({"act": "side_effect.act"}, r"act \(side_effect\.act\)"),
        ({"more": [{"deep": part}]}, r"more\[0\]\.deep \(side_effect\.Part\)"),
        (
            {"part": {"class_path": "torch.nn.Sequential", "init_args": {"args": [part]}}},
            r"part \(torch\.nn\.Sequential\)",
        ),
        ({"act": "os.system"}, r"act \(os\.system\)"),
        ({"act": "torch.nn.modules.module.torch.os.system"}, r"act \(torch"),
        ({"act": "torch.nn.functional.relu"}, r"act \(torch"),
        ({"part": '{"class_path": "side_effect.Part"}'}, r"part \({"),
        ({"part": "class_path: side_effect.Part"}, r"part \(class_path"),
        ({"part": str(tmp_path / "part.yaml")}, r"part \("),
        ({"part": "Identity"}, r"part \(Identity"),
        ({"rate": {"class_path": "side_effect.Part"}}, r"rate \(side_effect"),
        ({"rate": "side_effect.act"}, r"rate \(side_effect"),
    ):
        forged = with_arguments(**arguments)
        for cls in (WithParts, PassesOnParts):
            with pytest.raises(UnsafeCheckpointError, match=where) as caught:
                forged.load_module(cls)
            assert "load_module(trust_source=True)" in str(caught.value)
            assert caught.value.uri == forged.uri
    assert not (tmp_path / "side_effect.ran").exists()

    (tmp_path / "part.yaml").write_text("class_path: side_effect.Part\n")
    mine = torch.nn.Identity()
    assert with_arguments(part=part).load_module(part=mine).part is mine
    # LightningCLI makes a module only if the record says that it did, however much the checkpoint is trusted.
    with pytest.raises(UnsafeCheckpointError, match=r"part \(side_effect\.Part\)"):
        with_arguments({}, part=part).load_module(trust_source=True)
    assert not (tmp_path / "side_effect.ran").exists()
    assert type(with_arguments(part=part).load_module(trust_source=True).part).__name__ == "Part"
    assert (tmp_path / "side_effect.ran").exists()


INSTANTIATOR = {"_instantiator": "lightning.pytorch.cli.instantiate_module"}

BY_CLI = {"trainer": {"config": {"kind": "LightningCLI", "file": "config.yaml"}}}
"""What the record of a module says that LightningCLI made."""


@pytest.mark.parametrize("place", ["hparams", "module_arguments", "record", "override"])
def test_no_other_way_leads_to_what_lightning_cli_calls(tmp_path: Path, monkeypatch, place: str) -> None:
    (tmp_path / "side_effect.py").write_text("from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    checkpoint = saved(tmp_path, WithParts())
    hostile = {**INSTANTIATOR, "act": "side_effect.act"}
    state, record, passed = checkpoint.load(), {}, {}
    if place == "record":
        record = {"model": {"arguments": hostile}}
    elif place == "override":
        state["hyper_parameters"], passed = {"act": "side_effect.act"}, INSTANTIATOR
    else:
        state[place] = hostile
    torch.save(state, tmp_path / "x.ckpt")
    forged = with_file(checkpoint, tmp_path / "x.ckpt", **record, **BY_CLI)
    for cls in (WithParts, PassesOnParts):
        with contextlib.suppress(UnsafeCheckpointError):
            assert forged.load_module(cls, **passed).act in (None, "side_effect.act")
    assert not (tmp_path / "side_effect.ran").exists()


class Colour(enum.Enum):
    """A choice."""

    RED = 1


class Converted(TinyNet):
    """A model whose arguments LightningCLI converts."""

    def __init__(
        self,
        folder: Path,
        sizes: tuple[int, ...] = (),
        colour: Colour | None = None,
        rate: float | str = 0.0,
        table: dict[str, list[float]] | None = None,
        mode: Literal["a", "b"] = "a",
        untyped=None,
        act: Callable[..., Any] | str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.given = (folder, sizes, colour, rate, table, mode, untyped, act)


def test_plain_values_of_lightning_cli_are_what_their_annotations_say(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, TinyNet(hidden=7))
    values = {"folder": "a/b", "sizes": [1, 2], "colour": "RED", "rate": 1, "table": {"x": [1]}, "mode": "b",
              "untyped": [{"y": "os.path"}], "act": "relu", "hidden": 7}  # fmt: skip
    state = {**checkpoint.load(), "hyper_parameters": {**INSTANTIATOR, **values}}
    torch.save(state, tmp_path / "x.ckpt")
    loaded = with_file(checkpoint, tmp_path / "x.ckpt").load_module(Converted)
    assert loaded.given == (Path("a/b"), (1, 2), Colour.RED, 1.0, {"x": [1.0]}, "b", [{"y": "os.path"}], "relu")
    assert [type(loaded.given[3]), type(loaded.given[4]["x"][0])] == [float, float]
    for name, value in (
        ("folder", 1),
        ("sizes", ["a"]),
        ("colour", "GREEN"),
        ("mode", "c"),
        ("act", "os.system"),
        ("table", {"x": {"class_path": "os.system"}}),
        ("untyped", {"deep": [{"class_path": "os.system"}]}),
        ("hidden", "os.system"),
    ):
        torch.save({**state, "hyper_parameters": {**INSTANTIATOR, **values, name: value}}, tmp_path / "x.ckpt")
        with pytest.raises(UnsafeCheckpointError, match=rf"from what they name: {name}"):
            with_file(checkpoint, tmp_path / "x.ckpt").load_module(Converted)


class PassesOnParts(WithParts):
    """A model with a method of its own that passes all keywords on."""

    @classmethod
    def load_from_checkpoint(cls, path: str, **kwargs: Any) -> Any:
        return super().load_from_checkpoint(path, **kwargs)


class Activated(TinyNet):
    """A model with an activation that has a default."""

    def __init__(self, act: Callable[..., Any] = torch.relu, width: int = 2, **more: Any) -> None:
        super().__init__()
        self.act = act
        self.width = width


@pytest.mark.filterwarnings("ignore:.*(dropped from checkpoint|is not picklable|cannot be pickled)")
@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ({"act": lambda x: x}, "act"),
        ({"act": functools.partial(lambda x: x)}, "act"),
        ({"act": lambda x: x, "extra": [lambda x: x]}, "act, extra"),
    ],
)
def test_a_default_in_place_of_what_the_training_passed_is_said(
    tmp_path: Path, arguments: dict[str, Any], missing: str
) -> None:
    checkpoint = saved(tmp_path, Activated(width=3, **arguments))
    with pytest.warns(ProvenanceWarning, match=f"is made with its defaults for {missing}\\. "):
        assert checkpoint.load_module().width == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.load_module(**arguments)
    gaps = {gap.fact: gap.reason for gap in checkpoint.record.gaps}
    for name in arguments:
        found = gaps.get(f"checkpoint.hyper_parameters.{name}")
        assert found is None or found.endswith(f"load_module needs {name}=…")


# -- hooks and weights ------------------------------------------------------------------------------


class Hooked(TinyNet):
    """A model whose hooks fail if they are told to."""

    fails = ""

    def configure_model(self) -> None:
        if self.fails == "configure_model":
            _ = self.trainer.strategy

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.fails == "on_load_checkpoint":
            raise KeyError("mine")


@pytest.mark.parametrize("hook", ["configure_model", "on_load_checkpoint"])
def test_an_error_of_a_hook_names_the_hook(tmp_path: Path, monkeypatch, hook: str) -> None:
    checkpoint = saved(tmp_path, Hooked())
    monkeypatch.setattr(Hooked, "fails", hook)
    with pytest.raises(ModuleLoadError, match=rf"{hook} of Hooked failed: .*No Trainer is attached"):
        checkpoint.load_module()


def test_weights_that_do_not_fit_are_named(tmp_path: Path, monkeypatch) -> None:
    checkpoint = saved(tmp_path, TinyNet(hidden=16))
    with pytest.raises(
        ModuleLoadError, match=r"layers\.0\.weight \(\[16, 8\] in the checkpoint, \[4, 8\] in the module\)"
    ) as it:
        checkpoint.load_module(hidden=4)
    assert "strict=False" not in str(it.value)

    class Larger(TinyNet):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.added = torch.nn.Linear(1, 1)
            del self.layers[3]

    with pytest.raises(
        ModuleLoadError, match=r"only in the module: added\.weight, added\.bias; only in the checkpoint"
    ) as it:
        checkpoint.load_module(Larger)
    assert "load_module(strict=False)" in str(it.value)
    with pytest.warns(ProvenanceWarning) as caught:
        checkpoint.load_module(Larger, strict=False)
    messages = [str(warning.message) for warning in caught]
    assert any("does not hold all weights" in text and "added.weight, added.bias" in text for text in messages)
    assert any("Larger does not have" in text and "layers.3.weight" in text for text in messages)
    assert {warning.filename for warning in caught} == {__file__}


class HeadOnly(TinyNet):
    """A model whose checkpoints hold only what was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.strict_loading = False
        self.backbone = torch.nn.Linear(8, 8).requires_grad_(False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if "backbone" not in k}


def test_weights_that_the_checkpoint_does_not_hold_are_named(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, HeadOnly())
    with pytest.warns(ProvenanceWarning, match=r"perhaps at random, are: backbone\.weight, backbone\.bias"):
        checkpoint.load_module()
    with pytest.raises(ModuleLoadError, match="strict=True contradicts HeadOnly"):
        checkpoint.load_module(strict=True)


# -- the class --------------------------------------------------------------------------------------


class InSetup(Plain):
    """A model whose layers are made in a hook that only a Trainer calls."""

    def __init__(self) -> None:
        L.LightningModule.__init__(self)

    def setup(self, stage: str) -> None:
        self.net = torch.nn.Linear(8, 3)


class Adapter(TinyNet):
    """A model whose checkpoints hold only its last layer."""

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if ".3." in name}


class ByPlace(Plain):
    """A model with values that have no names."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.extra = torch.nn.Linear(2, sizes[0])


def test_the_remedy_fits_the_cause(tmp_path: Path) -> None:
    with pytest.raises(ModuleLoadError, match=r"only in the checkpoint: net\.weight, .*Only a Trainer calls setup"):
        saved(tmp_path, InSetup()).load_module()
    checkpoint = saved(tmp_path, Adapter())
    with pytest.raises(ModuleLoadError, match=r"saved the checkpoint without them\. To load it: load_module\(strict=F"):
        checkpoint.load_module()
    with pytest.warns(ProvenanceWarning, match="does not hold all weights"):
        checkpoint.load_module(strict=False)
    with pytest.raises(ModuleLoadError, match=r"Values of \*sizes have no names: pass a subclass"):
        saved(tmp_path, ByPlace(3)).load_module()


def test_a_file_that_is_gone_is_a_typed_error(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, TinyNet())
    (tmp_path / "models" / checkpoint.name / "data" / "checkpoint.ckpt").unlink()
    for use in (checkpoint.load, checkpoint.load_state_dict, checkpoint.load_module):
        with pytest.raises(LightningDtoolError) as caught:
            use()
        assert caught.value.uri == checkpoint.uri


def test_a_function_that_could_run_anything_is_not_advised_as_harmless(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, WithParts())
    state = checkpoint.load()
    torch.save({**state, "hyper_parameters": {"act": torch.tanh}}, tmp_path / "x.ckpt")  # pickled as a call of getattr
    with pytest.raises(UnsafeCheckpointError, match=r"act \(builtins\.getattr\)\. Pass them: load_module") as caught:
        with_file(checkpoint, tmp_path / "x.ckpt").load_module()
    assert "add_safe_globals" not in str(caught.value)


def test_a_class_that_was_renamed_is_distinguished_from_a_module_that_is_not_here(tmp_path: Path, monkeypatch) -> None:
    checkpoint = saved(tmp_path, Hooked())
    monkeypatch.delattr(sys.modules[__name__], "Hooked")
    with pytest.raises(
        ModuleLoadError, match=r"does not define Hooked\. It may have been renamed or moved\. Pass the class"
    ):
        checkpoint.load_module()
    pl = pytest.importorskip("pytorch_lightning")
    monkeypatch.setattr(sys.modules[__name__], "Hooked", pl.LightningModule, raising=False)
    with pytest.raises(MixedNamespaceError):
        checkpoint.load_module()
    monkeypatch.setattr(sys.modules[__name__], "Hooked", dict, raising=False)
    with pytest.raises(ModuleLoadError, match="is not a LightningModule here"):
        checkpoint.load_module()


# -- objects among the hyperparameters -----------------------------------------------------------------


class Config:
    """A configuration."""

    def __init__(self, width: int = 3) -> None:
        self.width = width


class Configured(Plain):
    """A model with an object among its hyperparameters."""

    def __init__(self, config: Config, other: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, config.width)


def test_each_remedy_for_an_object_that_a_safe_load_does_not_make_works(tmp_path: Path) -> None:
    model = Configured(Config())
    checkpoint = saved(tmp_path, model)
    with pytest.raises(UnsafeCheckpointError) as caught:
        checkpoint.load_module()
    message = str(caught.value)
    assert f"hyper_parameters.config ({__name__}.Config)" in message
    for remedy in (
        "load_module(config=...)",
        f"add_safe_globals([{__name__}.Config])",
        "trust_source=True",
        "weights_only=False",
    ):
        assert remedy in message
    with torch.serialization.safe_globals([Config]):
        assert same(weights(checkpoint.load_module()), weights(model))
    for options in ({"config": Config()}, {"trust_source": True}, {"weights_only": False}):
        assert same(weights(checkpoint.load_module(**options)), weights(model))
    for loaded in (checkpoint.load_module(trust_source=True), checkpoint.load_module(weights_only=False)):
        assert type(loaded.hparams["config"]) is Config


class Nested:
    """An object that contains others."""

    def __init__(self) -> None:
        self.configs = {"a": [Config()], "kind": Config}
        self.table = collections.ChainMap({"b": 1})


def test_all_types_that_have_to_be_allowed_are_named_at_once(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, Configured(Config(), other=Nested()))
    listed = f"add_safe_globals([collections.ChainMap, {__name__}.Config, {__name__}.Nested])"
    with pytest.raises(UnsafeCheckpointError) as caught:
        checkpoint.load_module()
    assert listed in str(caught.value)
    with torch.serialization.safe_globals([Config, Nested, collections.ChainMap]):
        assert checkpoint.load_module().hparams["other"].table == {"b": 1}


def test_a_configuration_of_omegaconf_loads_when_its_types_are_allowed(tmp_path: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    checkpoint = saved(tmp_path, OneMapping(omegaconf.OmegaConf.create({"width": 3, "layers": [1, {"a": "b"}]})))
    with pytest.raises(UnsafeCheckpointError) as caught:
        checkpoint.load_module()
    names = str(caught.value).partition("add_safe_globals([")[2].partition("]")[0].split(", ")
    split = [(name, *name.rsplit(".", 1)) for name in names]
    allowed = [(getattr(importlib.import_module(module), attribute), name) for name, module, attribute in split]
    with torch.serialization.safe_globals(allowed):
        loaded = checkpoint.load_module()
    assert loaded.hparams == {"width": 3, "layers": [1, {"a": "b"}]}
    assert loaded.hparams == checkpoint.load_module(weights_only=False).hparams
    assert isinstance(loaded.hparams, omegaconf.DictConfig)


def test_only_what_is_passed_is_no_longer_needed(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, Configured(Config(), other=[Config(1)]))
    with pytest.raises(UnsafeCheckpointError, match=r"load_module\(config=\.\.\., other=\.\.\.\)"):
        checkpoint.load_module()
    with pytest.raises(UnsafeCheckpointError, match=r"hyper_parameters\.other\.0 .*load_module\(other=\.\.\.\)"):
        checkpoint.load_module(config=Config())
    assert checkpoint.load_module(config=Config(), other=None).layer.out_features == 3


class Stateful(L.Callback):
    """A callback whose state holds an object."""

    def state_dict(self) -> dict[str, Any]:
        return {"config": Config()}


def test_objects_in_the_state_of_callbacks_do_not_matter(tmp_path: Path) -> None:
    model = TinyNet()
    checkpoint = saved(tmp_path, model, Stateful())
    assert same(weights(checkpoint.load_module()), weights(model))
    with pytest.raises(UnsafeCheckpointError, match=r"callbacks\..*Config"):
        checkpoint.load()


def test_unpickling_that_fails_is_a_module_load_error(tmp_path: Path, monkeypatch) -> None:
    checkpoint = saved(tmp_path, Configured(Config()))
    monkeypatch.delattr(sys.modules[__name__], "Config")
    for load in (checkpoint.load, checkpoint.load_module):
        with pytest.raises(ModuleLoadError, match=r"cannot be unpickled here: AttributeError: .*Config.*") as caught:
            load(weights_only=False)
        assert caught.value.uri == checkpoint.uri


# -- what a script defines --------------------------------------------------------------------------

SCRIPT = """
    import dataclasses
    import enum
    import sys
    import lightning as L
    import torch
    from kit import TinyNet, loader, trainer
    from lightning_dtool import DtoolProvenanceCallback

    class Size(enum.Enum):
        SMALL = 3
        LARGE = 5

    @dataclasses.dataclass
    class Config:
        size: Size = Size.LARGE
        lr: float = 0.1
        children: list = dataclasses.field(default_factory=list)

    class Part(L.LightningModule):
        def __init__(self, width):
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(2, width)

    class Net(TinyNet):
        def __init__(self, config, part=None):
            super().__init__()
            assert isinstance(config, Config)
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(2, config.size.value)
            self.part = part

    def make(width):
        class Inside(TinyNet):
            def __init__(self, factor=2):
                super().__init__()
                self.save_hyperparameters()
                self.layer = torch.nn.Linear(2, width)
        return Inside

    def plain():
        size = 4
        class Inside(TinyNet):
            def __init__(self, factor=2):
                super().__init__()
                self.save_hyperparameters()
                self.layer = torch.nn.Linear(factor, size)
        return Inside

    def with_head(head):
        class Inside(TinyNet):
            def __init__(self, head):
                super().__init__()
                self.save_hyperparameters(ignore=["head"])
                self.head = head
        return Inside(head)

    if __name__ == "__main__":
        sizes = [Config(Size.SMALL)]
        first, second = Net(Config(children=sizes)), Net(Config(), Part(4))
        for number, model in enumerate([first, second, make(3)(), plain()(), with_head(torch.nn.ReLU())]):
            provenance = DtoolProvenanceCallback(sys.argv[1])
            trainer(f"{sys.argv[1]}/{number}", provenance, max_epochs=1).fit(model, loader())
            print("uri", provenance.last_uri)
"""


@pytest.fixture(scope="module")
def from_script(tmp_path_factory: pytest.TempPathFactory) -> list[DtoolCheckpoint]:
    """Train the models of a script in a process of its own, and return the checkpoints without the script."""
    folder = tmp_path_factory.mktemp("script")
    (folder / "train.py").write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = programs.run(folder / "train.py", folder, cwd=folder, env=environment)
    (folder / "train.py").unlink()
    return [DtoolCheckpoint.from_uri(line[4:]) for line in done.stdout.splitlines() if line.startswith("uri ")]


def test_a_configuration_class_of_the_script_is_taken_from_the_recorded_source(
    from_script: list[DtoolCheckpoint],
) -> None:
    checkpoint = from_script[0]
    before = dict(vars(sys.modules["__main__"]))
    with pytest.raises(ModuleLoadError, match="trust_source=True"):
        checkpoint.load_module()
    for options in ({}, {"weights_only": False}):
        config = checkpoint.load_module(trust_source=True, **options).hparams["config"]
        assert (type(config).__name__, config.size.name, config.size.value, config.lr) == ("Config", "LARGE", 5, 0.1)
        assert config.children == [type(config)(type(config.size).SMALL)]
        assert type(config).__module__.startswith("lightning_dtool_source_")
    assert same(checkpoint.load_state_dict(), weights(checkpoint.load_module(trust_source=True)))
    assert dict(vars(sys.modules["__main__"])) == before


def test_messages_do_not_lead_round_in_circles(from_script: list[DtoolCheckpoint]) -> None:
    checkpoint = from_script[0]
    with pytest.raises(UnsafeCheckpointError) as caught:
        checkpoint.load_module(TinyNet)  # the class is here, the configuration is not
    assert "add_safe_globals" not in str(caught.value)  # there is no such class in this process
    assert "load_module(trust_source=True)" in str(caught.value)
    assert "load_module(weights_only=False, trust_source=True)" in str(caught.value)
    with pytest.raises(ModuleLoadError, match=r"load_module\(weights_only=False, trust_source=True\)"):
        checkpoint.load_module(TinyNet, weights_only=False)


def test_a_module_among_the_hyperparameters_is_made(from_script: list[DtoolCheckpoint]) -> None:
    loaded = from_script[1].load_module(trust_source=True)
    assert type(loaded.part).__name__ == "Part"
    assert same(from_script[1].load_state_dict(), weights(loaded))


def test_a_class_inside_a_function_is_made_if_that_is_possible(from_script: list[DtoolCheckpoint]) -> None:
    with pytest.raises(
        ModuleLoadError, match=r"plain\.<locals>\.Inside is defined inside a function.*trust_source=True"
    ):
        from_script[3].load_module()
    loaded = from_script[3].load_module(trust_source=True)
    assert same(from_script[3].load_state_dict(), weights(loaded))
    with pytest.raises(
        ModuleLoadError, match=r"uses its parameters \(width\), whose values are not recorded\. Make the class"
    ):
        from_script[2].load_module(trust_source=True)


def test_the_class_and_the_arguments_that_are_missing_are_said_at_once(from_script: list[DtoolCheckpoint]) -> None:
    with pytest.raises(ModuleLoadError) as caught:
        from_script[4].load_module()
    assert "load_module(cls=..., head=...)" in str(caught.value)
    assert "load_module(trust_source=True, head=...)" in str(caught.value)
    head = torch.nn.ReLU()
    with pytest.raises(ModuleLoadError, match=r"load_module\(trust_source=True\)"):
        from_script[4].load_module(head=head)
    assert from_script[4].load_module(trust_source=True, head=head).head is head


# -- a class with a load_from_checkpoint of its own ---------------------------------------------------


class Own(Plain):
    """A model that makes its encoder from the hyperparameters, and unpickles files without care."""

    def __init__(self, encoder: torch.nn.Linear) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["encoder"])
        self.hparams["width"] = encoder.out_features
        self.encoder = encoder

    @classmethod
    def load_from_checkpoint(cls, path: str, map_location: Any = None, strict: bool = True, **kwargs: Any) -> Any:
        content = torch.load(path, map_location, weights_only=False)
        kwargs.setdefault("encoder", torch.nn.Linear(2, content["hyper_parameters"]["width"]))
        module = cls(**kwargs)
        module.load_state_dict(content["state_dict"], strict=strict)
        module.loaded = (str(path), map_location, strict)
        return module


def test_a_class_loads_its_checkpoints_its_own_way(tmp_path: Path) -> None:
    model = Own(torch.nn.Linear(2, 5))
    checkpoint = saved(tmp_path, model)
    loaded = checkpoint.load_module()
    assert same(weights(loaded), weights(model))
    assert loaded.loaded == (str(checkpoint.path), "cpu", True)
    assert checkpoint.load_module(strict=False).loaded[2] is False
    mine = torch.nn.Linear(2, 5)
    assert checkpoint.load_module(encoder=mine).encoder is mine
    with pytest.raises(
        ModuleLoadError, match=r"Own\.load_from_checkpoint, which the class defines itself, failed: RuntimeError"
    ):
        checkpoint.load_module(encoder=torch.nn.Linear(3, 5))


def test_a_hostile_file_is_refused_before_the_class_can_unpickle_it(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    checkpoint = saved(tmp_path, Own(torch.nn.Linear(2, 5)))
    state = checkpoint.load()
    for place, forged in {
        "hyper_parameters": {"width": 5, "x": Bomb()},
        "state_dict": {**state["state_dict"], "x": Bomb()},
        "x": Bomb(),
    }.items():
        torch.save({**state, place: forged}, tmp_path / "x.ckpt")
        with pytest.raises(UnsafeCheckpointError, match=r"mkdir"):
            with_file(checkpoint, tmp_path / "x.ckpt").load_module()
    # What the module does not need is left out of what the class gets.
    torch.save({**state, "callbacks": {"x": Bomb()}}, tmp_path / "x.ckpt")
    loaded = with_file(checkpoint, tmp_path / "x.ckpt").load_module()
    assert same(weights(loaded), checkpoint.load_state_dict())
    assert not Path(loaded.loaded[0]).exists()
    assert not (tmp_path / "exploded").exists()


def test_a_class_gets_the_file_itself_if_the_user_trusts_it(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, Own(torch.nn.Linear(2, 5)), Stateful())
    assert checkpoint.load_module().loaded[0] != str(checkpoint.path)
    assert checkpoint.load_module(weights_only=False).loaded[0] == str(checkpoint.path)


class Positional(TinyNet):
    """A model whose method takes nothing but the file."""

    @classmethod
    def load_from_checkpoint(cls, path: str) -> Any:
        return super().load_from_checkpoint(path)


class PassesOn(TinyNet):
    """A model whose method passes all keywords on."""

    @classmethod
    def load_from_checkpoint(cls, path: str, **kwargs: Any) -> Any:
        return super().load_from_checkpoint(path, **kwargs)


class Named(TinyNet):
    """A model whose method names `weights_only`."""

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str, *, weights_only: bool) -> Any:
        assert weights_only
        return super().load_from_checkpoint(checkpoint_path, weights_only=weights_only)


class Nothing(TinyNet):
    """A model whose method returns no module."""

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str) -> Any:
        return None


def test_methods_with_other_signatures_are_called_with_what_they_take(tmp_path: Path) -> None:
    for cls in (Positional, PassesOn, Named):
        model = cls()
        (tmp_path / cls.__name__).mkdir()
        assert same(weights(saved(tmp_path / cls.__name__, model).load_module()), weights(model))
    checkpoint = saved(tmp_path, Positional())
    with pytest.raises(ModuleLoadError, match=r"load_from_checkpoint does not take lr, strict\. Leave it out"):
        checkpoint.load_module(lr=1.0, strict=True)
    assert checkpoint.load_module(PassesOn, lr=1.0).hparams["lr"] == 1.0
    with pytest.raises(ModuleLoadError, match="returned NoneType, expected a LightningModule"):
        checkpoint.load_module(Nothing)


# -- files that are no checkpoints -------------------------------------------------------------------


def test_other_files_are_typed_errors(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, TinyNet())
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({**checkpoint.load(), "hyper_parameters": 3}, tmp_path / "odd.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps({"state_dict": {}}))
    (tmp_path / "empty.ckpt").write_bytes(b"")
    torch.save({**checkpoint.load(), "pytorch-lightning_version": "none"}, tmp_path / "version.ckpt")
    torch.save({**checkpoint.load(), "state_dict": {1: torch.ones(2), None: 3}}, tmp_path / "keys.ckpt")
    torch.save({**checkpoint.load(), "state_dict": {"k" * 10**6: torch.ones(2)}}, tmp_path / "long.ckpt")
    forms = {"hparams_name": (["lr"], {}, 3, torch.ones(2)), "hparams_type": (3, [dict], torch.ones(2), torch.float32)}
    for key, values in forms.items():
        for number, value in enumerate(values):
            torch.save({**checkpoint.load(), key: value}, tmp_path / f"{key}-{number}.ckpt")
    for name in sorted(path.name for path in tmp_path.glob("*.ckpt")):
        odd = with_file(checkpoint, tmp_path / name)
        for options in ({}, {"weights_only": False}):
            with pytest.raises(LightningDtoolError) as caught:
                odd.load_module(**options)
            assert caught.value.uri == odd.uri
            assert len(str(caught.value)) < 2000
