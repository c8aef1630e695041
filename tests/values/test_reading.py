"""Values rebuilt from their descriptions in a record, and the descriptions that are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_dtool.errors import ConfigurationError
from lightning_dtool.record import Gaps
from lightning_dtool.values.reading import decode, unreadable
from lightning_dtool.values.writing import encode, encode_in_detail


class Keeper:
    """Keeps its argument in an attribute of another name."""

    def __init__(self, factor: float) -> None:
        self.kept = factor

    def method(self) -> float:
        return self.kept


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


SYSTEM = {"type": "builtins:function", "name": "os:system"}


@pytest.mark.parametrize(
    "encoded",
    [
        SYSTEM,
        {"type": "builtins:type", "name": "subprocess:Popen"},
        {"type": "builtins:module", "name": "antigravity"},
        {"type": "numpy:ufunc", "name": "os:system"},
        {"type": "subprocess:Popen", "init": {"args": ["true"]}},
        {"type": "subprocess:Popen", "value": ["true"]},
        {"type": "enum:IntEnum", "name": "x", "value": 1},
        {"type": "torchvision.transforms._presets:torch.load", "init": {"f": "x"}},
        {"type": "builtins:function", "name": "torchvision.transforms.functional:math.sqrt"},
        {"type": "torchvision.transforms.transforms:warnings", "init": {}},
        {"type": "torchvision.transforms.functional:torch", "name": "os", "value": 1},
        {"type": "torchvision.transforms.transforms:Lambda", "init": {"lambd": SYSTEM}},
        {"type": "torchvision.transforms.transforms:ToTensor", "init": {}, "state": {"x": 1}},
        {"type": "functools:partial", "func": SYSTEM, "args": [], "keywords": {}},
        {"type": "functools:partial", "func": {"type": "builtins:list"}, "args": [], "keywords": {}},
        {"type": "re:Pattern", "pattern": "(a+)+b", "flags": 0},
        {"type": "collections:Counter", "items": []},
        {"type": "collections:defaultdict", "default_factory": SYSTEM, "items": []},
        {"type": "builtins:dict", "items": [["a", SYSTEM]]},
        [{"a": {"type": "builtins:tuple", "value": [SYSTEM]}}],
    ],
)
def test_a_record_cannot_call_arbitrary_functions(encoded: Any) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(ConfigurationError, match="trust_source=True"):
        decode(encoded, argument="decoder")


@pytest.mark.parametrize(
    "encoded",
    [
        {"type": "builtins:int", "value": "9" * 10_000},
        {"type": "builtins:int"},
        {"type": "builtins:str", "escaped": "[1]"},
        {"type": "builtins:tuple", "value": 1},
        {"type": "builtins:set", "value": [[]]},
        {"type": "torch:Tensor", "dtype": "load", "shape": [1], "value": [1]},
        {"type": "torch:Tensor", "dtype": "float32", "shape": [10**6]},
        {"type": "numpy:ndarray", "dtype": "object", "shape": [1], "value": [1]},
        {"type": "numpy:ndarray", "dtype": "U1000000000", "shape": [1], "value": ["a"]},
        {"type": "torch:dtype", "value": "load"},
        {"type": "fractions:Fraction", "value": "1e1000000000"},
        {"type": "no_such_module:f", "init": {}},
        {"type": "math:pi", "init": {}},
        {"type": 1},
        {"type": []},
    ],
)
def test_a_malformed_description_is_an_error(encoded: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"x=\.\.\. yourself"):
        decode(encoded, argument="x", trust_source=True)


def test_a_rebuilt_value_that_differs_is_an_error() -> None:
    encoded = {"type": "torch.nn.modules.dropout:Dropout", "init": {"p": 0.5}}
    with pytest.raises(ConfigurationError, match="was rebuilt as"):
        decode(encoded, argument="x", trust_source=True)


def test_the_details_of_a_description_are_not_needed() -> None:
    class_in_detail = json.loads(json.dumps(encode_in_detail(Named("oak"), Gaps())))
    assert "source" in class_in_detail
    read = decode(class_in_detail, argument="x", trust_source=True)
    assert (type(read), read.name) == (Named, "oak")


@pytest.mark.parametrize(
    "value",
    [
        nn.Sequential(nn.Identity()),
        nn.Linear(1, 1),
        object(),
        [1].append,
        {"a": [object()]},
        list(range(20_000)),
        "x" * 200_000,
        torch.zeros(2000),
        torch.Generator(),
    ],
)
def test_an_incomplete_description_is_refused(value: Any) -> None:
    encoded = json.loads(json.dumps(encode(value)))
    with pytest.raises(ConfigurationError, match=r"Pass x=\.\.\. yourself"):
        decode(encoded, argument="x", trust_source=True)


def test_the_error_says_why_a_value_cannot_be_rebuilt() -> None:
    assert unreadable(encode([1, "x", nn.Dropout(), np.load, {"a": 2**80}])) is None
    assert "<lambda>" in str(unreadable(encode(lambda x: x)))
    assert "factor" in str(unreadable(encode(Keeper(1))))
    assert "__self__" in str(unreadable(encode({"a": Keeper(1).method})))


def test_a_module_of_torchvision_that_nobody_has_installed_is_not_imported(tmp_path: Path, monkeypatch) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    folder = tmp_path / "torchvision" / "transforms"
    folder.mkdir(parents=True)
    mark = f"open({str(tmp_path / 'RAN')!r}, 'w')"
    (folder / "stranger.py").write_text(f"{mark}\nclass Crop: ...\nCrop.__module__ = 'torchvision.transforms'\n")
    monkeypatch.setattr(transforms, "__path__", [*transforms.__path__, str(folder)])
    with pytest.raises(ConfigurationError, match="trust_source=True"):
        decode({"type": "torchvision.transforms.stranger:Crop", "init": {}}, argument="x")
    assert not (tmp_path / "RAN").exists()
