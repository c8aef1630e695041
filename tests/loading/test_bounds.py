"""Bounds on what a small checkpoint file may stand for."""

import collections
import decimal
import fractions
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from kit import TinyNet, checkpoint_dataset, loader, trainer
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback, compare
from lightning_dtool.errors import UnsafeCheckpointError
from lightning_dtool.items import CHECKPOINT_ITEM
from lightning_dtool.loading.bounds import MAX_DEPTH, check_bounds
from lightning_dtool.loading.unread import unread
from lightning_dtool.loading.weights import load_safely


def shared(levels: int, width: int = 10) -> list[Any]:
    """Return lists that hold one another: `width ** levels` entries in a few bytes."""
    found: list[Any] = [0]
    for _ in range(levels):
        found = [found] * width
    return found


def nested(depth: int) -> Any:
    found: Any = {}
    for number in range(depth):
        found = {"inner": found} if number % 2 else [found]
    return found


class Call:
    """An object whose unpickling calls a function."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


def claimed(count: int) -> Call:
    """Return what is unpickled as a tensor that repeats one number."""
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.ones(1).untyped_storage(), dtype=torch.float32, _internal=True
    )
    return Call(torch._utils._rebuild_tensor_v2, storage, 0, (count,), (0,), False, collections.OrderedDict())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> DtoolCheckpoint:
    folder = tmp_path_factory.mktemp("bounds")
    (folder / "models").mkdir()
    provenance = DtoolProvenanceCallback(str(folder / "models"))
    trainer(folder, provenance, max_epochs=1).fit(TinyNet(), loader())
    assert provenance.last_uri is not None
    return DtoolCheckpoint.from_uri(provenance.last_uri)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: shared(30), "hold one another so often"),
        (lambda: nested(300), f"nested more than {MAX_DEPTH} deep"),
        (lambda: {"exp_avg": claimed(2**40)}, "its tensors have"),
    ],
    ids=["shared", "nested", "claimed"],
)
@pytest.mark.parametrize("place", ["state_dict", "optimizer_states", "hyper_parameters"])
def test_a_small_file_that_stands_for_too_much_is_refused(
    tmp_path: Path, trained: DtoolCheckpoint, make: Any, reason: str, place: str
) -> None:
    content = trained.load()
    value = make()
    content[place] = [value] if place == "optimizer_states" else {**content[place], "extra": value}
    torch.save(content, tmp_path / "odd.ckpt")
    record = trained.record.model_dump(mode="json")
    data = (tmp_path / "odd.ckpt").read_bytes()
    assert len(data) < 100_000
    (tmp_path / "models").mkdir()
    odd = DtoolCheckpoint.from_uri(checkpoint_dataset(str(tmp_path / "models"), record, items={CHECKPOINT_ITEM: data}))
    for use in (odd.load, odd.load_state_dict, odd.load_module, lambda: compare(odd.uri, trained.uri)):
        with pytest.raises(UnsafeCheckpointError, match=reason) as caught:
            use()
        assert caught.value.uri == odd.uri


class Holder:
    """An object that a safe load does not make."""

    def __init__(self, content: Any) -> None:
        self.content = content


def test_objects_that_say_too_much_are_not_compared(tmp_path: Path, trained: DtoolCheckpoint) -> None:
    content = trained.load()
    content["optimizer_states"] = [Holder(Holder(shared(15)))]
    torch.save(content, tmp_path / "odd.ckpt")
    (tmp_path / "models").mkdir()
    data = (tmp_path / "odd.ckpt").read_bytes()
    record = trained.record.model_dump(mode="json")
    odd = checkpoint_dataset(str(tmp_path / "models"), record, items={CHECKPOINT_ITEM: data})
    with pytest.raises(UnsafeCheckpointError, match="so often"):
        compare(trained.uri, odd)


def test_what_people_save_is_within_the_bounds(tmp_path: Path) -> None:
    itself: list[Any] = [1]
    itself.append(itself)
    layer = torch.nn.Linear(50, 50)
    content = {
        "itself": itself,
        "shared": shared(4),
        "nested": nested(100),
        "mask": torch.zeros(1).expand(2**20),
        "tied": {str(number): layer.weight for number in range(200)},
        "meta": torch.empty(2**50, device="meta"),
        "many": list(range(2**20)),
    }
    torch.save(content, tmp_path / "x.ckpt")
    assert load_safely(tmp_path / "x.ckpt").keys() == content.keys()


def test_lists_that_hold_one_another_are_counted_in_no_time() -> None:
    everything: list[Any] = [[] for _ in range(50)]
    for one in everything:
        one.extend(everything)
    with pytest.raises(pickle.UnpicklingError, match="so often"):
        check_bounds(everything, 10_000)


def test_a_compressed_file_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(1000))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch would unpack it"))
    with pytest.raises(UnsafeCheckpointError, match="compressed"):
        load_safely(tmp_path / "bomb.ckpt")


@pytest.mark.parametrize(
    "value",
    [
        Call(set, range(10**12)),
        Call(frozenset, range(10**12)),
        Call(collections.deque, range(10**12)),
        Call(collections.Counter, range(10**12)),
        Call(torch.Size, range(10**12)),
    ],
)
def test_a_range_does_not_become_a_container(tmp_path: Path, value: Any) -> None:
    torch.save({"x": value, "y": range(3)}, tmp_path / "x.ckpt")
    found = load_safely(tmp_path / "x.ckpt")
    assert list(unread(found)) == ["x"]
    assert found["y"] == range(3)


def test_a_fraction_of_a_decimal_has_no_billion_digits(tmp_path: Path) -> None:
    torch.save({"x": Call(fractions.Fraction, decimal.Decimal("1e999999999")), "y": range(3)}, tmp_path / "x.ckpt")
    with pytest.raises(UnsafeCheckpointError, match="exponent"):
        load_safely(tmp_path / "x.ckpt")
