"""Prediction intervals of metrics, derived from reruns with other seeds.

No tolerance is chosen: it follows from how much reruns differ among themselves. The model is that reruns are a sample
from a normal population, and that the recorded value is one more observation from it. Such an observation lies in the
prediction interval with a given probability. That interval is wider than a confidence interval of the mean, because one
more run varies as much as any other run.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Real
from typing import Any

from lightning_dtool.errors import ConfigurationError
from lightning_dtool.record import Loss
from lightning_dtool.reproduction.ranges import range_of

MIN_VALUES = 3
"""The smallest number of reruns from which an interval is derived."""

MANY_VALUES = 5
"""The smallest number of reruns that is not said to be few."""

_LARGEST = Fraction(sys.float_info.max)


@dataclass(frozen=True)
class Interval:
    """The interval in which a further value is expected.

    Attributes:
        low: Its lower end, not below what the metric can be.
        high: Its upper end, not above what the metric can be.
        mean: The mean of the values.
        standard_deviation: Their standard deviation (with n - 1).
        count: The number of values.
        level: The probability that one further value of the same normal population lies inside.
    """

    low: float
    high: float
    mean: float
    standard_deviation: float
    count: int
    level: float

    def __contains__(self, value: float) -> bool:
        """Return whether a value lies in the interval, ends included. NaN never does."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class MetricJudgement:
    """The judgement on one recorded metric.

    Attributes:
        name: The metric's name.
        recorded: The value as it is in the record; None if the record has none.
        interval: The interval that reruns predict; None if none follows from their values. Its `level` is that of
            this metric alone.
        inside: Whether the recorded value lies in the interval; False if there is none.
        comparable: Whether the metric can be judged: by its interval, or because all reruns measured one other value.
        note: Why the metric cannot be judged, or on which side of the interval it lies.
        level: The probability that all judged metrics together lie inside, if nothing differs.
        values: The values of the reruns, in their order.
    """

    name: str
    recorded: Any
    interval: Interval | None
    inside: bool
    comparable: bool
    note: str
    level: float
    values: tuple[Any, ...] = ()


def prediction_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return the interval in which one further observation of the same normal population is expected.

    Two-sided: mean ± t((1 + level) / 2, n - 1) · s · sqrt(1 + 1/n), with the quantile t of Student's distribution.

    Source: G. J. Hahn and W. Q. Meeker, *Statistical Intervals*, Wiley 1991, chapter 4; G. J. Hahn, "Factors for
    calculating two-sided prediction intervals for samples from a normal distribution", *Journal of the American
    Statistical Association* 64 (1969), 878-888.

    Args:
        values: The observed values: at least 3 finite numbers, not all equal.
        level: The probability that a further observation lies inside. Between 0 and 1.

    Returns:
        The interval.

    Raises:
        ConfigurationError: If there are too few values, all are equal, one is not finite, the level is not between 0
            and 1, or SciPy is not installed.

    Example:
        >>> interval = prediction_interval([0.91, 0.93, 0.92, 0.90, 0.94])
        >>> f"{interval.low:.3f} to {interval.high:.3f}"
        '0.872 to 0.968'
    """
    values = [float(value) for value in values]
    count = len(values)
    if not 0 < level < 1:
        raise ConfigurationError(f"level: expected a probability between 0 and 1, found {level}.")
    if count < MIN_VALUES:
        raise ConfigurationError(
            f"expected at least {MIN_VALUES} values to predict a further one, found {count}: the spread of two says "
            "next to nothing (the interval of 95 % is 15.6 standard deviations to either side), and one has none. Make "
            "more reruns; 5 are better than 3."
        )
    odd = [value for value in values if not math.isfinite(value)]
    if odd:
        raise ConfigurationError(
            f"expected finite values, found {', '.join(map(str, odd))}: what is not finite has no spread. Find out why "
            "these runs diverged."
        )
    if min(values) == max(values):
        raise ConfigurationError(
            f"expected values that differ, found {count} times {values[0]:g}: without a spread they predict no "
            "interval. Make more reruns."
        )
    mean, deviation = _mean_and_deviation(values)
    reach = width_factor(count, level) * deviation
    return Interval(mean - reach, mean + reach, mean, deviation, count, level)


def width_factor(count: int, level: float = 0.95) -> float:
    """Return half of a prediction interval's width in standard deviations: t((1 + level) / 2, n - 1) · sqrt(1 + 1/n).

    Args:
        count: The number of values, n, at least 2.
        level: The interval's probability.

    Raises:
        ConfigurationError: If SciPy is not installed.

    Example:
        >>> [round(width_factor(n), 2) for n in (3, 5, 8, 10, 20)]
        [4.97, 3.04, 2.51, 2.37, 2.14]
    """
    try:
        from scipy.stats import t
    except ImportError as error:
        raise ConfigurationError(
            "judging reruns takes SciPy for the quantiles of Student's distribution, and it cannot be imported "
            f"({error}). Remedy: pip install 'lightning-dtool[reproduce]'."
        ) from error
    # `isf`, not `ppf`: 1 - (1 - level) / 2 loses digits if the level is near 1.
    return float(t.isf((1 - level) / 2, count - 1)) * math.sqrt(1 + 1 / count)


def judge(
    recorded: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    level: float = 0.95,
    loss: Loss | None = None,
) -> list[MetricJudgement]:
    """Judge whether recorded metrics lie in the intervals that reruns predict.

    With m metrics each is judged at the level 1 - (1 - level) / m (Bonferroni), so that, if nothing differs, all of
    them lie inside with a probability of at least `level`, even if the metrics depend on each other. m counts the
    metrics that have an interval. The intervals have two sides: a value that is better than predicted is outside, too.
    They end where the metric ends, as an accuracy does at 0 and 1. No interval follows from equal values: then the
    metric is not judged if the record has that value, too, and is not inside if it has another.

    Args:
        recorded: The recorded metrics, by name. A name such as `accuracy[3]` has no special meaning.
        runs: The metrics of each rerun, by name.
        level: The probability that all metrics lie inside if nothing differs.
        loss: The record's `loss`, which says whether a loss may be negative. Default: it may.

    Returns:
        A judgement for each metric that is recorded or that a rerun measured, in the order of their names' first
        appearance. A metric that cannot be judged (missing, not a number, not finite, too few reruns) is included, and
        its `note` says why.

    Raises:
        ConfigurationError: If the level is not between 0 and 1, or SciPy is not installed.

    Example:
        >>> runs = [{"acc": 0.91}, {"acc": 0.93}, {"acc": 0.92}, {"acc": 0.90}]
        >>> [(entry.name, entry.inside) for entry in judge({"acc": 0.99}, runs)]
        [('acc', False)]
    """
    if not 0 < level < 1:
        raise ConfigurationError(f"level: expected a probability between 0 and 1, found {level}.")
    names = dict.fromkeys([*recorded, *(name for run in runs for name in run)])
    problems = {name: _problem(name, recorded, runs) for name in names}
    values = {name: tuple(run[name] for run in runs if name in run) for name in names}
    judged = sum(not problem and len(set(values[name])) > 1 for name, problem in problems.items())
    found = []
    for name, problem in problems.items():
        entry = MetricJudgement(name, recorded.get(name), None, False, False, problem, level, values[name])
        if not problem:
            entry = _judged(entry, 1 - (1 - level) / max(judged, 1), len(runs), loss)
        found.append(entry)
    return found


def _judged(entry: MetricJudgement, level: float, runs: int, loss: Loss | None) -> MetricJudgement:
    """Return the judgement on a metric that was measured often enough."""
    numbers = [float(value) for value in entry.values]
    value = float(entry.recorded)
    if min(numbers) == max(numbers):
        same = value == numbers[0]
        equal = (
            f"all {len(numbers)} reruns measured {numbers[0]:.6g}{'' if same else ', which is not the recorded value'}"
        )
        return replace(entry, comparable=not same, note=f"{equal}; no interval follows from equal values")
    interval = prediction_interval(numbers, level)
    low, high = range_of(entry.name, [*numbers, value], loss)
    interval = replace(interval, low=max(low, interval.low), high=min(high, interval.high))
    inside = value in interval
    return replace(entry, interval=interval, inside=inside, comparable=True, note=_note(value, interval, runs))


def _problem(name: str, recorded: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """Return why a metric cannot be judged; an empty text if it can."""
    measured = [run[name] for run in runs if name in run]
    if name not in recorded:
        return "not comparable: it is not recorded"
    for whose, values in (("the recorded value", [recorded[name]]), ("the value of a rerun", measured)):
        for value in values:
            if not _is_number(value):
                return f"not comparable: {whose} is not a finite number ({_shown(value)})"
    if len(measured) < MIN_VALUES:
        return (
            f"not comparable: {len(measured)} of {len(runs)} reruns measured it, and an interval needs at least "
            f"{MIN_VALUES}"
        )
    return ""


def _is_number(value: Any) -> bool:
    try:
        return type(value) is not bool and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # an integer that is too large for a float
        return False


def _shown(value: Any) -> str:
    """Return a value as short text. In a record, NaN is an object with the text as its `value`."""
    if isinstance(value, Mapping) and "value" in value:
        value = value["value"]
    return str(value)[:40]


def _note(value: float, interval: Interval, runs: int) -> str:
    notes = []
    if value < interval.low:
        notes.append("below what reruns predict")
    elif value > interval.high:
        notes.append("above what reruns predict")
    if interval.count < runs:
        notes.append(f"only {interval.count} of {runs} reruns measured it")
    return "; ".join(notes)


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation, computed exactly, so that a spread far below the mean is not lost."""
    exact = [Fraction(value) for value in values]
    mean = sum(exact, Fraction()) / len(exact)
    largest = max(abs(value - mean) for value in exact)
    # In units of the largest deviation, whose square might overflow or underflow a float.
    variance = sum(((value - mean) / largest) ** 2 for value in exact) / (len(exact) - 1)
    return float(mean), float(min(largest, _LARGEST)) * math.sqrt(float(variance))
