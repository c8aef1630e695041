"""Results as strict JSON."""

import math
from pathlib import PurePosixPath
from typing import Any

import pytest

from lightning_dtool.record import MAX_INTEGER, Gap
from lightning_dtool.results.comparison import FirstDifference
from lightning_dtool.results.reproduction import Verdict
from lightning_dtool.results.strict_json import strict_json

FIRST = FirstDifference(epoch=3, order=True, metrics=("loss", "acc"), learning_rates=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (0.5, 0.5),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        (MAX_INTEGER, MAX_INTEGER),
        (-MAX_INTEGER, -MAX_INTEGER),
        (MAX_INTEGER + 1, str(MAX_INTEGER + 1)),
        (-MAX_INTEGER - 1, str(-MAX_INTEGER - 1)),
        ("text", "text"),
        (Verdict.WITHIN_TOLERANCE, "within tolerance"),
        (PurePosixPath("a/b"), "a/b"),
        ((1, [math.inf]), [1, ["inf"]]),
        ({1}, [1]),
        (frozenset({1}), [1]),
        ({1: {"a": math.nan}}, {"1": {"a": "nan"}}),
        (Gap(fact="loss", reason="r"), {"fact": "loss", "reason": "r", "remedy": ""}),
        (FIRST, {"epoch": 3, "order": True, "metrics": ["loss", "acc"], "learning_rates": True}),
        (FirstDifference, str(FirstDifference)),
    ],
    ids=str,
)
def test_a_value_as_strict_json(value: Any, expected: Any) -> None:
    found = strict_json(value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("order", "learning_rates", "metrics", "text"),
    [
        (True, True, ("loss", "acc"), "epoch 3: the order of the samples, the learning rates, loss, acc"),
        (False, True, (), "epoch 3: the learning rates"),
        (True, False, (), "epoch 3: the order of the samples"),
        (False, False, ("loss",), "epoch 3: loss"),
    ],
)
def test_a_first_difference_lists_what_differs(
    order: bool, learning_rates: bool, metrics: tuple[str, ...], text: str
) -> None:
    assert str(FirstDifference(epoch=3, order=order, metrics=metrics, learning_rates=learning_rates)) == text
