"""The content of functions, methods and objects: what `encode` and `encode_in_detail` write, and the gaps they add."""

import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lightning_dtool.record import Gap, Gaps, as_text
from lightning_dtool.values import definitions
from lightning_dtool.values.numbers import MAX_VALUES
from lightning_dtool.values.reading import decode, unreadable
from lightning_dtool.values.writing import MAX_DEPTH, MAX_ITEMS, MAX_TEXT, encode, encode_in_detail

FACTOR = 3
NESTED = (1, [2.5, {"a": "b"}], {None, True})
LONGEST = [0] * MAX_VALUES
TOO_LONG = [0] * (MAX_VALUES + 1)
TOO_MANY = dict.fromkeys(range(MAX_VALUES + 1))
MIXED = [1, object()]
TABLE = {"a": 1}
MIXED_TABLE = {"a": 1, "b": object()}
WEIGHTS = torch.ones(2)
UNKNOWN = eval("lambda: 1")  # its source is in no file


class Unreadable:
    __slots__ = ()


UNREADABLE = Unreadable()


class Base:
    """Keeps its parameters, one of them under a private name."""

    def __init__(self, factor: Any, bias: Any = 0) -> None:
        self.factor = factor
        self._bias = bias

    def method(self) -> None:
        pass

    @classmethod
    def made(cls) -> None:
        pass


class Derived(Base):
    pass


class Slotted:
    """Has its attributes in slots. One is never assigned."""

    __slots__ = ("__weakref__", "absent", "factor")

    def __init__(self, factor: float) -> None:
        self.factor = factor


class SlottedOnce(Slotted):
    __slots__ = "bias"

    def __init__(self, factor: float, bias: float) -> None:
        super().__init__(factor)
        self.bias = bias


class Scaler:
    def scaled(self, x: Any, *, more: Any = UNREADABLE) -> Any:
        return x * FACTOR + more


class Forgetful:
    """Keeps neither of its parameters."""

    def __init__(self, rate: float, **options: Any) -> None:
        pass


class Doubling:
    def __init__(self, rate: float) -> None:
        self.z, self.a = 2 * rate, 1


class Weighted(nn.Module):
    """Keeps its parameter, and has weights."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.layer = nn.Linear(size, 1)


class Buffered(nn.Module):
    """Keeps its parameter, and has a buffer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.zeros(size))


class Gate(nn.Module):
    """Keeps its parameter, counts its calls, and has a buffer."""

    def __init__(self, size: int) -> None:
        nn.Module.__init__(self)
        self.size = size
        self.calls = 0
        self.register_buffer("mean", torch.zeros(size))


class Around(nn.Module):
    """Keeps its parameters as children, one of them under a private name."""

    def __init__(self, inner: nn.Module, outer: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self._outer = outer
        self.last = nn.Softmax(0)
        self.first = nn.ReLU()


def times(factor: int) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def scaled(x: Any, *, more: int = factor) -> Any:
            return factor * function(x) + more

        return scaled

    return decorate


def shifted(by: int) -> Any:
    def inner(x: Any, *, less: int = 0) -> Any:
        return x + by - less

    return inner


def with_globals(x: Any) -> Any:
    return x, NESTED, LONGEST, TOO_LONG, TOO_MANY, MIXED, TABLE, MIXED_TABLE, WEIGHTS, json, shifted, Base


def written(value: Any) -> tuple[Any, list[Gap]]:
    gaps = Gaps()
    return encode(value, gaps.at("x")), list(gaps)


def detailed(value: Any) -> tuple[Any, list[Gap]]:
    gaps = Gaps()
    return encode_in_detail(value, gaps.at("x")), list(gaps)


def in_library(cls: type) -> type:
    """Return a class as if an installed package had defined it."""
    content = {name: entry for name, entry in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    return type(cls.__name__, cls.__bases__, {**content, "__module__": "torch.made_up", "__qualname__": cls.__name__})


# -- functions ------------------------------------------------------------------------------------


def test_a_class_method_is_recorded_by_the_name_of_the_class_it_is_called_on() -> None:
    name = f"{__name__}:Derived.made"
    found, gaps = written(Derived.made)
    assert found == {"type": "builtins:function", "name": name}
    assert not gaps
    assert decode(found, argument="x", trust_source=True) == Derived.made
    assert "def made" in detailed(Derived.made)[0]["source"]


def test_a_function_that_cannot_be_imported_keeps_its_source_and_adds_a_gap() -> None:
    found, gaps = written(shifted(1))
    assert set(found) == {"type", "name", "source"}
    assert found["name"] == f"{__name__}:shifted.<locals>.inner"
    assert "x + by" in found["source"]
    assert [gap.fact for gap in gaps] == ["x"]
    assert found["name"] in gaps[0].reason
    assert gaps[0].remedy
    assert not detailed(shifted(1))[1]


def test_a_class_is_written_by_its_name_and_in_detail_with_its_source() -> None:
    found, gaps = written(Derived)
    assert found == {"type": "builtins:type", "name": f"{__name__}:Derived"}
    assert not gaps
    found, gaps = detailed(Derived)
    assert "class Derived(Base)" in found["source"]
    assert not gaps


def test_a_function_without_source_adds_one_gap() -> None:
    for found, gaps in (written(UNKNOWN), detailed(UNKNOWN)):
        assert found == {"type": "builtins:function", "name": f"{__name__}:<lambda>"}
        assert [gap.fact for gap in gaps] == ["x"]
        assert found["name"] in gaps[0].reason
        assert gaps[0].remedy


def test_functions_whose_source_is_shared_are_distinguished_by_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definitions, "_lambda_source", lambda function: None)  # as before Python 3.11
    one, two = (lambda x: x + 1), (lambda x: x * 2)
    first, second = encode(one), encode(two)
    assert first["source"] == second["source"]
    assert first["bytecode"].startswith("sha256:")
    assert first["bytecode"] != second["bytecode"]
    assert "bytecode" not in encode(shifted(1))


def test_a_lambda_with_its_own_source_has_no_bytecode() -> None:
    found = encode(
        lambda x: x + 1,
    )
    assert ("bytecode" in found) is not definitions.is_one_lambda(found["source"])


def test_only_constants_of_the_module_are_recorded_with_a_function() -> None:
    found, gaps = detailed(with_globals)
    assert set(found["globals"]) == {"NESTED", "LONGEST", "TABLE", "WEIGHTS"}
    assert found["globals"]["TABLE"] == {"a": 1}
    assert not gaps


def test_a_decorated_function_is_described_with_its_decorator() -> None:
    found, _ = detailed(times(2)(shifted(5)))
    assert "x + by" in found["source"]
    assert (found["closure"]["factor"], found["closure"]["by"]) == (2, 5)
    assert found["defaults"] == {"less": 0, "more": 2}
    assert detailed(times(3)(shifted(5)))[0] != found
    assert detailed(times(2)(shifted(6)))[0] != found


def test_a_part_of_a_function_that_cannot_be_read_adds_a_gap_at_its_place() -> None:
    _, gaps = detailed(shifted(Unreadable()))  # type: ignore[arg-type]
    assert [gap.fact for gap in gaps] == ["x.closure.by"]


# -- methods --------------------------------------------------------------------------------------


def test_a_method_is_recorded_by_its_name_and_in_detail_with_its_object() -> None:
    name = f"{__name__}:Base.method"
    found, gaps = written(Base(2).method)
    assert found == {"type": "builtins:method", "name": name, "missing": ["__self__"]}
    assert [gap.fact for gap in gaps] == ["x"]
    assert f"{__name__}:Base " in gaps[0].reason
    found, gaps = detailed(Base(2).method)
    assert (found["name"], found["missing"]) == (name, ["__self__"])
    assert found["self"]["init"] == {"factor": 2, "bias": 0}
    assert "def method" in found["source"]
    assert not gaps
    _, gaps = detailed(Base(Unreadable()).method)
    assert [gap.fact for gap in gaps] == ["x.__self__.factor"]
    with pytest.raises(Exception, match="__self__"):
        decode(encode(Base(2).method), argument="x", trust_source=True)


def test_what_a_method_uses_is_described() -> None:
    found, gaps = detailed(Scaler().scaled)
    assert found["globals"] == {"FACTOR": 3}
    assert set(found["defaults"]) == {"more"}
    assert [gap.fact for gap in gaps] == ["x.defaults.more"]


# -- objects --------------------------------------------------------------------------------------


def test_a_part_of_a_run_that_is_recorded_elsewhere_is_written_by_its_class() -> None:
    data = torch.utils.data.TensorDataset(torch.zeros(1))
    found, gaps = written(data)
    assert found == {"type": "torch.utils.data.dataset:TensorDataset", "repr": "TensorDataset"}
    assert [gap.fact for gap in gaps] == ["x"]
    assert found["type"] in gaps[0].reason
    assert gaps[0].remedy
    assert detailed(data) == (found, [])


def test_a_transform_of_albumentations_is_described_in_its_own_format() -> None:
    class Blur:
        def __init__(self, limit: Any) -> None:
            self.limit = limit

        def to_dict(self) -> dict[str, Any]:
            if self.limit is None:
                raise RuntimeError("no name")
            return {"transform": {"limit": self.limit}}

    Blur.__module__, Blur.__qualname__ = "albumentations.made.up", "Blur"
    init = {"type": "albumentations.made.up:Blur", "init": {"limit": 7}}
    assert written(Blur(7)) == (init, [])
    described, gaps = detailed(Blur(7))
    assert described == {"type": init["type"], "albumentations": {"transform": {"limit": 7}}}
    assert not gaps
    assert unreadable(described) is not None
    assert detailed(Blur(None))[0]["init"] == {"limit": None}
    _, gaps = detailed(Blur(Unreadable()))
    assert [gap.fact for gap in gaps] == ["x.transform.limit"]


def test_an_object_is_written_as_the_parameters_that_it_keeps() -> None:
    assert written(Derived(2, [1])) == ({"type": f"{__name__}:Derived", "init": {"factor": 2, "bias": [1]}}, [])
    _, gaps = written(Base(1, Unreadable()))
    assert [gap.fact for gap in gaps] == ["x.bias"]


def test_parameters_that_an_object_keeps_in_slots_are_written() -> None:
    found, gaps = detailed(SlottedOnce(2, 3))
    assert found["init"] == {"factor": 2, "bias": 3}
    assert "attributes" not in found
    assert not gaps


def test_parameters_that_an_object_does_not_keep_are_missing() -> None:
    found, gaps = written(Forgetful(1.0))
    assert found == {"type": f"{__name__}:Forgetful", "init": {}, "missing": ["rate", "options"]}
    assert [gap.fact for gap in gaps] == ["x"]
    assert found["type"] in gaps[0].reason
    assert "rate, options" in gaps[0].reason
    assert gaps[0].remedy
    assert not detailed(Forgetful(1.0))[1]  # its behaviour cannot depend on what it does not keep


def test_an_object_without_parameters_or_attributes_is_written_by_its_repr() -> None:
    found, gaps = written(object())
    assert found == {"type": "builtins:object", "repr": "<object object at 0x…>"}
    assert [gap.fact for gap in gaps] == ["x"]
    assert "builtins:object" in gaps[0].reason
    assert gaps[0].remedy


@pytest.mark.parametrize("module", [Weighted(2), Buffered(2)])
def test_the_weights_of_a_module_are_missing_without_detail(module: nn.Module) -> None:
    found, gaps = written(module)
    assert (found["init"], found["missing"]) == ({"size": 2}, ["weights"])
    assert [gap.fact for gap in gaps] == ["x"]
    assert found["type"] in gaps[0].reason
    assert gaps[0].remedy
    found, gaps = detailed(module)
    assert "missing" not in found
    assert not gaps


def test_an_object_of_a_users_class_is_described_with_the_sources_of_its_bases() -> None:
    found, gaps = detailed(Derived(1))
    assert "class Derived(Base)" in found["source"]
    assert "class Base:" in found["source"]
    assert not gaps


def test_a_class_without_source_adds_a_gap() -> None:
    made = type("Made", (Derived,), {"__module__": __name__})
    found, gaps = detailed(made(1))
    assert "class Derived(Base)" in found["source"]
    assert [gap.fact for gap in gaps] == ["x"]
    assert found["type"] in gaps[0].reason
    assert gaps[0].remedy


def test_the_children_of_a_module_are_described_in_their_order() -> None:
    found, gaps = detailed(Around(nn.ReLU(), nn.Dropout(0.5)))
    assert set(found["init"]) == {"inner", "outer"}
    assert [name for name, _ in found["children"]] == ["last", "first"]
    assert found["children"][0][1]["type"] == "torch.nn.modules.activation:Softmax"
    assert "attributes" not in found
    assert not gaps
    sequence = nn.Sequential(nn.Softmax(0), nn.ReLU())
    sequence[1].inplace = Unreadable()  # type: ignore[assignment]
    found, gaps = detailed(sequence)
    assert [name for name, _ in found["children"]] == ["0", "1"]
    assert [gap.fact for gap in gaps] == ["x.1.inplace"]


def test_a_module_in_evaluation_mode_says_so() -> None:
    assert detailed(Buffered(2).eval())[0]["mode"] == "eval"
    assert "mode" not in detailed(Buffered(2))[0]


def test_the_other_attributes_of_a_users_object_are_described_by_name() -> None:
    found, gaps = detailed(Doubling(2))
    assert list(found["attributes"].items()) == [("a", 1), ("z", 4)]
    assert found["missing"] == ["rate"]
    assert not gaps
    kept = Base(1)
    kept.seen = 5  # type: ignore[attr-defined]
    assert detailed(kept)[0]["attributes"] == {"seen": 5}
    kept.seen = Unreadable()  # type: ignore[attr-defined]
    assert [gap.fact for gap in detailed(kept)[1]] == ["x.seen"]


def test_an_object_of_an_installed_class_is_described_by_its_parameters_if_it_keeps_them() -> None:
    kept = in_library(Base)(1)
    kept.seen = 5
    assert detailed(kept) == written(kept)
    assert "attributes" not in detailed(kept)[0]
    assert detailed(in_library(Doubling)(2))[0]["attributes"] == {"a": 1, "z": 4}


def test_a_module_of_an_installed_class_is_described_by_its_parameters_and_tensors() -> None:
    module = nn.BatchNorm1d(2)
    found, _ = detailed(module)
    assert found["missing"] == ["device", "dtype"]
    assert {"running_mean", "running_var", "num_batches_tracked"} <= set(found["attributes"])
    kept = in_library(Gate)(2)
    assert kept.calls == 0
    found, gaps = detailed(kept)
    assert found == {"type": "torch.made_up:Gate", "init": {"size": 2}, "attributes": {"mean": encode(torch.zeros(2))}}
    assert not gaps


# -- bounds ---------------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_containers_are_written_to_the_maximum_depth() -> None:
    assert written(nested(MAX_DEPTH)) == (nested(MAX_DEPTH), [])
    found, gaps = written(nested(MAX_DEPTH + 1))
    for _ in range(MAX_DEPTH):
        [found] = found
    assert found == {"type": "builtins:list", "repr": "…"}
    assert [gap.fact for gap in gaps] == ["x" + "[0]" * MAX_DEPTH]
    assert gaps[0].remedy


def test_a_value_that_contains_itself_is_written_once() -> None:
    knot: dict[str, Any] = {}
    knot["again"] = knot
    found, gaps = written(knot)
    assert found == {"again": {"type": "builtins:dict", "repr": "…"}}
    assert [gap.fact for gap in gaps] == ["x.again"]
    shared = [1]
    assert written([shared, shared]) == ([[1], [1]], [])


@pytest.mark.parametrize(
    ("make", "content"),
    [
        (lambda size: [0] * size, {"value": [0, 0, 0]}),
        (lambda size: (0,) * size, {"value": [0, 0, 0]}),
        (lambda size: dict.fromkeys(map(str, range(size))), {"items": [["0", None], ["1", None], ["2", None]]}),
        (lambda size: set(range(size)), {"value": []}),
    ],
)
def test_a_container_with_too_many_entries_keeps_examples_and_its_length(make: Any, content: dict[str, Any]) -> None:
    size = MAX_ITEMS + 1
    assert not written(make(MAX_ITEMS))[1]
    found, gaps = written(make(size))
    assert content.items() <= found.items()
    assert (found["type"], found["length"]) == (f"builtins:{type(make(0)).__name__}", size)
    assert [gap.fact for gap in gaps] == ["x"]
    [kept] = content.values()
    assert f"{len(kept)} of its {size}" in gaps[0].reason
    assert gaps[0].remedy


@pytest.mark.parametrize("character", ["a", "\ud800"])
def test_a_text_that_is_too_long_keeps_its_beginning_length_and_hash(character: str) -> None:
    text = character * (MAX_TEXT + 1)
    assert not written("a" * MAX_TEXT)[1]
    found, gaps = written(text)
    assert found == {
        "type": "builtins:str",
        "value": as_text(character * definitions.MAX_REPR),
        "length": len(text),
        "sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
    }
    assert [gap.fact for gap in gaps] == ["x"]
    assert str(len(text)) in gaps[0].reason
    assert gaps[0].remedy
