"""Values written as strict JSON of bounded size, equal in every process."""

import argparse
import collections
import dataclasses
import datetime
import enum
import functools
import json
import sys
from collections import OrderedDict, namedtuple
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import programs
from lightning_dtool.errors import ConfigurationError
from lightning_dtool.record import MAX_INTEGER, Gaps, Model
from lightning_dtool.values.definitions import class_path
from lightning_dtool.values.reading import decode
from lightning_dtool.values.writing import MAX_DEPTH, encode, encode_all, encode_in_detail


class Activation(enum.Enum):
    RELU = "relu"
    NONE = float("nan")


@dataclasses.dataclass
class Options:
    rate: float = 0.1
    extra: Any = None


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = object.__hash__


class Greedy:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class RudeMapping(dict):
    def items(self) -> Any:
        raise RuntimeError("no")


Point = namedtuple("Point", "x y")

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**18, max_value=10**30),
    st.builds(lambda: 10**6000),
    st.builds(Rude),
    st.builds(Greedy),
    st.builds(RudeMapping),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters()),
    st.just("\ud800 \udcff"),
    st.binary(max_size=20),
    st.datetimes(),
    st.uuids(),
    st.decimals(),
    st.fractions(),
    st.sampled_from(
        [
            Activation.RELU,
            Activation.NONE,
            PurePosixPath("a/b"),
            Path("/\udcff"),
            torch.float32,
            torch.device("cpu"),
            torch.Size([1, 2]),
            torch.nn.ReLU,
            torch.nn.functional.relu,
            torch.tensor(float("nan")),
            torch.zeros(3, dtype=torch.bfloat16),
            torch.zeros(2, 2).to_sparse(),
            torch.zeros(10**5),
            torch.empty(10**9, 0),
            torch.zeros(2, dtype=torch.complex64),
            torch.nn.Parameter(torch.ones(2)),
            torch.zeros(2, device="meta"),
            np.float64("nan"),
            np.float32(0.5),
            np.int64(2**62),
            np.uint64(2**64 - 1),
            np.longdouble(1) / 3,
            np.datetime64("2024-01-01"),
            np.arange(5),
            np.zeros((3, 0)),
            np.array([1, "a", None], dtype=object),
            np.array(np.longdouble(1)),
            np.zeros(10**5),
            np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
            functools.partial(torch.nn.functional.gelu, approximate="tanh"),
            functools.partial(lambda x: x, 1),
            lambda x: x,
            Options(),
            object(),
            argparse.Namespace(lr=0.1),
            [].append,
            np.sin,
            range(3),
            json,
            ...,
        ]
    ),
)
KEYS = st.one_of(
    st.text(st.characters(), max_size=5), st.integers(), st.floats(), st.booleans(), st.none(), st.just("\ud800")
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4).map(OrderedDict),
        st.frozensets(st.one_of(st.text(max_size=3), st.integers(), st.floats()), max_size=4),
        st.builds(Options, extra=inner),
        st.builds(Point, inner, inner),
    ),
    max_leaves=12,
)


def acceptable(encoded: Any, gaps: Gaps) -> None:
    text = json.dumps(encoded, allow_nan=False, ensure_ascii=False)
    text.encode()
    assert "0x7f" not in text
    assert len(text) < 10**6
    Model(class_path="a:B", hyperparameters={"x": encoded})
    for gap in gaps:
        (gap.fact + gap.reason).encode()
    pending = [encoded]
    while pending:
        part = pending.pop()
        assert type(part) in (dict, list, str, int, float, bool, type(None))
        if type(part) is int:
            assert abs(part) <= MAX_INTEGER
        pending += part.values() if type(part) is dict else part if type(part) is list else []


@given(VALUES)
@settings(max_examples=150, deadline=None)
def test_any_value_becomes_strict_json(value: Any) -> None:
    gaps = Gaps()
    encoded = encode(value, gaps.at("x"))
    acceptable(encoded, gaps)
    again = Gaps()
    assert json.dumps(encode(value, again.at("x"))) == json.dumps(encoded)
    assert list(again) == list(gaps)
    acceptable(encode_in_detail(value, gaps.at("x")), gaps)
    if list(again) == []:
        read = decode(json.loads(json.dumps(encoded)), argument="x", trust_source=True)
        assert encode(read) == encoded
    else:
        with pytest.raises(ConfigurationError):
            decode(json.loads(json.dumps(encoded)), argument="x", trust_source=True)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**60), 2**60)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
        max_leaves=15,
    )
)
@settings(max_examples=100, deadline=None)
def test_json_values_are_written_unchanged(value: Any) -> None:
    gaps = Gaps()
    assert encode(value, gaps.at("x")) == value
    assert not gaps


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ((0.9, 0.999), {"type": "builtins:tuple", "value": [0.9, 0.999]}),
        ({3, 1, 2}, {"type": "builtins:set", "value": [1, 2, 3]}),
        (Path("data/leaves"), {"type": "pathlib:PosixPath", "value": "data/leaves"}),
        (2**64, {"type": "builtins:int", "value": "18446744073709551616"}),
        (float("inf"), {"type": "builtins:float", "value": "inf"}),
        (b"oak", {"type": "builtins:bytes", "value": "oak"}),
        (b"\xff\x00", {"type": "builtins:bytes", "base64": "/wA="}),
        ("leaf-\udcff", {"type": "builtins:str", "escaped": '"leaf-\\udcff"'}),
        ({1: 2}, {"type": "builtins:dict", "items": [[1, 2]]}),
        ({"type": "sgd"}, {"type": "builtins:dict", "items": [["type", "sgd"]]}),
        (datetime.date(2024, 1, 2), {"type": "datetime:date", "value": "2024-01-02"}),
        (argparse.Namespace(lr=0.1), {"type": "argparse:Namespace", "value": {"lr": 0.1}}),
        (np.float64(0.1), {"type": "numpy:float64", "value": 0.1}),
        (np.arange(3), {"type": "numpy:ndarray", "dtype": "int64", "shape": [3], "value": [0, 1, 2]}),
        (torch.ones(1), {"type": "torch:Tensor", "dtype": "float32", "shape": [1], "value": [1.0]}),
        (torch.float16, {"type": "torch:dtype", "value": "float16"}),
        (torch.nn.ReLU, {"type": "builtins:type", "name": "torch.nn.modules.activation:ReLU"}),
        (torch.nn.functional.relu, {"type": "builtins:function", "name": "torch.nn.functional:relu"}),
        (torch.relu, {"type": "builtins:function", "name": "torch:relu"}),
        (torch.nn.Dropout(0.25), {"type": "torch.nn.modules.dropout:Dropout", "init": {"p": 0.25, "inplace": False}}),
        (
            functools.partial(torch.nn.functional.relu, inplace=True),
            {
                "type": "functools:partial",
                "func": {"type": "builtins:function", "name": "torch.nn.functional:relu"},
                "args": [],
                "keywords": {"inplace": True},
            },
        ),
    ],
)
def test_common_values_are_written_in_a_readable_form(value: Any, written: Any) -> None:
    gaps = Gaps()
    assert encode(value, gaps) == written
    assert not gaps
    assert encode_in_detail(value, gaps) == written
    assert not gaps


def test_keys_other_than_text_do_not_collide() -> None:
    gaps = Gaps()
    nan = float("nan")
    encoded = encode({1: "a", "1": "b", nan: "c"}, gaps.at("x"))
    assert [pair[1] for pair in encoded["items"]] == ["a", "b", "c"]
    assert [pair[0] for pair in encoded["items"]][:2] == [1, "1"]
    assert encode_all({1: "a", "1": "b"}, gaps.at("x")) == {"1": "a", "1'": "b"}
    assert not gaps


@pytest.mark.parametrize("value", [lambda x: x + 1, object(), torch.zeros(10**5), np.zeros(10**5), "a" * 10**6,
                                   pytest.param(10**10**6, id="huge"), b"x" * 10**6, [0] * 20_000,
                                   {str(i): i for i in range(20_000)}, set(range(20_000))])  # fmt: skip
def test_an_incomplete_value_is_a_gap(value: Any) -> None:
    gaps = Gaps()
    acceptable(encode(value, gaps.at("model.hyperparameters.act")), gaps)
    assert gaps
    assert all(gap.fact.startswith("model.hyperparameters.act") for gap in gaps)
    assert all(gap.reason for gap in gaps)


UNKNOWN = eval("lambda: 1")  # its source is in no file


@pytest.mark.parametrize(
    ("value", "places"),
    [
        (functools.partial(print, UNKNOWN, end=UNKNOWN), ["args[0]", "keywords.end"]),
        (functools.partial(UNKNOWN), ["func"]),
        (collections.defaultdict(UNKNOWN), ["default_factory"]),
        (Options(extra=[UNKNOWN]), ["extra[0]"]),
        (slice(1, UNKNOWN), ["stop"]),
        ({"a": {"b": UNKNOWN}}, ["a.b"]),
    ],
)
def test_a_gap_names_the_part_that_is_not_recorded(value: Any, places: list[str]) -> None:
    gaps = Gaps()
    encode(value, gaps)
    assert [gap.fact for gap in gaps] == places


def test_long_lists_that_differ_after_the_cut_are_written_differently() -> None:
    one, two = list(range(100_000)), list(range(100_000))
    two[-1] = 0
    first, second = encode(one, Gaps()), encode(two, Gaps())
    assert first["length"] == 100_000
    assert first["value"] == second["value"]
    assert first["sha256"] != second["sha256"]


def test_a_lambda_keeps_its_source() -> None:
    act = lambda x: x * 17  # noqa: E731
    assert "x * 17" in encode(act, Gaps())["source"]


def test_a_value_that_contains_itself_is_a_gap() -> None:
    knot: list[Any] = []
    knot.append({"again": knot})
    gaps = Gaps()
    acceptable(encode(knot, gaps.at("x")), gaps)
    assert [gap.reason for gap in gaps] == ["it contains itself"]


def test_a_very_deep_value_is_truncated() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    gaps = Gaps()
    acceptable(encode(deep, gaps.at("x")), gaps)
    assert str(MAX_DEPTH) in gaps[0].reason


def test_a_very_large_value_is_truncated() -> None:
    gaps = Gaps()
    acceptable(encode([[["text" * 10] * 1000] * 1000] * 1000, gaps.at("x")), gaps)
    assert gaps
    assert len(gaps) < 10


def test_numpy_print_options_do_not_make_arrays_longer() -> None:
    with np.printoptions(threshold=sys.maxsize):
        assert len(json.dumps(encode(np.zeros(10**6), Gaps()))) < 200


def test_two_processes_write_equal_text(tmp_path: Path) -> None:
    (tmp_path / "things.py").write_text("class Thing: pass\ndef f(): pass\n")
    program = """
import sys
sys.path.insert(0, ".")
import json, functools, torch
from lightning_dtool.record import Gaps
from lightning_dtool.values.writing import encode
from things import Thing, f
value = [Thing(), lambda: 0, {"b", "a", "c", "d", ("x", frozenset({"p", "q", "r"}))}, functools.partial(f, Thing()),
         Thing().__init__, torch.Generator(), {Thing(): 1}, torch.nn.Linear(1, 1, bias=False), frozenset({Thing})]
gaps = Gaps()
print(json.dumps(encode(value, gaps.at("x"))), [gap.fact for gap in gaps])
"""
    runs = {
        programs.run("-c", program, cwd=tmp_path, env={"PYTHONHASHSEED": seed}, fresh=seed != programs.HASH_SEED).stdout
        for seed in ("1", programs.HASH_SEED)
    }
    assert len(runs) == 1
    assert "0x7" not in runs.pop()


def test_class_paths_of_functions_and_instances() -> None:
    assert class_path(Options()) == f"{__name__}:Options"
    assert class_path(torch.relu).endswith(":relu") or "relu" in class_path(torch.relu)
    assert class_path(Greedy()) == f"{__name__}:Greedy"
