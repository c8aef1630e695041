"""The canonical digest of a state dict, which depends on every bit of its values and on nothing else."""

import hashlib
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import programs
from kit import TinyNet
from lightning_dtool.values.digests import digest_of_numbers, opaque_names, state_digest

# PyTorch calls these layouts and schemes beta or deprecated, but checkpoints of users hold them.
_sparse = pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
_quantised = pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")


def test_the_digest_has_the_documented_format() -> None:
    state = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(True)}
    expected = hashlib.sha256()
    expected.update(json.dumps(["a", "torch.bool", [], 1]).encode() + b"\n" + b"\x01")
    expected.update(json.dumps(["b", "torch.float32", [1, 2], 8]).encode() + b"\n")
    expected.update(np.array([1.0, 2.0], dtype="<f4").tobytes())
    assert state_digest(state) == f"sha256:{expected.hexdigest()}"


def test_order_strides_storages_and_gradients_do_not_change_the_digest() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    plain = {"x": base.clone(), "y": base[:, 1].clone()}
    other = OrderedDict([("y", base[:, 1]), ("x", torch.nn.Parameter(base.t().contiguous().t()))])
    assert state_digest(plain) == state_digest(other)


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.int64, torch.uint8, torch.bool,
     torch.float8_e4m3fn],
)  # fmt: skip
def test_every_bit_of_every_dtype_changes_the_digest(dtype: torch.dtype) -> None:
    raw = torch.zeros(16, dtype=torch.uint8)
    changed = raw.clone()
    changed[-1] = 1
    one, two = raw.view(dtype), changed.view(dtype)
    assert state_digest({"x": one}) != state_digest({"x": two})
    assert state_digest({"x": two}) == state_digest({"x": two.clone()})


@_sparse
def test_different_states_have_different_digests() -> None:
    x = torch.zeros(4)
    digests = {
        state_digest(state)
        for state in (
            {}, {"x": x}, {"y": x}, {"x": x.reshape(2, 2)}, {"x": x.double()}, {"x": x.int()}, {"x": -x},
            {"x": x, "y": x}, {"x": x + float("nan")}, {"x": x[:0]}, {"x": x[0]}, {"x": x.to("meta")}, {"x": None},
            {"x": 0}, {"x": 0.0}, {"x": "0"}, {"x": b"0"}, {"x": [0]}, {"x": (0,)}, {"x": {"0": 0}}, {"x": np.zeros(4)},
            {"x": {"0": x}}, {"x": torch.complex(x, x)}, {"x": x.to_sparse()}, {"x": x.reshape(2, 2).to_sparse_csr()},
        )
    }  # fmt: skip
    assert len(digests) == 25


def test_a_lazily_conjugated_tensor_has_the_digest_of_its_values() -> None:
    z = torch.tensor([1 + 2j, 3 - 4j])
    assert state_digest({"z": z.conj()}) == state_digest({"z": z.conj().resolve_conj()})
    assert state_digest({"z": z.conj()}) != state_digest({"z": z})


@_sparse
@_quantised
def test_sparse_and_quantised_values_change_the_digest() -> None:
    dense = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    for convert in (torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr, torch.Tensor.to_sparse_csc):
        assert state_digest({"x": convert(dense)}) == state_digest({"x": convert(dense.clone())})
        assert state_digest({"x": convert(dense)}) != state_digest({"x": convert(dense * 2)})
    doubled = torch.sparse_coo_tensor([[0, 0], [1, 1]], [0.5, 0.5], (2, 2))
    assert state_digest({"x": doubled}) == state_digest({"x": doubled.coalesce()})
    assert not doubled.is_coalesced()

    one, same, other = (torch.quantize_per_tensor(dense, scale, 0, torch.qint8) for scale in (0.5, 0.5, 0.25))
    assert state_digest({"x": one}) == state_digest({"x": same})
    assert state_digest({"x": one}) != state_digest({"x": other})
    scales, zeros = torch.tensor([0.5, 0.25]), torch.tensor([0, 1])
    rows = torch.quantize_per_channel(dense, scales, zeros, 0, torch.qint8)
    assert state_digest({"x": rows}) != state_digest({"x": one})
    assert state_digest({"x": rows}) == state_digest({"x": rows.clone()})


def test_the_values_of_numpy_arrays_change_the_digest() -> None:
    array = np.arange(6.0).reshape(2, 3)
    digest = state_digest({"x": array})
    assert state_digest({"x": np.asfortranarray(array)}) == digest
    others = (array + 1, array.reshape(3, 2), array.astype("f4"), array[0])
    assert digest not in {state_digest({"x": other}) for other in others}


class Scaled(torch.Tensor):
    """A tensor subclass that keeps its values in another tensor, as libraries for quantisation do."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor, scale: float) -> "Scaled":
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: torch.Tensor, scale: float) -> None:
        self.inner, self.scale = inner, scale

    def __tensor_flatten__(self) -> tuple[list[str], float]:
        return ["inner"], self.scale

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function is torch.ops.aten.detach.default
        return Scaled(args[0].inner, args[0].scale)


def test_the_parts_of_a_tensor_subclass_change_the_digest() -> None:
    digest = state_digest({"x": Scaled(torch.ones(2), 0.5)})
    assert state_digest({"x": Scaled(torch.ones(2), 0.5)}) == digest
    others = (Scaled(torch.zeros(2), 0.5), Scaled(torch.ones(2), 0.25), torch.ones(2))
    assert digest not in {state_digest({"x": other}) for other in others}


def test_a_sharded_tensor_is_refused_by_name() -> None:
    class Sharded(torch.Tensor):
        def to_local(self) -> torch.Tensor:
            return self

    with pytest.raises(TypeError, match=r"^net\.weight is "):
        state_digest({"net.weight": torch.ones(2).as_subclass(Sharded)})


def test_a_name_that_utf8_cannot_encode_has_a_digest() -> None:
    assert state_digest({"caf\udce9": 1}) != state_digest({"caf\udcea": 1})


@_sparse
def test_numbers_are_identified_by_dtype_shape_and_bytes() -> None:
    numbers = (
        torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.ones(4), torch.zeros(0),
        np.zeros(4), np.zeros((2, 2)), np.zeros(4, "i8"), np.ones(4), np.zeros(0),
    )  # fmt: skip
    assert len({digest_of_numbers(value) for value in numbers}) == len(numbers)
    assert digest_of_numbers(torch.zeros(8)[::2]) == digest_of_numbers(torch.zeros(4, requires_grad=True))
    assert digest_of_numbers(np.zeros(8)[::2]) == digest_of_numbers(np.zeros(4))
    assert digest_of_numbers(torch.ones(2).to_sparse()) is None
    assert digest_of_numbers(torch.ones(2, device="meta")) is None
    assert digest_of_numbers(np.array([object()])) is None


def test_lazy_layers_have_a_digest() -> None:
    lazy = torch.nn.LazyLinear(3)
    assert state_digest(lazy.state_dict()) == state_digest(torch.nn.LazyLinear(3).state_dict())


class Thing:
    pass


def test_opaque_state_is_named_without_its_address() -> None:
    state: dict[str, Any] = {"net._extra_state": Thing(), "w": torch.ones(1), "n": {"a": [1, None]}, "m": [Thing()]}
    assert opaque_names(state) == ["m", "net._extra_state"]
    assert state_digest(state) == state_digest({**state, "net._extra_state": Thing()})


def test_the_digest_is_equal_across_processes_and_has_no_side_effects() -> None:
    torch.manual_seed(3)
    model = TinyNet()
    before = {name: value._version for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    digest = state_digest(model.state_dict())
    assert {name: value._version for name, value in model.state_dict().items()} == before
    assert torch.equal(torch.get_rng_state(), random)
    program = (
        "import torch; torch.manual_seed(3)\nfrom kit import TinyNet\n"
        "from lightning_dtool.values.digests import state_digest\n"
        "print(state_digest(TinyNet().state_dict()))"
    )
    done = programs.run("-c", program, cwd=Path(__file__).parents[1])
    assert done.stdout.strip() == digest
