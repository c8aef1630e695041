"""Fingerprints of data that is not a dtool dataset: what they cover, and what they say that they leave out."""

import collections
import dataclasses
import enum
import itertools
import operator
import os
import random
import threading
import types
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import programs
from kit import TinyNet
from lightning_dtool.capture import content
from lightning_dtool.capture.fingerprint import Fingerprint, fingerprint, holds_data
from lightning_dtool.values.attributes import has_hidden_state


class Holder(Dataset):  # type: ignore[type-arg]
    """A dataset that holds anything in its attributes."""

    def __init__(self, data: Any, **others: Any) -> None:
        self.data = data
        self.__dict__.update(others)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return self.data[index]


class Slots:
    __slots__ = ("itself", "values")

    def __init__(self, values: Any) -> None:
        self.values = values
        self.itself = self


@dataclasses.dataclass
class Row:
    x: Any
    y: int = 1


class Graph:
    """As a graph in memory keeps its data: behind attributes with an underscore."""

    def __init__(self, x: Any) -> None:
        self._store = {"x": x, "parent": None}
        self._lock = threading.Lock()


def closed_over(values: Any) -> Callable[[int], Any]:
    return lambda index: values[index]


def masked(values: Any) -> Any:
    return np.ma.MaskedArray(np.arange(4), mask=values > 5)


class Entries(list[Any]):
    pass


class Pairs(dict[str, Any]):
    pass


def with_attribute(value: Any, extra: Any) -> Any:
    value.extra = extra
    return value


def uses_a_global(values: Any) -> Any:
    variables = {"TABLE": values, "__name__": __name__}
    exec("def read(index):\n    return TABLE[index]", variables)
    return [1, variables["read"]]


def table(library: str, make: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    return lambda values: make(pytest.importorskip(library), values)


def image(values: Any) -> Any:
    from PIL import Image

    return [Image.fromarray(values.astype(np.uint8).reshape(2, 2))]


FORMS: dict[str, Callable[[Any], Any]] = {
    "array": lambda values: values,
    "a dict": lambda values: {"reals": values},
    "a dict of dicts of tensors": lambda values: {"a": {"b": [torch.tensor(values)]}},
    "dicts in a list": lambda values: [{"x": value, "y": 1} for value in values.tolist()],
    "texts": lambda values: [f"a text with {value}" for value in values],
    "a set": lambda values: {f"{value}" for value in values},
    "bytes": lambda values: [values.tobytes(), b"end"],
    "an array of objects": lambda values: np.array([1, "a", None, {"x": values}], dtype=object),
    "a masked array": masked,
    "a list with attributes": lambda values: with_attribute(Entries([1]), values),
    "a dict with attributes": lambda values: with_attribute(Pairs(a=1), values),
    "a tensor with attributes": lambda values: with_attribute(torch.zeros(2), values),
    "an attribute of a class": lambda values: type("Table", (), {"rows": values})(),
    "a variable of the script": uses_a_global,
    "a sparse tensor": lambda values: torch.tensor(values).to_sparse(),
    "a sparse matrix": table("scipy.sparse", lambda sparse, values: sparse.csr_array(values.reshape(2, 2))),
    "an object": Graph,
    "slots and a cycle": Slots,
    "a dataclass": lambda values: [Row(values)],
    "a closure": closed_over,
    "a partial function": lambda values: partial(np.take, values),
    "a bound method": lambda values: Holder(values).__getitem__,
    "a dataset inside": Holder,
    "a module": lambda values: torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(values).float())]),
    "an image": image,
    "a DataFrame": table("pandas", lambda pandas, values: pandas.DataFrame({"a": values, "b": list("abcd")})),
    "texts in a DataFrame": table(
        "pandas", lambda pandas, values: pandas.DataFrame({"b": [f"text {value}" for value in values]})
    ),
    "objects in a DataFrame": table("pandas", lambda pandas, values: pandas.DataFrame({"b": [values, 1, "a"]})),
    "an index": table("pandas", lambda pandas, values: pandas.DataFrame({"a": [0, 0, 0, 0]}, index=values)),
    "a categorical Series": table("pandas", lambda pandas, values: pandas.Series(values).astype("category")),
    "times in a Series": table("pandas", lambda pandas, values: pandas.Series(pandas.to_datetime(values))),
    "a missing value": table(
        "pandas", lambda pandas, values: pandas.Series([1, None if values[3] > 3 else 2, 3], dtype="Int64")
    ),
    "missing values among objects": table(
        "pandas", lambda pandas, values: pandas.Series([pandas.NA, pandas.NaT, *values.tolist()], dtype=object)
    ),
    "a frame of polars": table(
        "polars", lambda polars, values: polars.DataFrame({"a": values, "b": [[1], [2], [3], []]})
    ),
    "a table of Arrow": table("pyarrow", lambda arrow, values: arrow.table({"a": values, "b": list("abcd")})),
    "a slice of a table": table(
        "pyarrow", lambda arrow, values: arrow.table({"a": np.concatenate([values, values])}).slice(2, 4)
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_content_in_any_form_is_covered(form: str) -> None:
    values = np.arange(4)
    other = values.copy()
    other[3] = 7
    first, again, changed = (fingerprint(Holder(FORMS[form](each))) for each in (values, values.copy(), other))
    assert first.is_complete, first.omits
    assert first == again
    assert first.covers == "what it holds in memory: data"
    assert changed.digest != first.digest


Tagged = type("Tagged", (str,), {})
Point = collections.namedtuple("Point", "x y")
Place = collections.namedtuple("Place", "x z")
Place.__qualname__ = Place.__name__ = "Point"


class Private:
    __slots__ = ("__hidden",)

    def __init__(self, value: int) -> None:
        self.__hidden = value


class Silent(list[Any]):
    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Any:
        return iter(())


def a_class(value: int) -> type:
    return type("Settings", (), {"scale": value, "__module__": __name__})


def a_module(value: int) -> types.ModuleType:
    made = types.ModuleType("settings_of_a_test")
    made.scale = value  # type: ignore[attr-defined]
    return made


def with_default(value: int) -> Any:
    def function(index: int, scale: int = value) -> int:
        return index * scale

    return function


def of_exec(value: int) -> Any:
    made: dict[str, Any] = {}
    exec(f"f = lambda x: x * {value}", made)
    return made["f"]


def in_eval_mode(value: int) -> torch.nn.Module:
    return torch.nn.Dropout().train(bool(value))


def frame(make: Callable[[Any, int], Any]) -> Callable[[int], Any]:
    return lambda value: make(pytest.importorskip("pandas"), value)


def with_attrs(table: Any, value: int) -> Any:
    table.attrs["scale"] = value
    return table


HELD = [torch.zeros(2)]
"""Objects that weak references refer to."""


def reference(value: int) -> Any:
    HELD.append(torch.tensor([float(value)]))
    return weakref.ref(HELD[-1])


NEARLY_EQUAL: dict[str, Callable[[int], Any]] = {
    "the length of a deque": lambda value: collections.deque([1], maxlen=5 + value),
    "the factory of a defaultdict": lambda value: collections.defaultdict((int, list)[value], {1: 2}),
    "what a factory closes over": lambda value: collections.defaultdict(lambda: value, {1: 2}),
    "the value of an enum": lambda value: enum.Enum("Kind", {"A": value}).A,  # type: ignore[attr-defined]
    "the fields of a named tuple": lambda value: (Point, Place)[value](1, 2),
    "a private slot": Private,
    "the attribute of a text": lambda value: with_attribute(Tagged("a"), value),
    "the shape of a memoryview": lambda value: memoryview(b"abcd").cast("B", ((4,), (2, 2))[value]),
    "the fields of an array": lambda value: np.zeros(2, dtype=[("a", "i4"), ("bc"[value], "f8")]),
    "the fill value of a masked array": lambda value: np.ma.MaskedArray([1, 2], [0, 1], fill_value=value),
    "a row of a nested tensor": lambda value: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(1) + value]),
    "a row of a jagged tensor": lambda value: torch.nested.nested_tensor(
        [torch.zeros(2), torch.zeros(1) + value], layout=torch.jagged
    ),
    "a list that hides its entries": lambda value: Silent([value]),
    "an attribute of a class": lambda value: a_class(value)(),
    "a class": a_class,
    "a module": a_module,
    "a default": with_default,
    "a function that exec made": of_exec,
    "the mode of a module": in_eval_mode,
    "what a reference refers to": reference,
    "a namespace": lambda value: types.SimpleNamespace(scale=value),
    "a getter": lambda value: operator.itemgetter(value),
    "the seed of torch's generator": lambda value: torch.Generator().manual_seed(value),
    "the seed of NumPy's generator": np.random.default_rng,
    "a relative path": lambda value: Path(("train", "val")[value], "x"),
    "the type of a column's name": frame(lambda pandas, value: pandas.DataFrame([[1]], columns=[(1, "1")[value]])),
    "the name of an index": frame(lambda pandas, value: pandas.Series([1], index=pandas.Index([1], name="ab"[value]))),
    "None and NaN": frame(lambda pandas, value: pandas.Series(["a", (None, float("nan"))[value]], dtype=object)),
    "the attributes of a frame": frame(lambda pandas, value: with_attrs(pandas.DataFrame([[1]]), value)),
    "the frequency of a period": frame(
        lambda pandas, value: pandas.Series(pandas.period_range("2020", periods=2, freq="YM"[value]))
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("form", NEARLY_EQUAL)
def test_nearly_equal_content_has_another_fingerprint(form: str) -> None:
    first, again, changed = (fingerprint([torch.zeros(1), NEARLY_EQUAL[form](value)]) for value in (0, 0, 1))
    assert first.is_complete, first.omits
    assert first == again
    assert changed.digest != first.digest


SCALE: Any = 1


def scaled(index: int) -> Any:
    return index * SCALE


class Scaled(Dataset):  # type: ignore[type-arg]
    factor = 1

    def __init__(self) -> None:
        self.x = torch.zeros(3)

    def __getitem__(self, index: int, shift: int = 0) -> Any:
        return scaled(index) * self.factor + shift


def with_variable(value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SCALE", value)


def with_class_attribute(value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scaled, "factor", value)


def with_another_default(value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scaled.__getitem__, "__defaults__", (value,))


def with_another_method(value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scaled, "__getitem__", lambda self, index: index * value)


@pytest.mark.parametrize("change", [with_variable, with_class_attribute, with_another_default, with_another_method])
def test_what_the_code_of_a_dataset_uses_is_covered(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for value in (3, 3, 4):
        change(value, monkeypatch)
        found.append(fingerprint(Scaled()))
    assert found[0] == found[1]
    assert found[0].is_complete
    assert found[2].digest != found[0].digest


def test_paths_around_a_dataset_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SCALE", str(tmp_path))
    first = fingerprint(Scaled())
    (tmp_path / "other").mkdir()
    monkeypatch.setitem(globals(), "SCALE", str(tmp_path / "other"))
    assert fingerprint(Scaled()) == first


def test_the_weights_of_a_lightning_module_inside_a_dataset_are_left_out() -> None:
    assert fingerprint(Holder([torch.zeros(1), TinyNet()])).omits == ("data[1]: the weights of a kit:TinyNet",)


def test_a_dataset_that_reads_the_environment_is_not_known_completely() -> None:
    class Reads(Scaled):
        def __getitem__(self, index: int, shift: int = 0) -> Any:
            return index * int(os.environ["SCALE"])

    (omitted,) = fingerprint(Reads()).omits
    assert "`environ`" in omitted


def test_every_attribute_is_covered() -> None:
    x = torch.zeros(3)
    found = {
        fingerprint(Holder(x, **others)).digest
        for others in ({}, {"_labels": [1]}, {"_labels": [2]}, {"_labels": [True]}, {"_labels": [1.0]}, {"shift": 3})
    }
    assert len(found) == 6
    assert fingerprint({"a": [1, 12]}) != fingerprint({"a": [11, 2]})
    assert fingerprint(["a", "b"]) != fingerprint(["b", "a"])
    assert fingerprint([10**5000]) != fingerprint([10**5000 + 1])


def test_a_fingerprint_is_the_same_in_every_process(tmp_path: Path) -> None:
    code = """
import torch
from lightning_dtool.capture.fingerprint import fingerprint
print(fingerprint({"a": {"x", "y", "z"}, "b": [torch.zeros(2), object()], "c": len}).digest)
"""
    # Sets have another order here, unless this process happens to have the same seed.
    here = fingerprint({"a": {"x", "y", "z"}, "b": [torch.zeros(2), object()], "c": len}).digest
    there = programs.run("-c", code, cwd=tmp_path, env={"PYTHONHASHSEED": "1"}, fresh=True).stdout.strip()
    assert there == here


# -- what is left out -----------------------------------------------------------------------------


def test_what_is_too_large_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MAX_BYTES", 10_000)

    def of(size: int, label: int) -> Fingerprint:
        return fingerprint(Holder({"images": np.zeros(size), "labels": np.array([label])}, names=["a"]))

    found = of(2000, 1)
    assert found.omits == ("data['images']: 0.016 MB, as the limit is 0.01 MB in all",)
    assert found.covers == "what it holds in memory: data, names"
    assert not found.is_complete
    assert len({found.digest, of(2000, 2).digest, of(2001, 1).digest}) == 3


class Reads(Holder):
    def __getitem__(self, index: int) -> Any:
        return self.row(index)

    def row(self, index: int) -> Any:
        return read_row(self.path, index)  # type: ignore[attr-defined]


def read_row(path: str, index: int) -> Any:
    return Path(path).read_text()[index]


class FromMemory(Holder):
    """It was read from a file when it was made."""

    def __init__(self, path: Path) -> None:
        super().__init__(list(path.read_text()), path=path)


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        yield torch.rand(3)


class Database:
    def __init__(self, name: str) -> None:
        self.name = name

    def row(self, index: int) -> Any:
        return self.connect().execute(index)

    def connect(self) -> Any:
        raise NotImplementedError


def test_what_is_read_while_training_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "data.txt"
    file.write_text("abcd")
    assert fingerprint(Reads([1], path=str(file))).omits == ("path: the content of the file that it names",)
    (by_code,) = fingerprint(Reads([1])).omits
    assert by_code.endswith("reads with `read_row`")
    (by_object,) = fingerprint(Holder([1], rows=Database("x"))).omits
    assert by_object.startswith("rows: what the code of ")
    (by_transform,) = fingerprint(Holder([1], transform=lambda path: np.load(path))).omits
    assert by_transform == "transform: what it reads with `load`"
    assert fingerprint(FromMemory(file)).is_complete
    with file.open() as opened:
        assert fingerprint(Holder([1], file=opened)).omits == ("file: an open file",)
    assert fingerprint(Stream()).omits == ("the samples, which it does not hold in memory",)
    assert fingerprint(x for x in [1]).digest is None
    assert fingerprint(iter([1])).digest is None


def test_files_are_covered_by_name_and_size(tmp_path: Path) -> None:
    def folder(name: str, texts: dict[str, str]) -> Path:
        for file, text in texts.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / name

    one, moved = (folder(name, {"a.txt": "a", "b.txt": "b"}) for name in ("one", "two"))
    larger = folder("three", {"a.txt": "aa", "b.txt": "b"})

    def lists(root: Path) -> list[Any]:
        names = ["a.txt", "b.txt"]
        return [
            Holder([str(root / name) for name in names]),
            Holder([root / name for name in names]),
            Holder([(str(root / name), 1) for name in names]),
            Holder(names, root=str(root)),
            Holder([{"image": str(root / name), "label": 1} for name in names]),
        ]

    for first, again, changed in zip(lists(one), lists(moved), lists(larger), strict=True):
        found = fingerprint(first)
        assert not found.is_complete
        assert "not their content" in found.covers
        assert found.digest == fingerprint(again).digest
        assert found.digest != fingerprint(changed).digest


def test_data_behind_a_handle_is_left_out(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.zeros(3)
    with h5py.File(tmp_path / "x.h5") as file:
        assert "h5py" in fingerprint(Holder(file)).omits[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: (row for row in [1, 2]),
        lambda: iter([1, 2]),
        lambda: iter({1: 2}.values()),
        lambda: reversed([1, 2]),
        lambda: itertools.chain([1], [2]),
        lambda: map(str, [1, 2]),
    ],
    ids=["generator", "list", "dict", "reversed", "chain", "map"],
)
def test_what_an_iterator_will_yield_is_left_out(make: Any) -> None:
    # As in the training data of gluonts, a slice of an endless iterator.
    found = fingerprint(Holder([1], rows=make()))
    assert not found.is_complete
    assert found.omits[0].startswith("rows: the content of a ")


def test_views_of_a_dict_are_covered() -> None:
    for view in (dict.keys, dict.values, dict.items):
        found = [fingerprint(Holder(view(each))) for each in ({1: 2}, {1: 2}, {3: 4})]
        assert found[0].is_complete
        assert found[0] == found[1] != found[2]


def test_files_may_have_absolute_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("a")
    found = fingerprint(Holder([str(tmp_path / "a.txt"), "b.txt"]))
    assert found.digest is not None
    assert "names and sizes of 2 files" in found.covers


def test_what_holds_no_data_does_not_count() -> None:
    quiet = {"lock": threading.Lock(), "random": random.Random(1), "generator": torch.Generator(), "ends": ...}
    first, second = (fingerprint(Holder(torch.zeros(2), **others)) for others in (quiet, quiet | {"random": None}))
    assert first.is_complete
    assert second.is_complete
    assert not has_hidden_state(Holder)
    assert has_hidden_state(type("Own", (threading.local,), {}))


def drawn_by_torch() -> torch.Generator:
    generator = torch.Generator()
    generator.seed()
    return generator


@pytest.mark.parametrize("drawn", [drawn_by_torch, np.random.default_rng])
def test_a_seed_that_a_generator_has_drawn_does_not_count(drawn: Callable[[], Any]) -> None:
    found = {fingerprint([torch.zeros(1), drawn()]).digest for _ in range(10)}
    assert len(found) == 1


def test_an_error_of_a_users_object_is_not_raised() -> None:
    class Rude:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        __hash__ = None  # type: ignore[assignment]

    assert fingerprint(Holder(Rude())).digest is None


def test_wrappers_that_hold_data_are_told_from_those_that_do_not() -> None:
    inner = TensorDataset(torch.zeros(4))
    assert not holds_data(Holder(inner, transform=str.upper, shift=2, name="a"))
    assert not holds_data(Holder([inner, inner]))
    assert not holds_data(Holder({"a": inner, "b": DataLoader(inner)}))
    assert holds_data(Holder(inner, labels=[1, 2]))
    assert holds_data(Holder([inner, torch.zeros(2)]))
    assert holds_data(Reads(inner))


def test_data_around_the_class_of_a_dataset_is_covered() -> None:
    def made(values: torch.Tensor) -> Dataset[Any]:
        class Around(Dataset[Any]):
            def __init__(self) -> None:
                self.numbers = [1]

            def __getitem__(self, index: int) -> Any:
                return values[index]

        return Around()

    first, again, other = (fingerprint(made(torch.tensor(values))) for values in ([1, 2], [1, 2], [1, 3]))
    assert first == again
    assert first.is_complete
    assert first.covers == "what it holds in memory: numbers, values"
    assert first.digest != other.digest
