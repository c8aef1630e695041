"""Recorded transforms, collate functions and hooks: their structure and source."""

import functools
import json
import operator
import random
import re
import types
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn

from kit import TinyNet, loader, trainer
from lightning_dtool.capture.preprocessing import capture_hooks, describe_pipeline
from lightning_dtool.record import Data, Gaps
from lightning_dtool.values.reading import decode, unreadable
from lightning_dtool.values.writing import encode

v2 = pytest.importorskip("torchvision.transforms.v2")
from torchvision import transforms as v1  # noqa: E402

API_KEY = "AKIAABCDEFGHIJKLMNOP"


def pipeline(**changes: Any) -> Any:
    """Return a pipeline of `torchvision.transforms.v2` with adjustable parameters."""
    given: dict[str, Any] = {
        "size": 8, "p": 0.5, "mean": 0.5, "sigma": (0.1, 2.0), "degrees": 10, "factor": 2, "value": 1,
        "policy": "IMAGENET", **changes,
    }  # fmt: skip
    factor = given["factor"]
    return v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((given["size"], 8)),
            v2.RandomApply([v2.GaussianBlur(3, given["sigma"]), v2.RandomRotation(given["degrees"])], p=given["p"]),
            v2.AutoAugment(v1.AutoAugmentPolicy[given["policy"]]),
            v2.Compose([v2.Lambda(lambda x: x * factor), v2.Lambda(partial(torch.add, other=given["value"]))]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([given["mean"]], [0.2]),
        ]
    )


def text(obj: Any, gaps: Gaps | None = None) -> str:
    described = describe_pipeline(obj, (Gaps() if gaps is None else gaps).at("here"))
    Data.model_validate({"stages": {"train": [{"transforms": {"transform": described}}]}})
    return json.dumps(described, allow_nan=False)


@pytest.mark.parametrize(
    "change",
    [{"size": 9}, {"p": 0.4}, {"mean": 0.4}, {"sigma": (0.1, 1.0)}, {"degrees": 11}, {"factor": 3}, {"value": 2},
     {"policy": "CIFAR10"}],
)  # fmt: skip
def test_every_parameter_of_a_transform_is_recorded(change: dict[str, Any]) -> None:
    gaps = Gaps()
    assert text(pipeline(), gaps) == text(pipeline())
    assert not gaps
    assert text(pipeline(**change)) != text(pipeline())


def test_transforms_of_torchvision_v1_are_recorded() -> None:
    def make(**changes: Any) -> Any:
        return v1.Compose(
            [
                v1.RandomApply(nn.ModuleList([v1.ColorJitter(brightness=changes.get("brightness", 0.2))]), p=0.3),
                v1.RandomChoice([v1.RandomCrop(4), v1.CenterCrop(changes.get("crop", 4))]),
                v1.Lambda(lambda x: x + changes.get("add", 1)),
                v1.ToTensor(),
            ]
        )

    assert text(make()) == text(make())
    assert len({text(make(**changes)) for changes in ({}, {"brightness": 0.3}, {"crop": 5}, {"add": 2})}) == 4


def test_the_nesting_of_transforms_is_recorded() -> None:
    described = describe_pipeline(pipeline(), Gaps())
    assert described["type"] == "torchvision.transforms.v2._container:Compose"
    inner = described["init"]["transforms"][2]["init"]
    assert inner["p"] == 0.5
    assert inner["transforms"][1]["init"]["degrees"] == [-10.0, 10.0]
    function = described["init"]["transforms"][4]["init"]["transforms"][0]["init"]["lambd"]
    assert function["source"] == "lambda x: x * factor"
    assert function["closure"] == {"factor": 2}


def test_albumentations_are_recorded_as_they_serialise_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flip:
        def __init__(self, p: float = 0.5) -> None:
            self.p = p

        def __call__(self, **sample: Any) -> Any:
            return sample

        def to_dict(self) -> dict[str, Any]:
            if self.p > 1:
                raise NotImplementedError("no name")
            return {"__version__": "2.0", "transform": {"p": self.p}}

    monkeypatch.setattr(Flip, "__module__", "albumentations.augmentations")
    own_words = {"__version__": "2.0", "transform": {"p": 0.5}}
    assert describe_pipeline(Flip(), Gaps())["albumentations"] == own_words
    assert describe_pipeline(Flip(2.0), Gaps())["init"] == {"p": 2.0}


def test_secrets_in_the_source_of_transforms_are_redacted() -> None:
    def transform(x: Any, password: str = "hunter2-abc") -> Any:
        return x, API_KEY

    gaps = Gaps()
    described = text(transform, gaps)
    assert "hunter2" not in described
    assert "AKIA" not in described
    assert "here.source" in [gap.fact for gap in gaps]


class Hooked(TinyNet):
    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.batch_aug = nn.Sequential(nn.Dropout(p))
        self.transformer = nn.Linear(1, 1)
        self.transforms_done = 0

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch

    @staticmethod
    def my_transform(x: Any) -> Any:
        return x


class Batches(L.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.train_aug = partial(torch.clamp, min=0)

    @property
    def eval_transform(self) -> Any:
        raise AssertionError("a property is not asked for")

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch

    def train_dataloader(self) -> Any:
        return loader()


class Watch(L.Callback):
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.gaps = Gaps()
        self.hooks = capture_hooks(trainer, pl_module, self.gaps)


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`:UserWarning")
def test_hooks_and_augmentations_are_recorded(tmp_path: Path) -> None:
    watch = Watch()
    trainer(tmp_path, watch, max_epochs=1, limit_train_batches=1, enable_checkpointing=False).fit(Hooked(), Batches())
    assert sorted(watch.hooks) == [
        "datamodule.on_before_batch_transfer",
        "datamodule.train_aug",
        "module.batch_aug",
        "module.my_transform",
        "module.on_after_batch_transfer",
    ]
    assert watch.hooks["module.on_after_batch_transfer"].startswith("def on_after_batch_transfer(self")
    structure = json.loads(watch.hooks["module.batch_aug"])
    assert structure["children"][0][1]["init"]["p"] == 0.5
    assert json.loads(watch.hooks["datamodule.train_aug"])["keywords"] == {"min": 0}
    assert not watch.gaps
    Data.model_validate({"hooks": watch.hooks})


def test_no_hooks_are_recorded_where_none_are_defined(tmp_path: Path) -> None:
    watch = Watch()
    trainer(tmp_path, watch, max_epochs=1, limit_train_batches=1, enable_checkpointing=False).fit(TinyNet(), loader())
    assert watch.hooks == {}


def test_a_function_without_source_is_a_gap() -> None:
    namespace: dict[str, Any] = {"__name__": "made_up"}
    exec("def nowhere(x): return x", namespace)
    gaps = Gaps()
    assert json.loads(text(namespace["nowhere"], gaps)) == {"type": "builtins:function", "name": "made_up:nowhere"}
    assert "source code" in gaps[0].reason


class Ignores:
    """Takes an argument that it does not keep, so that its behaviour cannot depend on it."""

    def __init__(self, size: int) -> None:
        pass

    def __call__(self, x: Any) -> Any:
        return x


class IgnoresToo(nn.Module):
    def __init__(self, *sizes: int, **options: Any) -> None:
        super().__init__()


COMPLETE: dict[str, Any] = {
    "nn.Identity": nn.Identity(),
    "nn.Identity with arguments": nn.Identity(3, unused=True),
    "modules without parameters": nn.Sequential(nn.Identity(), nn.Flatten(), nn.ReLU(), nn.ZeroPad2d(1)),
    "a module with parameters": nn.Linear(2, 2),
    "ignored arguments": Ignores(3),
    "ignored arguments of a module": IgnoresToo(3, a=1),
    "a lambda": lambda x: x + 1,
    "a function of torch": nn.functional.relu,
    "a built-in function of torch": torch.relu,
    "a method of tensors": torch.Tensor.float,
    "a function of NumPy": np.log1p,
    "a random function of NumPy": np.random.choice,
    "a random function of Python": random.shuffle,
    "a bound method of a text": "-".join,
    "a bound method of a pattern": re.compile("a").sub,
    "a method of an installed library": StandardScaler().fit([[0.0], [1.0]]).transform,
    "partial": partial(lambda x, y: x * y, y=2),
    "itemgetter": operator.itemgetter(0, "a"),
    "attrgetter": operator.attrgetter("shape.numel"),
    "vectorize": np.vectorize(abs),
    "a crop": v2.RandomResizedCrop(8),
}


@pytest.mark.parametrize("name", COMPLETE)
def test_what_is_described_completely_is_no_gap(name: str) -> None:
    gaps = Gaps()
    text(COMPLETE[name], gaps)
    assert [(gap.fact, gap.reason) for gap in gaps] == []


def test_items_of_getters_are_recorded() -> None:
    assert text(operator.itemgetter(1)) != text(operator.itemgetter(2))


@pytest.mark.parametrize(
    "transform", [nn.Identity(), v2.RandomResizedCrop(8), v2.RandomErasing(), operator.itemgetter(0)], ids=repr
)
def test_transforms_of_libraries_can_be_rebuilt_from_a_record(transform: Any) -> None:
    gaps = Gaps()
    written = encode(transform, gaps)
    assert not gaps
    assert unreadable(written) is None
    assert type(decode(written, argument="x", trust_source=True)) is type(transform)


def test_what_is_not_described_completely_stays_a_gap() -> None:
    class Kept:
        """Keeps its argument where nobody can see it."""

        __slots__ = ()

        def __init__(self, size: int) -> None:
            sizes[id(self)] = size

    sizes: dict[int, int] = {}
    gaps = Gaps()
    text([Kept(3), operator.methodcaller("x", 1)], gaps)
    assert [gap.fact for gap in gaps] == ["here[0]", "here[1]"]


RATE: Any = 1


def rated(x: Any) -> Any:
    return x * RATE


def rated_indirectly(x: Any) -> Any:
    return rated(x)


class Rated:
    rate = 1

    def __call__(self, x: Any, shift: int = 0) -> Any:
        return rated(x) * self.rate + shift

    @classmethod
    def of_class(cls, x: Any) -> Any:
        return x * cls.rate


@functools.lru_cache
def cached(x: Any) -> Any:
    return x * RATE


@pytest.mark.parametrize(
    ("transform", "owner", "name"),
    [
        (rated_indirectly, globals(), "RATE"),
        (cached, globals(), "RATE"),
        (Rated(), globals(), "RATE"),
        (Rated(), Rated, "rate"),
        (Rated().__call__, Rated, "rate"),
        (Rated.of_class, Rated, "rate"),
    ],
)
def test_values_that_the_code_of_a_transform_uses_are_described(
    transform: Any, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for value in (2, 2, 3, types.SimpleNamespace(rate=2), types.SimpleNamespace(rate=3)):
        if isinstance(owner, dict):
            monkeypatch.setitem(owner, name, value)
        else:
            monkeypatch.setattr(owner, name, value)
        gaps = Gaps()
        found.append(json.dumps(describe_pipeline(transform, gaps)))
        assert not gaps
    assert found[0] == found[1]
    assert len(set(found)) == 4


class Settings:
    unit = 3

    def __init__(self, rate: int, folder: Path) -> None:
        self.rate, self.folder, self.logs = rate, folder, str(folder)

    def doubled(self) -> Any:
        return RATE.rate * 2 * self.unit


def test_a_configuration_that_the_code_uses_is_described_by_its_values_and_not_by_its_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for rate, name in ((2, "a"), (2, "b"), (3, "a")):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setitem(globals(), "RATE", Settings(rate, tmp_path / name))
        gaps = Gaps()
        found.append(describe_pipeline(rated, gaps))
        assert not gaps
    assert found[0]["globals"] == {"RATE.rate": 2, "Settings.unit": 3}
    assert found[0] == found[1]
    assert found[2]["globals"]["RATE.rate"] == 3
