"""Values of a record as short text in Python's notation."""

import argparse
import functools
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch

from lightning_dtool.export.text.values import inline
from lightning_dtool.values.writing import encode


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"betas": (0.9, 0.999), "lr": float("inf")}, "betas=(0.9, 0.999), lr=inf"),
        ([1, [2.0, None]], "1, [2.0, None]"),
        ({3, 1, 2}, "{1, 2, 3}"),
        ({1: "a", None: (1,)}, "{1: a, None: (1)}"),
        ({"type": "sgd"}, "{type: sgd}"),
        (PurePosixPath("/data/leaves"), "/data/leaves"),
        (2**64, "18446744073709551616"),
        (1 + 2j, "complex(real=1.0, imag=2.0)"),
        (torch.float16, "float16"),
        (torch.tensor([1.0, float("nan")]), "Tensor([1.0, nan])"),
        (np.float32(0.5), "0.5"),
        (np.arange(3), "ndarray([0, 1, 2])"),
        (torch.nn.ReLU, "torch.nn.modules.activation:ReLU"),
        (torch.nn.Dropout(0.25), "Dropout(p=0.25, inplace=False)"),
        (functools.partial(print, 1, sep=""), "partial(func=builtins:print, args=[1], keywords={sep=})"),
        (argparse.Namespace(lr=0.1), "Namespace(lr=0.1)"),
        (object(), "<object object at 0x…>"),
    ],
)
def test_a_value_is_shown_on_one_line(value: Any, shown: str) -> None:
    assert inline(encode(value)) == shown


@pytest.mark.parametrize(
    "hostile",
    [
        {"type": 1},
        {"type": [], "items": [1, None]},
        {"type": "x", "items": {"a": 1}},
        {"type": "a:\x1b[31mb", "init": 1},
        {"type": None, "name": "\x1b[31m"},
        {"type": {}, "value": {"type": {}}},
    ],
)
def test_malformed_values_are_shown_as_printable_text(hostile: Any) -> None:
    assert inline(hostile).isprintable()
