"""The copy of a state that is written while training continues."""

import copy
import dataclasses
import io
import random
import warnings
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

from lightning_dtool.snapshot.copy import same_state, snapshot


@dataclasses.dataclass
class Holder:
    tensor: torch.Tensor


def saved(state: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.arange(3.0), 0.1, 0, torch.qint8)


BASE = torch.arange(24, dtype=torch.float32).reshape(4, 6)
TENSORS = {
    "plain": torch.randn(3, 4),
    "view": BASE[1:3, 2:5],
    "transposed": BASE.T,
    "expanded": torch.ones(3, 1).expand(3, 1000),
    "parameter": torch.nn.Parameter(torch.randn(3)),
    "frozen": torch.nn.Parameter(torch.randn(3), requires_grad=False),
    "non-leaf": torch.randn(3, requires_grad=True) * 2,
    "bf16": torch.randn(5).bfloat16(),
    "bool": torch.tensor([True, False]),
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(3),
    "complex": torch.randn(3, dtype=torch.complex64),
    "conj": torch.randn(3, dtype=torch.complex64).conj(),
    "neg": torch.randn(3, dtype=torch.complex64).conj().imag,
    "sparse": torch.eye(3).to_sparse(),
    "nan": torch.tensor([float("nan"), -0.0, 0.0]),
    "channels_last": torch.randn(1, 2, 3, 4).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("inference", [False, True])
def test_a_tensor_is_copied_bit_by_bit(name: str, inference: bool) -> None:
    tensor = TENSORS[name]
    with torch.inference_mode(inference):
        copied = snapshot({"x": tensor})["x"]
    assert type(copied) is type(tensor)
    assert (copied.dtype, copied.shape, copied.requires_grad) == (tensor.dtype, tensor.shape, tensor.requires_grad)
    assert copied.layout == tensor.layout
    if tensor.layout is torch.strided:
        assert copied.stride() == tensor.stride() or tensor.is_neg()
        assert copied.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr() or tensor.numel() == 0
    a, b = (x.detach().to_dense().resolve_conj().resolve_neg().contiguous().reshape(-1) for x in (copied, tensor))
    assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))
    assert len(saved(copied)) == len(saved(tensor))


def test_a_quantized_tensor() -> None:
    tensor = quantized()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copied = snapshot({"x": tensor})["x"]
    assert torch.equal(copied.int_repr(), tensor.int_repr())


def test_what_is_tied_stays_tied() -> None:
    weight = torch.randn(1000, 100)
    state = {
        "state_dict": OrderedDict(a=weight, b=weight, row=weight[3], turned=weight.T),
        "held": Holder(weight[5:]),
        "again": (weight, [weight]),
    }
    copied = snapshot(state)
    assert len(saved(copied)) == len(saved(state))
    assert copied["state_dict"]["a"] is copied["state_dict"]["b"] is copied["again"][1][0]
    pointers = {
        tensor.untyped_storage().data_ptr()
        for tensor in (*copied["state_dict"].values(), copied["held"].tensor, copied["again"][0])
    }
    assert len(pointers) == 1
    assert pointers != {weight.untyped_storage().data_ptr()}


def test_attributes_of_containers_stay() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    copied = snapshot({"state_dict": module.state_dict()})
    assert copied["state_dict"]._metadata == module.state_dict()._metadata
    assert type(copied["state_dict"]) is OrderedDict


def train(optimizer: torch.optim.Optimizer, net: torch.nn.Module) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = net(torch.ones(4, 3)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.LBFGS, torch.optim.SGD])
def test_training_on_does_not_change_a_snapshot(kind: Any) -> None:
    net = torch.nn.Linear(3, 2)
    optimizer = kind(net.parameters(), lr=0.01)
    train(optimizer, net)
    state = {"state_dict": net.state_dict(), "optimizer_states": [optimizer.state_dict()], "loops": {"n": [1]}}
    reference = copy.deepcopy(state)
    taken = snapshot(state)
    assert same_state(taken, state)
    train(optimizer, net)
    state["loops"]["n"].append(2)
    now = {**state, "optimizer_states": [optimizer.state_dict()]}
    assert same_state(taken, reference)
    assert not same_state(taken, now)
    other = kind(torch.nn.Linear(3, 2).parameters(), lr=0.01)
    other.load_state_dict(taken["optimizer_states"][0])


def test_a_container_that_holds_itself() -> None:
    knot: dict[str, Any] = {"x": torch.ones(2)}
    knot["again"] = knot
    copied = snapshot({"knot": knot})
    assert copied["knot"]["again"] is copied["knot"]
    assert same_state(copied, {"knot": knot}) is False  # cannot be told, and so published again


def test_random_numbers_are_left_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    state = {"x": torch.randn(3), **TENSORS}
    torch.set_rng_state(before[0])
    same_state(snapshot(state), state)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == str(before[1])
    assert random.getstate() == before[2]


def state(**changes: Any) -> dict[str, Any]:
    return {
        "epoch": 1,
        "loss": float("nan"),
        "state_dict": OrderedDict(w=torch.tensor([float("nan"), 0.0])),
        "rng": np.arange(3),
        "callbacks": {"EarlyStopping{}": {"best": float("nan")}, "ModelCheckpoint{'monitor': None}": {"path": "a"}},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"epoch": 2}, False),
        ({"epoch": 1.0}, False),
        ({"epoch": True}, False),
        ({"loss": -float("nan")}, False),
        ({"state_dict": OrderedDict(w=torch.tensor([float("nan"), -0.0]))}, False),
        ({"state_dict": OrderedDict(w=torch.tensor([float("nan"), 0.0]).double())}, False),
        ({"state_dict": OrderedDict(v=torch.tensor([float("nan"), 0.0]))}, False),
        ({"rng": np.arange(4)}, False),
        ({"rng": np.arange(3.0)}, False),
        (
            {"callbacks": {"EarlyStopping{}": {"best": float("nan")}, "ModelCheckpoint{'monitor': 1}": {"path": "b"}}},
            True,
        ),
        ({"callbacks": {"EarlyStopping{}": {"best": float("nan")}, "ModelCheckpoint": {"path": "b"}}}, True),
        ({"callbacks": {"EarlyStopping{}": {"best": 0.0}}}, False),
        ({"callbacks": {"EarlyStopping{}": {"best": float("nan")}, "ModelCheckpointOfWeights{}": {"w": 1}}}, False),
        ({"extra": 1}, False),
        ({"callbacks": {}}, False),
    ],
)
def test_whether_two_states_are_the_same(changes: dict[str, Any], same: bool) -> None:
    assert same_state(snapshot(state()), state(**changes)) is same


def test_zero_has_a_sign() -> None:
    assert not same_state({"x": 0.0}, {"x": -0.0})
    assert same_state({"x": TENSORS["nan"]}, {"x": TENSORS["nan"].clone()})


def test_attributes_of_a_tensor_are_copied() -> None:
    tensor = torch.zeros(3)
    tensor.note = "mine"  # type: ignore[attr-defined]
    taken = snapshot({"a": tensor, "b": torch.zeros(3)})
    assert taken["a"].note == "mine"
    assert taken["a"].data_ptr() != tensor.data_ptr()
