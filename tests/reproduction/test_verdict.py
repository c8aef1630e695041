"""The verdict on a rerun, derived from the comparison, and the texts of its factors."""

from typing import Any

import pytest

from lightning_dtool.reproduction.verdict import decide, explains, factors, one_line
from lightning_dtool.results.comparison import (
    Agreement,
    Comparison,
    MetricsComparison,
    OrderComparison,
    State,
    Weights,
)
from lightning_dtool.results.differences import Difference
from lightning_dtool.results.reproduction import MetricRow, Verdict


def compared(weights: Agreement = "different", **parts: Any) -> Comparison:
    same: dict[str, Any] = {
        "uri_a": "a:1",
        "uri_b": "b:1",
        "weights": Weights(
            weights, "x", "y", differing=("w",), differing_count=1, tensor_count=2, greatest_absolute=0.25
        ),
        "optimizers": State("identical", "x", "x"),
        "schedulers": State("not recorded", None, None),
        "metrics": MetricsComparison("identical", (0,), (), (), ()),
        "order": OrderComparison("identical", (0,), ()),
        "first_difference": None,
        "factors": (),
    }
    return Comparison(**{**same, **parts})


INSIDE = MetricRow("val_loss", 0.5, 0.4, 0.3, 0.6, True)
OUTSIDE = MetricRow("val_acc", 0.9, 0.5, 0.4, 0.6, False)
UNLIKE = MetricRow("best", 0.9, 1.0, inside=False, values=(1.0, 1.0, 1.0))
UNJUDGED = MetricRow("lr", 0.1, 0.1)


def test_identical_weights_mean_identical_whatever_else_differs() -> None:
    assert decide(compared("identical"), (OUTSIDE,), 5, 0.95) == (
        Verdict.IDENTICAL,
        "every bit of the 2 weight tensors is the same",
    )
    verdict, why = decide(compared("identical", optimizers=State("different", "x", "y")), (), 0, 0.95)
    assert verdict is Verdict.IDENTICAL
    assert why.endswith("; the optimizers' states differ")


@pytest.mark.parametrize(
    ("rows", "runs", "verdict", "words"),
    [
        ((INSIDE,), 0, Verdict.DIFFERENT, "Reruns with other seeds show"),
        ((UNJUDGED,), 5, Verdict.DIFFERENT, "no metric could be judged"),
        (
            (INSIDE, OUTSIDE, UNJUDGED),
            5,
            Verdict.DIFFERENT,
            "outside the intervals that 5 other seeds predict: val_acc",
        ),
        (
            (INSIDE, UNJUDGED),
            5,
            Verdict.WITHIN_TOLERANCE,
            "all 1 metrics with an interval lie in those that 5 other seeds predict",
        ),
        ((INSIDE,), 3, Verdict.WITHIN_TOLERANCE, "; 3 seeds are few, so that the intervals are wide"),
        (
            (INSIDE, UNLIKE),
            5,
            Verdict.DIFFERENT,
            "these metrics have one value for all other seeds and another in the record: best",
        ),
    ],
)
def test_different_weights_are_judged_by_their_metrics(
    rows: tuple[MetricRow, ...], runs: int, verdict: Verdict, words: str
) -> None:
    found, why = decide(compared(), rows, runs, 0.9)
    assert found is verdict
    assert why.startswith("1 of 2 weight tensors differ (by up to 0.25)")
    assert words in why


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("optimizers[0].param_groups[0].options.lr", True),
        ("environment.variables[CUBLAS_WORKSPACE_CONFIG]", True),
        ("environment.variables[HOSTNAME]", False),
        ("code.files[train.py]", True),
        ("code.argv", False),
        ("data.datamodule.arguments.uri", False),
        ("data.datamodule.arguments.batch_size", True),
        ("trainer.callbacks[lightning_dtool.rehearsal.callback:RehearsalCallback]", False),
        ("trainer.callbacks[lightning.pytorch.callbacks.early_stopping:EarlyStopping]", True),
        ("lineage.reproduces", False),
        ("environment.packages.torch", True),
    ],
)
def test_differences_caused_by_the_rerun_itself_are_no_factors(path: str, expected: bool) -> None:
    assert explains(Difference(path, "changed", 1, 2)) == expected


def test_a_package_that_only_the_rerun_has_is_no_factor() -> None:
    assert not explains(Difference("environment.packages.pytest", "added", after="9.0"))
    assert explains(Difference("environment.packages.numpy", "removed", before="2.0"))


def test_the_most_likely_factor_comes_first() -> None:
    found = (
        Difference("environment.python", "changed", "3.11", "3.12"),
        Difference("code.argv", "changed", ["a"], ["b"]),
        Difference("data.stages.train[0].count", "changed", 10, 12),
    )
    unknown = (Difference("data.stages.val[0]", "unknown", note="too large", weight="unknown"),)
    assert [one_line(factor) for factor in factors(compared(factors=found, unknown=unknown))] == [
        "data.stages.train[0].count: 10 -> 12",
        "environment.python: 3.11 -> 3.12",
        "data.stages.val[0]: not known to be the same (too large)",
    ]


def test_what_every_resume_changes_explains_no_difference_of_a_resumed_run() -> None:
    changed = ["lineage.resumed", "model.initial_weights.digest", "randomness.states.fit_start.torch", "code.files[a]"]
    found = compared(factors=tuple(Difference(path, "changed", 1, 2) for path in changed))
    assert [factor.path for factor in factors(found, resumes=True)] == ["code.files[a]"]
    assert {factor.path for factor in factors(found)} == set(changed)


def test_a_difference_is_shown_on_one_line() -> None:
    patch = "--- a\n+++ b\n@@ -1 +1 @@\n-lr = 1\n+lr = 2\n same\n"
    assert one_line(Difference("code.files[a.py]", "changed", patch=patch)) == "code.files[a.py]: -lr = 1 | +lr = 2"
    assert one_line(Difference("x", "changed", patch="+1\n+2\n+3\n+4\n+5\n")) == "x: +1 | +2 | +3 | +4 | …"
    assert one_line(Difference("x", "added", after=1)) == "x: added"
    assert one_line(Difference("x", "changed", "a" * 100, 1)) == f"x: {'a' * 79}… -> 1"
