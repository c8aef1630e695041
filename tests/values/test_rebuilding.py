"""What a record describes is built again as it was, and only what may be."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_dtool.errors import ConfigurationError
from lightning_dtool.values.describing import describe
from lightning_dtool.values.rebuilding import rebuild, unbuildable


class Keeper:
    """Keeps what it was given under another name."""

    def __init__(self, factor: float) -> None:
        self.kept = factor

    def method(self) -> float:
        return self.kept


@pytest.mark.parametrize(
    "description",
    [
        {"callable": "os:system"},
        {"class": "subprocess:Popen", "init": {"args": ["true"]}},
        {"class": "torchvision.transforms._presets:torch.load", "init": {"f": "x"}},
        {"callable": "torchvision.transforms.functional:math.sqrt"},
        {"class": "torchvision.transforms.transforms:warnings", "init": {}},
        {"enum": "torchvision.transforms.functional:torch", "name": "os"},
        {"class": "torchvision.transforms.transforms:Lambda", "init": {"lambd": {"callable": "os:system"}}},
        {
            "class": "functools:partial",
            "init": {"func": {"callable": "os:system"}, "args": [], "keywords": {"dict": {}}},
        },
    ],
)
def test_a_record_cannot_call_what_it_likes(description: Any) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(ConfigurationError, match="trust_source=True"):
        rebuild(description, argument="decoder")


@pytest.mark.parametrize(
    "value",
    [
        partial(np.load, allow_pickle=False),
        nn.Dropout(0.2),
        str.upper,
        np.load,
        Path,
        [1, 2.5, None, "x"],
        {1: 2, 2.5: float("inf")},
        2**70,
        "\udcff",
        b"bytes",
        torch.tensor([0.1, 0.2], dtype=torch.bfloat16),
        np.arange(4, dtype=np.int16).reshape(2, 2),
        np.float32(0.1),
        torch.device("cpu"),
        dict.fromkeys,
    ],
)
def test_what_is_trusted_comes_back_the_same(value: Any) -> None:
    description = json.loads(json.dumps(describe(value)))
    assert describe(rebuild(description, argument="x", trust_source=True)) == description


@pytest.mark.parametrize(
    "value",
    [
        nn.Sequential(nn.Identity()),
        nn.Identity(),
        object(),
        [1].append,
        {"a": [object()]},
        list(range(20_000)),
        "x" * 200_000,
        torch.zeros(2000),
        torch.Generator(),
    ],
)
def test_what_is_not_known_whole_is_not_built(value: Any) -> None:
    description = json.loads(json.dumps(describe(value)))
    with pytest.raises(ConfigurationError, match=r"Pass x=\.\.\. yourself"):
        rebuild(description, argument="x", trust_source=True)


def test_why_something_cannot_be_built_is_said() -> None:
    assert unbuildable(describe([1, "x", nn.Dropout(), np.load, {"a": 2**80}])) is None
    assert "<lambda>" in str(unbuildable(describe(lambda x: x)))
    assert "factor" in str(unbuildable(describe(Keeper(1))))
    assert "__self__" in str(unbuildable(describe({"a": Keeper(1).method})))
