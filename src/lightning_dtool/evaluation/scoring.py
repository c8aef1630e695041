"""Metrics of predictions, computed with torchmetrics.

Everything here is a pure function of arrays. A metric that is undefined for the data, such as the area under the ROC
curve of a class without samples, is None rather than a misleading number.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torchmetrics.functional as regression
import torchmetrics.functional.classification as classification

from lightning_dtool.errors import ConfigurationError
from lightning_dtool.results.evaluation import Task

DEFAULTS: Mapping[Task, tuple[str, ...]] = {
    "multiclass": ("accuracy", "balanced_accuracy", "f1", "auroc", "calibration_error"),
    "binary": ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc", "calibration_error"),
    "regression": ("rmse", "mae", "r2", "pearson"),
}
"""The default metrics for each task."""

_BINS = 15


@dataclass(frozen=True)
class Predictions:
    """The prediction and the target of every sample.

    Attributes:
        task: `multiclass`, `binary` (one output; class number 1 is the positive class) or `regression`.
        target: The true class number of each sample, shape (samples,); for regression numbers, shape (samples,
            columns).
        predicted: The model's prediction, in the same shape.
        probabilities: The probabilities from 0 to 1: of every class (`multiclass`), shape (samples, classes), or of
            class number 1 (`binary`), shape (samples, 1). None for regression.
    """

    task: Task
    target: "np.ndarray[Any, Any]"
    predicted: "np.ndarray[Any, Any]"
    probabilities: "np.ndarray[Any, Any] | None" = None

    @property
    def num_classes(self) -> int:
        """The number of classes of the model."""
        return 2 if self.task == "binary" or self.probabilities is None else int(self.probabilities.shape[1])


@dataclass(frozen=True)
class Scores:
    """The metrics of predictions.

    Attributes:
        metrics: The value of each metric by name; None if it is undefined for this data.
        settings: For each metric, the torchmetrics function and the arguments that it was called with.
        per_class: By class number: `accuracy` (the fraction of its samples that were predicted correctly; None without
            samples), `count` (the number of its samples) and `predicted` (how often it was predicted). Empty for
            regression.
        confusion: A row for each true class, a column for each predicted class. None for regression.
        undefined: For each undefined metric, the reason.
    """

    metrics: dict[str, float | None]
    settings: dict[str, dict[str, Any]]
    per_class: list[dict[str, Any]] = field(default_factory=list)
    confusion: list[list[int]] | None = None
    undefined: dict[str, str] = field(default_factory=dict)


def metric_names(task: Task) -> list[str]:
    """Return the names of the metrics for a task.

    Example:
        >>> metric_names("regression")
        ['mse', 'rmse', 'mae', 'r2', 'pearson', 'spearman']
    """
    return list(_METRICS["regression" if task == "regression" else "classification"])


def check_names(names: str | Sequence[str] | None, task: Task | None = None) -> list[str] | None:
    """Check the names of metrics.

    Args:
        names: The names, as a list or as one text with commas; None for the default metrics.
        task: The task; None while it is unknown.

    Returns:
        The names without duplicates; None for the default metrics of an unknown task.

    Raises:
        ConfigurationError: If a name is unknown, or the metric does not fit the task.

    Example:
        >>> check_names("f1, accuracy")
        ['f1', 'accuracy']
    """
    if names is None:
        return None if task is None else list(DEFAULTS[task])
    chosen = names.split(",") if isinstance(names, str) else list(names)
    chosen = list(dict.fromkeys(str(name).strip() for name in chosen))
    known = {name: kind for kind, metrics in _METRICS.items() for name in metrics}
    listed = "; ".join(f"for {kind}: {', '.join(metrics)}" for kind, metrics in _METRICS.items())
    if not any(chosen):
        raise ConfigurationError(f"metrics={names!r} names no metric. The metrics are, {listed}.")
    for name in chosen:
        if name not in known:
            raise ConfigurationError(f"There is no metric {name!r}. The metrics are, {listed}.")
        if task is not None and name not in metric_names(task):
            raise ConfigurationError(
                f"The metric {name!r} is for {known[name]}, but the model and this data are {task}."
                f" Choose from {', '.join(metric_names(task))}."
            )
    return chosen


def score(predictions: Predictions, names: Sequence[str]) -> Scores:
    """Compute metrics.

    Args:
        predictions: The predictions.
        names: The names of the metrics, as returned by `check_names`.
    """
    task = predictions.task
    metrics: dict[str, float | None] = {}
    settings: dict[str, dict[str, Any]] = {}
    undefined: dict[str, str] = {}
    for name in names:
        measure = _METRICS["regression" if task == "regression" else "classification"][name]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                value, settings[name] = measure(predictions)
            except ValueError as error:  # for example r2 of a single sample
                value, settings[name], reason = math.nan, {}, str(error)
            else:
                reason = " ".join(str(warning.message) for warning in caught)
        metrics[name] = value if math.isfinite(value) else None
        if metrics[name] is None:
            undefined[name] = reason or "it is not defined for this data"
    if task == "regression":
        return Scores(metrics, settings, undefined=undefined)
    matrix = confusion(predictions)
    # torchmetrics returns 0 for a class without samples, which is undefined.
    recalls = classification.multiclass_accuracy(*_labels(predictions), average="none").tolist()
    counts, predicted = matrix.sum(1).tolist(), matrix.sum(0).tolist()
    per_class = [
        {"accuracy": recall if count else None, "count": count, "predicted": named}
        for recall, count, named in zip(recalls, counts, predicted, strict=True)
    ]
    return Scores(metrics, settings, per_class, matrix.tolist(), undefined)


def confusion(predictions: Predictions) -> torch.Tensor:
    """Return the confusion matrix: a row for each true class, a column for each predicted class."""
    return classification.multiclass_confusion_matrix(*_labels(predictions))


# -- classification -------------------------------------------------------------------------------

Measure = Callable[[Predictions], tuple[float, dict[str, Any]]]


def _labels(predictions: Predictions) -> tuple[torch.Tensor, torch.Tensor, int]:
    return torch.from_numpy(predictions.predicted), torch.from_numpy(predictions.target), predictions.num_classes


def _settings(function: Callable[..., Any], **settings: Any) -> dict[str, Any]:
    return {"function": f"torchmetrics.functional.{function.__name__}", **settings}


def _by_label(name: str, binary: str | None = None, **settings: Any) -> Measure:
    """Return a metric of class numbers: torchmetrics' function `name`, or `binary`, if given, for a single output."""

    def measure(predictions: Predictions) -> tuple[float, dict[str, Any]]:
        predicted, target, classes = _labels(predictions)
        if binary is not None and predictions.task == "binary":
            function = getattr(classification, binary)
            return float(function(predicted, target)), _settings(function, positive_class=1)
        function = getattr(classification, name)
        return float(function(predicted, target, classes, **settings)), _settings(function, **settings)

    return measure


def _balanced_accuracy(predictions: Predictions) -> tuple[float, dict[str, Any]]:
    predicted, target, classes = _labels(predictions)
    recalls = classification.multiclass_recall(predicted, target, classes, average="none")
    # torchmetrics' macro average counts a class that has no samples but was predicted, with a recall of 0.
    present = torch.bincount(target, minlength=classes) > 0
    settings = _settings(classification.multiclass_recall, average="macro", over="classes that the data has")
    return float(recalls[present].mean()), settings


def _auroc(predictions: Predictions) -> tuple[float, dict[str, Any]]:
    probabilities, target = torch.from_numpy(predictions.probabilities), torch.from_numpy(predictions.target)
    if predictions.task == "binary":
        settings = _settings(classification.binary_auroc, thresholds=None, positive_class=1)
        if len(torch.unique(target)) < 2:
            raise ValueError("the data has samples of one class only")
        return float(classification.binary_auroc(probabilities[:, 0], target)), settings
    # Only classes that some, but not all, samples have: torchmetrics counts any other class as 0 in the average.
    counts = torch.bincount(target, minlength=predictions.num_classes)
    present = torch.nonzero((counts > 0) & (counts < len(target))).flatten().tolist()
    if not present:
        raise ValueError("the data has samples of one class only")
    areas = [float(classification.binary_auroc(probabilities[:, one], (target == one).long())) for one in present]
    settings = _settings(
        classification.binary_auroc, thresholds=None, average="macro, one against the rest", over="classes of the data"
    )
    return sum(areas) / len(areas), settings


def _calibration_error(predictions: Predictions) -> tuple[float, dict[str, Any]]:
    probabilities, target = torch.from_numpy(predictions.probabilities), torch.from_numpy(predictions.target)
    settings: dict[str, Any] = {"n_bins": _BINS, "norm": "l1"}
    if predictions.task == "binary":
        value = classification.binary_calibration_error(probabilities[:, 0], target, **settings)
        return float(value), _settings(classification.binary_calibration_error, **settings)
    value = classification.multiclass_calibration_error(probabilities, target, predictions.num_classes, **settings)
    return float(value), _settings(classification.multiclass_calibration_error, **settings)


# -- regression -----------------------------------------------------------------------------------


def _columns(predictions: Predictions) -> tuple[torch.Tensor, torch.Tensor]:
    # float64, so that the sum of a million squares is accurate to more than a few digits.
    predicted, target = (
        torch.from_numpy(np.asarray(values, dtype=np.float64)) for values in (predictions.predicted, predictions.target)
    )
    one = predicted.shape[1] == 1
    return (predicted[:, 0], target[:, 0]) if one else (predicted, target)


def _of_numbers(name: str, **settings: Any) -> Measure:
    def measure(predictions: Predictions) -> tuple[float, dict[str, Any]]:
        function = getattr(regression, name)
        return float(function(*_columns(predictions), **settings).mean()), _settings(function, **settings)

    return measure


def _spearman(predictions: Predictions) -> tuple[float, dict[str, Any]]:
    """Correlate ranks. torchmetrics adds the ranks of ties in 32 bits, which overflow with a million samples."""
    predicted, target = (_ranks(column) for column in _columns(predictions))
    settings = _settings(regression.pearson_corrcoef, of="ranks, ties as their mean")
    return float(regression.pearson_corrcoef(predicted, target).mean()), settings


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the rank of each value in its column, from 1; equal values share their mean rank."""
    if values.ndim == 2:
        return torch.stack([_ranks(column) for column in values.T], dim=1)
    _, inverse, counts = torch.unique(values, sorted=True, return_inverse=True, return_counts=True)
    ranks: torch.Tensor = counts.cumsum(0).double() - (counts.double() - 1) / 2
    return ranks[inverse]


_METRICS: Mapping[str, Mapping[str, Measure]] = {
    "classification": {
        "accuracy": _by_label("multiclass_accuracy", average="micro"),
        "balanced_accuracy": _balanced_accuracy,
        "precision": _by_label("multiclass_precision", "binary_precision", average="macro"),
        "recall": _by_label("multiclass_recall", "binary_recall", average="macro"),
        "f1": _by_label("multiclass_f1_score", "binary_f1_score", average="macro"),
        "auroc": _auroc,
        "cohen_kappa": _by_label("multiclass_cohen_kappa"),
        "matthews": _by_label("multiclass_matthews_corrcoef"),
        "calibration_error": _calibration_error,
    },
    "regression": {
        "mse": _of_numbers("mean_squared_error"),
        "rmse": _of_numbers("mean_squared_error", squared=False),
        "mae": _of_numbers("mean_absolute_error"),
        "r2": _of_numbers("r2_score", multioutput="uniform_average"),
        "pearson": _of_numbers("pearson_corrcoef"),
        "spearman": _spearman,
    },
}
