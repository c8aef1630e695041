"""The reader of checkpoint files: every tensor and plain value is read, and nothing that the file names runs."""

import argparse
import builtins
import collections
import datetime
import decimal
import fractions
import io
import os
import pickle
import threading
import types
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.data import AttributeDict

from lightning_dtool.errors import LightningDtoolError, ModuleLoadError, NotACheckpointError, UnsafeCheckpointError
from lightning_dtool.loading.unread import Unread, unread
from lightning_dtool.loading.weights import load_safely, read_checkpoint, state_dict_of, unknown_names
from lightning_dtool.values.digests import state_digest


class Marked(torch.Tensor):
    """A tensor of a class of the test's own."""


class Config:
    """An object of the test's own, with a state."""

    def __init__(self, width: int) -> None:
        self.width = width

    def __repr__(self) -> str:
        raise AssertionError("the object was made")


def saved(folder: Path, value: Any, name: str = "x.ckpt", **options: Any) -> Path:
    torch.save(value, folder / name, **options)
    return folder / name


def packed(folder: Path, data: bytes, name: str = "forged.ckpt", **storages: bytes) -> Path:
    """Write a checkpoint file with a pickle of one's own."""
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("forged/data.pkl", data)
        archive.writestr("forged/version", "3")
        for key, content in storages.items():
            archive.writestr(f"forged/data/{key.removeprefix('s')}", content)
    return folder / name


class Other:
    """Another object of the test's own."""


# -- everything that torch loads safely ------------------------------------------------------------


def tensors() -> dict[str, Any]:
    linear = torch.nn.Linear(3, 2)
    base = torch.arange(12.0)
    return {
        "dense": torch.randn(3, 4),
        "view": base[2:8].view(2, 3).t(),
        "expanded": torch.ones(1).expand(5),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "parameter": linear.weight,
        "frozen": torch.nn.Parameter(torch.ones(2), requires_grad=False),
        "bfloat16": torch.randn(4).bfloat16(),
        "float8": torch.randn(4).to(torch.float8_e4m3fn),
        "uint16": torch.arange(4).to(torch.uint16),
        "bool": torch.tensor([True, False]),
        "complex": torch.randn(2, dtype=torch.complex64),
        "conjugate": torch.randn(2, dtype=torch.complex64).conj(),
        "sparse": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "bsc": torch.eye(4).to_sparse_bsc((2, 2)),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)]),
        "quantised": torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8),
        "per channel": torch.quantize_per_channel(
            torch.randn(2, 3), torch.ones(2), torch.zeros(2, dtype=torch.int64), 0, torch.qint8
        ),
        "meta": torch.empty(3, device="meta"),
        "subclass": torch.randn(3).as_subclass(Marked),
    }


def plain() -> dict[str, Any]:
    return {
        "numbers": [1, -1, 2**80, 0.5, 1 + 2j, True, None],
        "texts": ("a", "ü", b"bytes", bytearray(b"array")),
        "sets": {"a": {1, 2}, "b": frozenset({3})},
        "torch": [torch.float32, torch.device("cpu"), torch.Size([2, 3]), torch.strided, torch.per_tensor_affine],
        "containers": collections.OrderedDict(a=collections.OrderedDict(b=[{"c": ({},)}])),
        "counter": collections.Counter("aab"),
    }


@pytest.mark.filterwarnings("ignore:.*(Sparse|sparse|nested|quantize|Quantize|TypedStorage).*")
@pytest.mark.parametrize("place", ["beside", "between"])
def test_tensors_and_plain_values_are_read_as_torch_reads_them(tmp_path: Path, place: str) -> None:
    state = {**tensors(), **plain()}
    path = saved(tmp_path, [state, Config(3)] if place == "beside" else [Config(3), state, Config(4)])
    found = next(item for item in read_checkpoint(path) if type(item) is dict)
    expected = torch.load(path, weights_only=False)[0 if place == "beside" else 1]
    assert list(found) == list(expected)
    for name in plain():
        assert found[name] == expected[name]
        assert type(found[name]) is type(expected[name])
    for name in tensors():
        assert state_digest({name: found[name]}) == state_digest({name: expected[name]}), name
        assert found[name].requires_grad == expected[name].requires_grad
    assert type(found["parameter"]) is torch.nn.Parameter


def test_versions_of_modules_and_shared_storages_are_kept(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    state = net.state_dict()
    state["tied"] = state["0.weight"]
    found = read_checkpoint(saved(tmp_path, {"state_dict": state, "x": Config(1)}))["state_dict"]
    assert found._metadata == state._metadata
    assert found["tied"].untyped_storage().data_ptr() == found["0.weight"].untyped_storage().data_ptr()
    net.load_state_dict({name: value for name, value in found.items() if name != "tied"})


def test_tensors_are_memory_mapped(tmp_path: Path) -> None:
    path = saved(tmp_path, {"big": torch.zeros(2**24), "x": Config(1)})  # 64 MiB
    before = resident()
    found = read_checkpoint(path)["big"]
    assert resident() - before < 20 * 2**20
    assert found[-1] == 0
    found.zero_().add_(1)  # the mapping is private
    assert float(read_checkpoint(path)["big"].max()) == 0


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_map_location_is_as_in_torch(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.ones(2), "x": Config(1)})
    assert read_checkpoint(path, map_location="meta")["w"].is_meta
    assert read_checkpoint(path, map_location=torch.device("meta"))["w"].is_meta
    assert read_checkpoint(path, map_location={"cpu": "meta"})["w"].is_meta
    assert read_checkpoint(path, map_location=lambda storage, location: storage)["w"].tolist() == [1, 1]
    assert read_checkpoint(path, map_location=None)["w"].tolist() == [1, 1]


# -- what is not made -------------------------------------------------------------------------------


def test_other_objects_are_placeholders_with_what_the_file_says(tmp_path: Path) -> None:
    state = {
        "a": [Marked, Config(7)],
        "cls": datetime.date,
        "tables": collections.ChainMap({1: 2}),
        "lists": collections.defaultdict(list, {1: 2}),
        "args": argparse.Namespace(config=Config(8)),
        "last": collections.deque([Config(9)]),
    }
    found = read_checkpoint(saved(tmp_path, state))
    assert unread(found) == {
        "a.0": f"{__name__}.Marked",
        "a.1": f"{__name__}.Config",
        "cls": "datetime.date",
        "tables": "collections.ChainMap",
        "lists": "collections.defaultdict",
        "args.config": f"{__name__}.Config",
        "last.0": f"{__name__}.Config",
    }
    assert found["a"][1].state == {"width": 7}
    assert dict(found["lists"])["items"] == [(1, 2)]
    assert found["lists"].arguments is not None
    assert found["cls"].arguments is None
    assert repr(found["a"][1]) == f"<unread {__name__}.Config>"


def test_placeholders_are_told_apart_by_what_the_file_says(tmp_path: Path) -> None:
    def digest(value: object) -> str:
        return state_digest(read_checkpoint(saved(tmp_path, {"x": value})))

    assert digest(Config(1)) == digest(Config(1))
    assert digest(Config(1)) != digest(Config(2))
    assert digest(datetime.date(2026, 1, 1)) != digest(datetime.date(2026, 1, 2))


def test_common_value_types_are_made(tmp_path: Path) -> None:
    utc = datetime.timezone.utc
    values = [
        datetime.date(2026, 1, 1),
        datetime.datetime(2026, 1, 1, 12, tzinfo=utc),
        datetime.timedelta(days=1),
        datetime.time(12),
        Path("a/b"),
        PurePosixPath("c"),
        decimal.Decimal("0.1"),
        fractions.Fraction(1, 3),
        argparse.Namespace(lr=0.1, layers=[1, 2]),
        types.SimpleNamespace(a=1),
        AttributeDict(a=AttributeDict(b=1)),
        collections.deque([1, 2], maxlen=2),
        range(3),
        slice(1, 2),
        np.float64(0.1),
        np.int32(7),
        np.bool_(True),
    ]
    path = saved(tmp_path, {"x": Config(1), "values": values})
    found = read_checkpoint(path)["values"]
    assert found == values
    assert list(map(type, found)) == list(map(type, values))
    assert unknown_names(path) == {f"{__name__}.Config"}


def test_an_object_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    class Changed:
        def __setstate__(self, state: object) -> None:
            raise KeyError("width")

    with pytest.raises(ModuleLoadError, match="Changed in the checkpoint cannot be made: KeyError: 'width'"):
        read_checkpoint(saved(tmp_path, {"x": Config(1)}), known={f"{__name__}.Config": Changed})


def test_a_key_may_be_an_object(tmp_path: Path) -> None:
    found = read_checkpoint(saved(tmp_path, {"state_dict": {Config(1): torch.ones(1)}}))
    assert unread(found) == {"state_dict (a key)": f"{__name__}.Config"}


def test_a_list_that_contains_itself_is_searched_once(tmp_path: Path) -> None:
    around: list[Any] = [Config(1)]
    around.append(around)
    assert unread(read_checkpoint(saved(tmp_path, {"x": around}))) == {"x.0": f"{__name__}.Config"}


def test_what_the_user_allows_is_made(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": Config(3), "b": Other(), "t": torch.ones(1).as_subclass(Marked)})
    with torch.serialization.safe_globals([Config, Marked]):
        found = read_checkpoint(path)
    assert found["a"].width == 3
    assert type(found["t"]) is Marked
    assert unread(found) == {"b": f"{__name__}.Other"}
    known = read_checkpoint(path, known={f"{__name__}.Config": Config, f"{__name__}.Other": Other})
    assert known["a"].width == 3
    assert isinstance(known["b"], Other)
    assert unread(known) == {}


@pytest.mark.parametrize(
    "value",
    [
        np.array(["a", None], dtype=object),
        np.array(["a", "bc"]),
        np.str_("a"),
        np.array(["2026-01-01"], dtype="datetime64[D]"),
        np.dtype([("x", "f8")]),
    ],
    ids=["objects", "texts", "a text", "times", "a structure"],
)
def test_weights_are_read_beside_arrays_that_are_not_of_numbers(tmp_path: Path, value: Any) -> None:
    # Encoders of categories, as pytorch-forecasting has them among its hyperparameters, hold arrays of texts.
    found = read_checkpoint(saved(tmp_path, {"state_dict": {"w": torch.ones(2)}, "hyper_parameters": {"x": value}}))
    assert found["state_dict"]["w"].tolist() == [1, 1]
    assert list(unread(found)) == ["hyper_parameters.x"]


def test_numbers_keep_their_byte_order(tmp_path: Path) -> None:
    dtypes = [np.dtype(">f8"), np.dtype("<f8"), np.dtype("f8")]
    found = read_checkpoint(
        saved(tmp_path, {"x": [dtype.type(2.5).astype(dtype)[()] for dtype in dtypes], "d": dtypes})
    )
    assert found["x"] == [2.5, 2.5, 2.5]
    assert found["d"] == dtypes
    assert np.dtype("f8").isnative


# -- attacks ----------------------------------------------------------------------------------------


class Payload:
    """An object whose unpickling calls a function."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    "make",
    [
        lambda file: Payload(os.system, f"touch {file}"),
        lambda file: Payload(os.mkdir, str(file)),
        lambda file: Payload(exec, f"open({str(file)!r}, 'w')"),
        lambda file: Payload(eval, f"open({str(file)!r}, 'w')"),
        lambda file: Payload(open, str(file), "w"),
        lambda file: Payload(getattr, Payload(__import__, "os"), "system"),
        lambda file: Payload(map, os.mkdir, [str(file)]),
        lambda file: Payload(torch.storage._load_from_bytes, pickle.dumps(Payload(os.mkdir, str(file)))),
        lambda file: Payload(torch.load, str(file)),
        lambda file: Payload(torch.hub.load, str(file)),
    ],
)
@pytest.mark.parametrize("place", ["value", "key", "argument", "state", "item"])
def test_nothing_that_a_file_names_is_called(tmp_path: Path, make: Any, place: str) -> None:
    file = tmp_path / "exploded"
    payload = make(file)
    value: Any = {
        "value": payload,
        "argument": Payload(collections.OrderedDict, payload),
        "state": Config(payload),
        "item": collections.defaultdict(list, {1: payload}),
    }.get(place)
    state = {"x": value} if place != "key" else {payload: 1}
    path = saved(tmp_path, {"state_dict": {"w": torch.ones(1)}, **state})
    found = load_safely(path)
    assert unread(found)
    assert found["state_dict"]["w"] == 1
    assert not file.exists()


def test_nothing_is_imported(tmp_path: Path) -> None:
    (tmp_path / "booby_trap.py").write_text("raise SystemExit('imported')")
    path = packed(tmp_path, b"\x80\x02}X\x01\x00\x00\x00acbooby_trap\nTrap\n)\x81s.")
    assert unread(read_checkpoint(path)) == {"a": "booby_trap.Trap"}


HOSTILE = {
    "a state for a class": b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",
    "a state for a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__)s\x86b.",
    "a state for a dict": b"\x80\x02}}X\x01\x00\x00\x00aK\x01sb.",
    "a call of a number": b"\x80\x02K\x01)R.",
    "a call of a dtype": b"\x80\x02ctorch\nfloat32\n)R.",
    "arguments that are no tuple": b"\x80\x02cbuiltins\nset\n]R.",
    "an old instance": b"(ios\nsystem\n.",
    "an old object": b"(cos\nsystem\no.",
    "an extension": b"\x80\x02\x82\x01.",
    "a text as a reference": b"Pstorage\n.",
    "a huge bytearray": b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.",
    "a huge bytearray by number": b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.",
    "an element of a text": b"\x80\x02X\x01\x00\x00\x00aK\x01a.",
    "an entry of a list": b"\x80\x02]K\x00K\x01s.",
    "a fraction with an exponent": b"\x80\x02cfractions\nFraction\nX\x06\x00\x00\x001e9999\x85R.",
    "a number of another size": b"\x80\x02cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00f8\x85R"
    b"U\x01a\x86R.",
    "a codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "a newer protocol": b"\x80\x63}.",
    "nothing on the stack": b"\x80\x02R.",
    "a reference to nothing": b"\x80\x02h\x05.",
    "no storage": b"\x80\x02("
    b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x009X\x03\x00\x00\x00cpuK\x01tQ.",
    "another reference": b"\x80\x02K\x07Q.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_forged_pickle_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafeCheckpointError, match=r"forged\.ckpt cannot be read safely: ") as caught:
        read_checkpoint(packed(tmp_path, HOSTILE[name]), uri="file:///x")
    assert caught.value.uri == "file:///x"
    assert torch._utils._rebuild_tensor_v2.__defaults__ == (None,)
    assert not hasattr(collections.OrderedDict, "a")


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path: Path) -> None:
    class Rebuilt:
        def __init__(self, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
            self.arguments = (torch.ones(4).storage(), offset, size, stride, False, collections.OrderedDict())

        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, self.arguments

    fitting = Rebuilt(1, (3,), (1,))
    beyond = [Rebuilt(1, (4,), (1,)), Rebuilt(0, (2, 2), (4, 1)), Rebuilt(-1, (2,), (1,)), Rebuilt(3, (2,), (-1,))]
    beyond.append(Rebuilt(0, (2**40,), (1,)))
    assert read_checkpoint(saved(tmp_path, [fitting, Config(1)]))[0].tolist() == [1, 1, 1]
    for wrong in beyond:
        with pytest.raises(UnsafeCheckpointError, match="a tensor"):
            read_checkpoint(saved(tmp_path, [wrong, Config(1)]))


def test_indices_of_sparse_tensors_are_checked(tmp_path: Path) -> None:
    class Sparse:
        def __reduce__(self) -> tuple[Any, ...]:
            data = (torch.tensor([[0, 99]]), torch.ones(2), torch.Size([2]), False)
            return torch._utils._rebuild_sparse_tensor, (torch.sparse_coo, data)

    with pytest.raises(UnsafeCheckpointError):
        read_checkpoint(saved(tmp_path, Sparse()))


def test_rows_of_nested_tensors_are_checked(tmp_path: Path) -> None:
    class Nested:
        def __reduce__(self) -> tuple[Any, ...]:
            sizes, strides = torch.tensor([[2], [99]]), torch.tensor([[1], [1]])
            return torch._utils._rebuild_nested_tensor, (torch.ones(4), sizes, strides, torch.tensor([0, 2]))

    with pytest.raises(UnsafeCheckpointError, match="a nested tensor"):
        read_checkpoint(saved(tmp_path, Nested()))


# -- other files ------------------------------------------------------------------------------------


def test_the_format_before_pytorch_1_6_is_read_only_if_it_is_safe(tmp_path: Path) -> None:
    harmless = saved(tmp_path, {"w": torch.ones(2)}, "old.ckpt", _use_new_zipfile_serialization=False)
    assert load_safely(harmless)["w"].tolist() == [1, 1]
    with_object = saved(tmp_path, {"x": Config(1)}, "odd.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(UnsafeCheckpointError, match=r"odd\.ckpt cannot be read safely: it is not a zip file"):
        load_safely(with_object)


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/data.pkl", b"\x80\x02}.")
        archive.writestr("script/constants.pkl", b"\x80\x02).")
    with pytest.raises(UnsafeCheckpointError, match="TorchScript"):
        load_safely(tmp_path / "script.pt")


def test_a_compressed_or_damaged_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.ones(1000), "x": Config(1)})
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "z.ckpt", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(UnsafeCheckpointError, match="compressed"):
        read_checkpoint(tmp_path / "z.ckpt")
    (tmp_path / "half.ckpt").write_bytes(path.read_bytes()[:2000])
    for wrong in (tmp_path / "half.ckpt", tmp_path / "nothing.ckpt"):
        wrong.touch()
        with pytest.raises(LightningDtoolError, match="cannot be read safely"):
            load_safely(wrong)


def test_other_threads_are_not_affected(tmp_path: Path) -> None:
    path = saved(tmp_path, {"x": Config(1)})
    refused: list[Exception] = []

    def load() -> None:
        for _ in range(50):
            try:
                torch.load(path, weights_only=True)
            except pickle.UnpicklingError as error:
                refused.append(error)

    other = threading.Thread(target=load)
    other.start()
    for _ in range(50):
        read_checkpoint(path, known={f"{__name__}.Config": Config})
    other.join()
    assert len(refused) == 50


def test_a_file_without_weights_is_an_error(tmp_path: Path) -> None:
    for odd in ({"epoch": 1}, [1], {"state_dict": Unread("x", ())}, {"state_dict": 1}):
        with pytest.raises(NotACheckpointError, match="'state_dict'"):
            state_dict_of(odd, "file:///x")


def test_python_2_names_are_understood(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pickle.dump({"a": {1, 2}, "b": builtins.range(3)}, buffer, protocol=2)
    found = read_checkpoint(packed(tmp_path, buffer.getvalue()))
    assert found["a"] == {1, 2}
    assert found["b"] == range(3)
