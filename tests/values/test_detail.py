"""Values written in detail: bounded strict JSON, equal in every process, with all that decides their behaviour."""

import enum
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import programs
from counting import counted
from lightning_dtool.record import Gaps
from lightning_dtool.values.reading import unreadable
from lightning_dtool.values.writing import encode, encode_in_detail

SCALE = 3


class Colour(enum.Flag):
    RED = 1
    BLUE = 2


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Greedy:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class RudeMapping(dict):
    def __getitem__(self, key: object) -> Any:
        raise RuntimeError("no")


class Scaled:
    """Keeps its argument in an attribute of another name."""

    def __init__(self, factor: float) -> None:
        self.scale = factor * 2

    def __call__(self, x: Any) -> Any:
        return x * self.scale

    def method(self, x: Any) -> Any:
        return x


class Slotted:
    __slots__ = ("k",)

    def __init__(self, k: Any) -> None:
        self.k = k

    def __call__(self, x: Any) -> Any:
        return x


def by_constant(x: Any) -> Any:
    return x * SCALE


def closed_over(k: Any) -> Any:
    def inner(x: Any, *, more: int = 1) -> Any:
        return x * k + more

    return inner


def detail(value: Any) -> Any:
    return encode_in_detail(value, Gaps())


def text(value: Any) -> str:
    return json.dumps(detail(value), sort_keys=True, allow_nan=False)


def test_size_and_depth_are_bounded() -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    cyclic: dict[str, Any] = {}
    cyclic["self"] = cyclic
    wide = {str(number): ["x" * 100] * 100 for number in range(5000)}
    for value in (
        deep,
        cyclic,
        wide,
        "x" * 10**7,
        list(range(10**6)),
        torch.zeros(10**6),
        {object() for _ in range(9999)},
    ):
        gaps = Gaps()
        described, calls = counted(encode_in_detail, value, gaps.at("here"))
        assert len(json.dumps(described)) < 3_000_000
        assert calls < 2_000_000
        assert gaps or isinstance(value, torch.Tensor)
        assert all(gap.fact.startswith("here") for gap in gaps)
        assert unreadable(described) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x + 1, lambda x: x + 2),
        (closed_over(1), closed_over(2)),
        (closed_over(torch.tensor([1.0])), closed_over(torch.tensor([2.0]))),
        (partial(closed_over, k=1), partial(closed_over, k=2)),
        (Scaled(1), Scaled(2)),
        (Scaled(1).method, Scaled(2).method),
        (Slotted(1), Slotted(2)),
        (nn.Sequential(nn.Dropout(0.1)), nn.Sequential(nn.Dropout(0.2))),
        (nn.Sequential(nn.ReLU(), nn.Identity()), nn.Sequential(nn.Identity(), nn.ReLU())),
        (nn.Dropout(0.1), nn.Dropout(0.1).eval()),
        (torch.zeros(5000), torch.cat([torch.zeros(4999), torch.ones(1)])),
        (np.zeros(5000), np.append(np.zeros(4999), 1)),
        (list(range(20_000)), [*range(19_999), 0]),
        ("x" * 200_000 + "a", "x" * 200_000 + "b"),
        ({1: 2}, {1: 3}),
        (1, True),
    ],
)  # fmt: skip
def test_values_that_differ_in_one_part_have_different_descriptions(one: Any, other: Any) -> None:
    assert text(one) != text(other)
    assert text(one) == text(one)


def test_lambdas_on_one_line_have_different_descriptions() -> None:
    one, two = (lambda x: x + 1), (lambda x: x * 2)
    assert detail(one) != detail(two)
    if sys.version_info < (3, 11):
        assert detail(one)["bytecode"] != detail(two)["bytecode"]
        return
    outer = lambda x: lambda y: y - x  # noqa: E731
    sources = [detail(each)["source"] for each in (one, two, outer, outer(1))]
    assert sources == ["lambda x: x + 1", "lambda x: x * 2", "lambda x: lambda y: y - x", "lambda y: y - x"]
    same = [(lambda x: x), (lambda x: x)]
    assert [detail(each)["source"] for each in same] == ["lambda x: x"] * 2


def test_constants_that_a_function_uses_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    before = detail(by_constant)
    assert before["globals"] == {"SCALE": 3}
    monkeypatch.setitem(globals(), "SCALE", 4)
    assert detail(by_constant) != before
    assert detail(closed_over(5))["defaults"] == {"more": 1}


def test_installed_code_is_described_by_its_name() -> None:
    assert detail(torch.nn.functional.relu) == {"type": "builtins:function", "name": "torch.nn.functional:relu"}
    assert "source" in detail(by_constant)
    assert "source" not in encode(by_constant)
    assert detail(nn.Dropout(0.5)) == encode(nn.Dropout(0.5))


def test_modules_are_described_by_the_values_of_their_weights() -> None:
    small, large = nn.Linear(2, 1), nn.Linear(100, 100)
    assert detail(small)["attributes"]["weight"]["value"] == small.weight.tolist()
    known = detail(large)["attributes"]["weight"]
    assert (known["shape"], len(known["sha256"])) == ([100, 100], 64)
    with torch.no_grad():
        large.weight[0, 0] += 1
    assert detail(large)["attributes"]["weight"]["sha256"] != known["sha256"]


def test_describing_a_value_does_not_change_it() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    generator = torch.Generator().manual_seed(3)
    state, own = torch.get_rng_state(), generator.get_state()
    noisy = np.random.get_state()[1].copy()
    detail([module, generator, closed_over(module)])
    assert module.training
    assert all(each.requires_grad and each.grad is None for each in module.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(own, generator.get_state())
    assert (noisy == np.random.get_state()[1]).all()


PROCESS = """
import json, sys
from functools import partial
import numpy as np, torch
from torch import nn
sys.path.insert(0, sys.argv[1])
import user_code
from lightning_dtool.record import Gaps
from lightning_dtool.values.writing import encode, encode_in_detail
gaps = Gaps()
described = encode_in_detail(user_code.pipeline(), gaps.at("here"))
print(json.dumps([described, encode(user_code.pipeline()), [gap.model_dump() for gap in gaps]]))
"""

USER_CODE = """
import re
from functools import partial
import numpy as np, torch
from torch import nn

WORDS = {"oak", "elm", "yew", "ash", "fir"}

class Keep:
    def __init__(self, *words, **options):
        self.words = set(words)
        self.options = options
        self.seen = {frozenset({"a", "b", "c"}): {1, 2}, None: object()}
        self.rng = np.random.default_rng(1)
        self.lock = object()

    def __call__(self, x):
        return x

def pipeline():
    k = {"x", "y", "z", "w"}
    return [Keep("oak", "elm", "ash", a={"p", "q", "r"}), lambda x: (x, k, WORDS), partial(print, sep={"u", "v"}),
            nn.Sequential(nn.Dropout(0.1)), Keep("a").__call__, torch.Generator().manual_seed(2), re.compile("a"),
            {object(), "a", 2.5, (1, 2)}, np.random.RandomState(1), iter([])]
"""


def test_two_processes_write_equal_descriptions(tmp_path: Path) -> None:
    (tmp_path / "user_code.py").write_text(USER_CODE)
    written = [
        programs.run(
            "-c",
            PROCESS,
            str(tmp_path),
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed},
            fresh=seed != programs.HASH_SEED,
        ).stdout
        for seed in ("1", programs.HASH_SEED)
    ]
    assert written[0] == written[1]
    described, _, gaps = json.loads(written[0])
    assert described[0]["attributes"]["words"] == {"type": "builtins:set", "value": ["ash", "elm", "oak"]}
    assert described[1]["closure"]["k"]["value"] == ["w", "x", "y", "z"]
    assert described[1]["globals"]["WORDS"]["value"] == ["ash", "elm", "fir", "oak", "yew"]
    assert any(gap["fact"] == "here[0].lock" for gap in gaps)
