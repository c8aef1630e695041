"""Metrics of predictions."""

import numpy as np
import pytest

from lightning_dtool.evaluation.scoring import Predictions, check_names, metric_names, score


def test_names_of_metrics_are_parsed() -> None:
    assert check_names(None) is None
    assert check_names(" f1 ,f1,auroc") == ["f1", "auroc"]
    assert check_names(None, "regression") == ["rmse", "mae", "r2", "pearson"]


def test_undefined_metrics_are_none() -> None:
    one = Predictions("regression", np.array([[1.0]]), np.array([[2.0]]))
    scores = score(one, metric_names("regression"))
    assert scores.metrics["mae"] == 1
    assert scores.metrics["r2"] is None
    assert scores.metrics["pearson"] is None
    assert set(scores.undefined) == {"r2", "pearson", "spearman"}


def test_spearman_is_exact_for_a_million_ties() -> None:
    """torchmetrics' own Spearman correlation sums ranks in 32 bits, which gives a wrong result here."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, (1_000_000, 1)).astype(np.float64)
    scores = score(Predictions("regression", truth, truth), ["spearman"])
    assert scores.metrics["spearman"] == pytest.approx(1)
