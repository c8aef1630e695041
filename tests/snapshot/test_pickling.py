"""The trial whether a checkpoint can be pickled."""

import argparse
import enum
import io
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_dtool.snapshot.pickling import pickle_error


class Colour(enum.Enum):
    RED = 1


class Refuses:
    def __reduce__(self) -> Any:
        raise KeyError("mine")


class RefusesItsState:
    def __getstate__(self) -> Any:
        raise OSError(28, "not the store's disk")


class Subclass(torch.Tensor):
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ValueError("this kind of tensor cannot be saved")


def local_object() -> object:
    class Local:
        pass

    return Local()


def holding_itself() -> list[Any]:
    held: list[Any] = []
    held.append(held)
    return held


def nested(depth: int) -> list[Any]:
    outer: list[Any] = []
    inner = outer
    for _ in range(depth):
        inner.append([])
        inner = inner[0]
    return outer


SHARED = torch.zeros(4)
STATES = {
    "plain": [torch.ones(3), 1, "a", None, 2.0, b"x", {1: (2, {3})}, torch.float32, torch.Size([1])],
    "arrays": [np.ones(3), np.float32(1.0)],
    "views": [SHARED, SHARED[1:3]],
    "ordered": OrderedDict(a=torch.ones(2)),
    "holding itself": holding_itself(),
    "objects": [argparse.Namespace(path=Path("x"), colour=Colour.RED), torch.nn.Linear(2, 2), torch.eye(2).to_sparse()],
    "lock": {"deep": [threading.Lock()]},
    "lock in a set of keys": {threading.Lock(): 1},
    "generator": (number for number in range(3)),
    "local class": local_object(),
    "local function": lambda: 0,
    "__reduce__": Refuses(),
    "__getstate__": RefusesItsState(),
    "tensor subclass": torch.ones(2).as_subclass(Subclass),
    "array of objects": np.array([threading.Lock()], dtype=object),
    "attribute of a namespace": argparse.Namespace(lock=threading.Lock()),
    "two types of one storage": [SHARED, SHARED.view(torch.int32)],
    "too deep": nested(100_000),
    "deep": nested(60),
}


@pytest.mark.parametrize("name", STATES)
def test_the_trial_fails_as_saving_does(name: str) -> None:
    checkpoint = {"callbacks": {"state": STATES[name]}}
    expected: Exception | None = None
    try:
        torch.save(checkpoint, io.BytesIO())
    except Exception as error:
        expected = error

    found = pickle_error(checkpoint)
    assert type(found) is type(expected)
    assert str(found) == str(expected)


def test_an_object_of_a_large_state_is_pickled_without_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    class Counting(io.BytesIO):
        def write(self, data: Any) -> int:
            written.append(len(data))
            return super().write(data)

    monkeypatch.setattr(io, "BytesIO", Counting)
    assert pickle_error({"hyper_parameters": {"net": torch.nn.Linear(1000, 1000)}}) is None
    assert 0 < sum(written) < 10_000


def test_too_little_memory_is_no_error_of_the_state() -> None:
    class Hungry:
        def __reduce__(self) -> Any:
            raise MemoryError

    assert pickle_error({"state": Hungry()}) is None
