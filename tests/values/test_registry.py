"""The registry of types: values of registered types are read back equal, all others give a gap."""

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import json
import math
import operator
import pathlib
import re
import types
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_dtool.record import Gaps
from lightning_dtool.values.reading import decode, unreadable
from lightning_dtool.values.registry import REGISTRY
from lightning_dtool.values.writing import encode


class Activation(enum.Enum):
    RELU = "relu"
    NONE = float("inf")


class Colour(enum.Flag):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Options:
    rate: float = 0.1
    extra: Any = None
    twice: float = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.twice = 2 * self.rate


class Point(NamedTuple):
    x: Any
    y: Any


class Name(str):
    pass


class Count(int):
    pass


class Rate(float):
    pass


class Key(bytes):
    pass


class Words(list[Any]):
    pass


class Bag(frozenset[Any]):
    pass


class Settings(dict[Any, Any]):
    pass


class Place(pathlib.PurePosixPath):
    pass


class Scale:
    """Keeps its parameters as attributes, as transforms do."""

    def __init__(self, factor: Any, *, bias: Any = None) -> None:
        self.factor = factor
        self._bias = bias
        self.used = 0

    def __eq__(self, other: object) -> bool:
        return type(other) is Scale and same((other.factor, other._bias), (self.factor, self._bias))

    __hash__ = None  # type: ignore[assignment]

    def apply(self) -> None:
        pass


class Bare:
    """Has no parameters: its attributes are assigned from outside."""

    def __eq__(self, other: object) -> bool:
        return type(other) is Bare and same(vars(other), vars(self))

    __hash__ = None  # type: ignore[assignment]


def bare(**kept: Any) -> Bare:
    made = Bare()
    vars(made).update(kept)
    return made


TEXT = st.one_of(st.text(st.characters(), max_size=8), st.just("\ud800 \udcff"), st.just("type"))
HASHABLE = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.tuples(TEXT, st.integers()))
PLAIN = st.one_of(HASHABLE, st.lists(HASHABLE, max_size=3), st.dictionaries(TEXT, HASHABLE, max_size=3))
NAMES = st.sampled_from(["a", "type", "value", "rate"])
ZONES = st.one_of(st.none(), st.just(datetime.timezone(datetime.timedelta(hours=5, minutes=30))))
FLOATS = st.floats(width=16)


def tensors(dtype: torch.dtype, numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(numbers, min_size=1, max_size=4).map(lambda found: torch.tensor(found, dtype=dtype))


def number(kind: Any) -> st.SearchStrategy[Any]:
    if issubclass(kind, np.str_):
        return TEXT.map(kind)
    if kind is np.bool_:
        return st.booleans().map(kind)
    if issubclass(kind, np.integer):
        return st.integers(int(np.iinfo(kind).min), int(np.iinfo(kind).max)).map(kind)
    return (FLOATS if issubclass(kind, np.floating) else st.complex_numbers(width=32, max_magnitude=100)).map(kind)


NUMBERS = [
    np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
    np.float16, np.float32, np.float64, np.complex64, np.complex128, np.str_,
]  # fmt: skip

STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "builtins:str": TEXT,
    "builtins:int": st.one_of(st.integers(), st.sampled_from([2**63, -(2**64), 10**3000, -(10**3000)])),
    "builtins:float": st.floats(),
    "builtins:complex": st.complex_numbers(),
    "builtins:bytes": st.binary(),
    "builtins:bytearray": st.binary().map(bytearray),
    "builtins:list": st.lists(PLAIN),
    "builtins:tuple": st.lists(PLAIN).map(tuple),
    "builtins:set": st.sets(HASHABLE),
    "builtins:frozenset": st.frozensets(HASHABLE),
    "collections:deque": st.builds(collections.deque, st.lists(PLAIN), st.one_of(st.none(), st.integers(0, 3))),
    "builtins:dict": st.dictionaries(HASHABLE, PLAIN),
    "collections:OrderedDict": st.dictionaries(HASHABLE, PLAIN).map(collections.OrderedDict),
    "collections:defaultdict": st.dictionaries(HASHABLE, PLAIN).map(lambda it: collections.defaultdict(list, it)),
    "builtins:range": st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3)),
    "builtins:slice": st.builds(slice, st.none() | st.integers(), st.none() | st.integers()),
    "fractions:Fraction": st.fractions(),
    "datetime:timedelta": st.timedeltas(),
    "decimal:Decimal": st.decimals(),
    "uuid:UUID": st.uuids(),
    "datetime:date": st.dates(),
    "datetime:time": st.times(timezones=ZONES),
    "datetime:datetime": st.datetimes(timezones=ZONES),
    "builtins:ellipsis": st.just(...),
    "pathlib:PosixPath": TEXT.filter(lambda it: "\0" not in it).map(pathlib.Path),
    "pathlib:WindowsPath": st.nothing(),
    "pathlib:PurePosixPath": TEXT.map(pathlib.PurePosixPath),
    "pathlib:PureWindowsPath": TEXT.map(pathlib.PureWindowsPath),
    "argparse:Namespace": st.dictionaries(NAMES, PLAIN).map(lambda it: argparse.Namespace(**it)),
    "types:SimpleNamespace": st.dictionaries(NAMES, PLAIN).map(lambda it: types.SimpleNamespace(**it)),
    "re:Pattern": st.sampled_from([re.compile("a+", re.I), re.compile(b"[\xff]")]),
    "functools:partial": st.builds(
        lambda args, keywords: functools.partial(print, *args, **keywords),
        st.lists(PLAIN, max_size=2),
        st.dictionaries(NAMES, PLAIN, max_size=2),
    ),
    "operator:itemgetter": st.lists(PLAIN, min_size=1, max_size=3).map(lambda it: operator.itemgetter(*it)),
    "operator:attrgetter": st.lists(NAMES, min_size=1, max_size=3).map(lambda it: operator.attrgetter(*it)),
    "torch:Tensor": st.one_of(
        *(tensors(dtype, FLOATS) for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)),
        *(tensors(dtype, st.integers(0, 9)) for dtype in (torch.uint8, torch.int64, torch.bool)),
        tensors(torch.complex64, st.complex_numbers(width=64, max_magnitude=9)),
        st.sampled_from([torch.tensor(1.5), torch.zeros(2, 0, 3), torch.ones(2, 3), torch.ones(1, requires_grad=True)]),
    ),
    "torch.nn.parameter:Parameter": st.builds(
        nn.Parameter, tensors(torch.float32, FLOATS), requires_grad=st.booleans()
    ),
    "torch:Size": st.lists(st.integers(0, 9)).map(torch.Size),
    "torch:dtype": st.sampled_from([torch.float16, torch.bool, torch.complex64]),
    "torch:layout": st.just(torch.sparse_coo),
    "torch:memory_format": st.just(torch.channels_last),
    "torch:device": st.sampled_from([torch.device("cpu"), torch.device("cuda:1"), torch.device("meta")]),
    "numpy:ndarray": st.one_of(
        *(st.lists(number(kind), max_size=4).map(lambda it, kind=kind: np.array(it, kind)) for kind in NUMBERS[:-1]),
        st.sampled_from([np.array("a"), np.array(["oak", "a"]), np.zeros((3, 0)), np.zeros((2, 1)), np.ones(2, ">i4")]),
    ),
    **{f"numpy:{kind.__name__}": number(kind) for kind in NUMBERS},
    "numpy:datetime64": st.sampled_from([np.datetime64("2024-01-02"), np.datetime64("NaT", "s")]),
    "numpy:timedelta64": st.sampled_from([np.timedelta64(5, "D"), np.timedelta64("NaT", "h")]),
    "numpy:dtype": st.sampled_from([np.dtype("float32"), np.dtype(">i2"), np.dtype("U3")]),
    "numpy:ufunc": st.sampled_from([np.sin, np.add]),
    "torch:Generator": st.nothing(),
    "numpy.random:Generator": st.nothing(),
    "numpy.random:RandomState": st.nothing(),
    "builtins:type": st.sampled_from([nn.ReLU, int, dict, Point, Options]),
    "builtins:method": st.nothing(),
    "builtins:function": st.sampled_from(
        [print, torch.relu, nn.functional.gelu, nn.functional.relu, math.sin, str.upper, dict.fromkeys, np.load, bare,
         Scale.apply]
    ),
    "builtins:module": st.sampled_from([json, np, nn.functional]),
    "enum:Enum": st.sampled_from([*Activation, Colour.RED, Colour.RED | Colour.BLUE, Level.LOW]),
    "collections.abc:Mapping": st.dictionaries(HASHABLE, PLAIN).map(Settings),
    "builtins:str family": TEXT.map(Name),
    "builtins:int family": st.integers().map(Count),
    "builtins:float family": st.floats().map(Rate),
    "builtins:bytes family": st.binary().map(Key),
    "builtins:tuple family": st.one_of(st.builds(Point, PLAIN, PLAIN), st.lists(PLAIN).map(Words)),
    "builtins:set family": st.frozensets(HASHABLE).map(Bag),
    "os:PathLike": TEXT.map(Place),
    "dataclasses:dataclass": st.builds(Options, extra=PLAIN),
    "builtins:object": st.one_of(
        st.builds(Scale, PLAIN, bias=PLAIN), st.dictionaries(st.text(max_size=5), PLAIN).map(lambda it: bare(**it))
    ),
}  # fmt: skip
"""Strategies for values of each registered type. Types with an empty strategy are not read back."""


def same(one: Any, other: Any) -> bool:
    """Return True if two values are equal and of equal types at every level. nan equals itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return (one.dtype, one.shape, one.requires_grad) == (other.dtype, other.shape, other.requires_grad) and (
            torch.equal(torch.isnan(one), torch.isnan(other))
            and torch.equal(torch.nan_to_num(one.detach()), torch.nan_to_num(other.detach()))
        )
    if isinstance(one, np.ndarray | np.generic):
        if one.dtype.kind in "fc":
            return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)
        return (one.dtype, one.shape) == (other.dtype, other.shape) and one.tobytes() == other.tobytes()
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, decimal.Decimal):
        return one.as_tuple() == other.as_tuple()
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, list | tuple | collections.deque):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set | frozenset):
        return sorted(map(repr, one)) == sorted(map(repr, other))
    if isinstance(one, argparse.Namespace | types.SimpleNamespace) or dataclasses.is_dataclass(one):
        return same(vars(one), vars(other))
    if isinstance(one, operator.itemgetter | operator.attrgetter):
        return same(one.__reduce__()[1], other.__reduce__()[1])
    if isinstance(one, functools.partial):
        return same((one.func, one.args, one.keywords), (other.func, other.args, other.keywords))
    return bool(one == other)


def test_every_registered_type_has_values_in_this_test() -> None:
    found: list[str] = []
    for name in REGISTRY:  # the name of a family may be the name of a type
        found.append(f"{name} family" if name in found else name)
    assert found == list(STRATEGIES)


@pytest.mark.parametrize("name", [name for name, strategy in STRATEGIES.items() if not strategy.is_empty])
def test_a_registered_type_is_read_back_equal(name: str) -> None:
    @given(STRATEGIES[name])
    @settings(max_examples=30, deadline=None)
    def check(value: Any) -> None:
        gaps = Gaps()
        written = json.loads(json.dumps(encode(value, gaps.at("x")), allow_nan=False))
        assert not gaps
        assert unreadable(written) is None
        assert same(decode(written, argument="x", trust_source=True), value)

    check()


def test_a_numpy_text_keeps_null_characters_at_its_end() -> None:
    read = decode(encode(np.str_("oak\0"), Gaps()), argument="x", trust_source=True)
    assert (type(read), list(read)) == (np.str_, ["o", "a", "k", "\0"])


class Keeper:
    """Does not keep its argument."""

    def __init__(self, factor: float) -> None:
        self.doubled = 2 * factor

    def method(self) -> None:
        pass


class Rude:
    __slots__ = ()

    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = object.__hash__


class RudeMapping(dict[Any, Any]):
    def items(self) -> Any:
        raise RuntimeError("no")


class Zone(datetime.tzinfo):
    def utcoffset(self, when: Any) -> Any:
        return datetime.timedelta(hours=1)


def local() -> Any:
    def inner() -> None:
        pass

    return inner


def with_attribute(value: Any) -> Any:
    value.unit = "mm"
    return value


OTHERS = {
    "an object": object(),
    "an object that does not keep its parameters": Keeper(1),
    "an object that cannot be read": Rude(),
    "a mapping that cannot be read": RudeMapping(a=1),
    "a lambda": lambda x: x,
    "a local function": local(),
    "a method": Keeper(1).method,
    "a method of a list": [].append,
    "a module with weights": nn.Sequential(nn.Linear(1, 1)),
    "a module with a part": nn.ModuleDict({"a": nn.ReLU()}),
    "a generator": torch.Generator(),
    "NumPy's generator": np.random.default_rng(1),
    "an iterator": iter([]),
    "a lock": __import__("threading").Lock(),
    "a large tensor": torch.zeros(10**5),
    "a sparse tensor": torch.zeros(2, 2).to_sparse(),
    "a meta tensor": torch.zeros(2, device="meta"),
    "a subclass of tensors": torch.zeros(2).as_subclass(type("Own", (torch.Tensor,), {})),
    "a large array": np.zeros(10**5),
    "an array of objects": np.array([object()]),
    "a structured array": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "a structured type": np.dtype([("a", "i4")]),
    "a long double": np.longdouble(1) / 3,
    "a function made with NumPy": np.frompyfunc(lambda x: x, 1, 1),
    "a long text": "a" * 10**6,
    "long bytes": b"\xff" * 10**6,
    "a huge integer": 10**200_000,
    "a long list": [0] * 20_000,
    "a large list": [["text" * 10] * 1000] * 1000,
    "a large set": set(range(20_000)),
    "a large dict": {str(number): 0 for number in range(20_000)},
    "a time zone of a class": datetime.datetime(2024, 1, 1, tzinfo=Zone()),
    "a module that is not imported": types.ModuleType("made_up"),
    "a frame": __import__("sys")._getframe(),
    "a list with an attribute": with_attribute(Words([1])),
    "a set with an attribute": with_attribute(Bag({1})),
    "a dict with an attribute": with_attribute(Settings(a=1)),
    "an ordered dict with an attribute": with_attribute(collections.OrderedDict(a=1)),
    "a text with an attribute": with_attribute(Name("a")),
    "an integer with an attribute": with_attribute(Count(1)),
    "a float with an attribute": with_attribute(Rate(0.1)),
    "bytes with an attribute": with_attribute(Key(b"a")),
    "a dataset": torch.utils.data.TensorDataset(torch.zeros(1)),
}


@pytest.mark.parametrize("value", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("wrap", [lambda it: it, lambda it: [it], lambda it: {"a": (it,)}, lambda it: Scale(it)])
def test_a_value_of_any_other_type_gives_a_gap(value: Any, wrap: Any) -> None:
    gaps = Gaps()
    written = encode(wrap(value), gaps.at("x"))
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert gaps
    assert all(gap.fact.startswith("x") and gap.reason for gap in gaps)


class AttributeDict(dict[str, Any]):
    """Offers its entries as attributes, as many dicts for configurations do."""

    def __init__(self, entries: dict[str, Any]) -> None:
        super().__init__(entries)
        self.__dict__ = self


def test_a_value_with_attributes_beside_its_content_adds_a_gap_and_is_not_read_back() -> None:
    gaps = Gaps()
    written = encode({"rates": with_attribute(Rate(0.1))}, gaps.at("x"))
    assert [(gap.fact, gap.reason) for gap in gaps] == [("x.rates", "its attributes are not recorded: unit")]
    assert unreadable(written) == "values.test_registry:Rate is recorded without unit"


def test_attributes_that_are_the_entries_of_a_dict_add_no_gap() -> None:
    gaps = Gaps()
    written = encode(AttributeDict({"lr": 0.1, "layers": [1, 2]}), gaps)
    assert not gaps
    assert decode(written, argument="x", trust_source=True) == {"lr": 0.1, "layers": [1, 2]}
