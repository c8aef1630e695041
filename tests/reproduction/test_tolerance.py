"""Prediction intervals from reruns, their coverage, and the judgement of recorded metrics."""

import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightning_dtool.errors import ConfigurationError
from lightning_dtool.record import Loss, LossCall
from lightning_dtool.reproduction.ranges import range_of
from lightning_dtool.reproduction.tolerance import Interval, judge, prediction_interval, width_factor

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=12).filter(lambda values: min(values) < max(values))
LEVELS = st.floats(0.5, 0.999)

# -- the interval ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 8, 20])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_covers_the_next_observation_at_its_level(n: int, level: float) -> None:
    """Over many samples, the share whose next observation lies inside equals the level, up to chance."""
    trials = 20_000
    sample = np.random.default_rng(n).normal(0.9, 0.01, size=(trials, n + 1))
    seen, further = sample[:, :n], sample[:, n]
    reach = width_factor(n, level) * seen.std(axis=1, ddof=1)
    share = float((abs(further - seen.mean(axis=1)) <= reach).mean())
    assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / trials))


@pytest.mark.parametrize("n", [3, 8, 20])
def test_prediction_interval_covers_at_its_level(n: int) -> None:
    trials = 1000
    sample = np.random.default_rng(100 + n).normal(5.0, 2.0, size=(trials, n + 1)).tolist()
    share = sum(row[n] in prediction_interval(row[:n], 0.9) for row in sample) / trials
    assert share == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / trials))


def test_factors_equal_published_values() -> None:
    """Hahn (1969) tabulates the factors for one further observation at 95 %."""
    for n, factor in ((4, 3.56), (5, 3.04), (10, 2.37), (20, 2.14), (60, 2.02)):
        assert width_factor(n) == pytest.approx(factor, abs=0.006)
    interval = prediction_interval([1.0, 2.0, 3.0])
    assert (interval.mean, interval.standard_deviation, interval.count, interval.level) == (2.0, 1.0, 3, 0.95)
    assert interval.high - interval.mean == pytest.approx(4.302653 * math.sqrt(4 / 3), rel=1e-6)
    assert interval.mean - interval.low == pytest.approx(interval.high - interval.mean)


def test_the_example_of_the_documentation_holds() -> None:
    runs = [{"val_acc": value} for value in (0.928, 0.936, 0.931, 0.925, 0.939)]
    (entry,) = judge({"val_acc": 0.915}, runs)
    assert entry.inside
    assert entry.interval is not None
    assert (round(entry.interval.low, 3), round(entry.interval.high, 3)) == (0.914, 0.949)


@given(NUMBERS, st.floats(-1e6, 1e6), st.sampled_from([2.0**power for power in range(-8, 9)]), LEVELS)
def test_the_interval_shifts_and_scales_with_the_values(
    values: list[float], shift: float, scale: float, level: float
) -> None:
    assume(len({value + shift for value in values}) > 1)
    plain = prediction_interval(values, level)
    grown = prediction_interval([value * scale for value in values], level)
    moved = prediction_interval([value + shift for value in values], level)
    mirrored = prediction_interval([-value for value in values], level)
    slack = 1e-9 * (max(map(abs, values)) + abs(shift) + plain.high - plain.low + 1e-300)
    assert (grown.low, grown.high) == pytest.approx((plain.low * scale, plain.high * scale), abs=slack * scale)
    assert (moved.low, moved.high) == pytest.approx((plain.low + shift, plain.high + shift), abs=slack * 100)
    assert (mirrored.low, mirrored.high) == pytest.approx((-plain.high, -plain.low), abs=slack)


@given(NUMBERS, LEVELS, LEVELS)
def test_a_higher_level_makes_the_interval_wider(values: list[float], a: float, b: float) -> None:
    narrow, wide = (prediction_interval(values, level) for level in sorted((a, b)))
    assert wide.low <= narrow.low <= narrow.high <= wide.high


@given(NUMBERS, st.randoms(use_true_random=False))
def test_the_order_of_the_values_does_not_matter(values: list[float], random: Any) -> None:
    shuffled = random.sample(values, len(values))
    assert prediction_interval(shuffled) == prediction_interval(values)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=5))
@settings(max_examples=200)
def test_any_finite_values_that_differ_give_an_interval(values: list[float]) -> None:
    assume(min(values) < max(values))
    interval = prediction_interval(values)
    assert interval.low <= interval.high
    assert interval.mean in interval
    assert not math.isnan(interval.standard_deviation)


def test_a_spread_far_smaller_than_the_mean_is_kept() -> None:
    values = [1.0, 1.0 + 2**-52, 1.0 + 2**-51]
    assert prediction_interval(values).standard_deviation == pytest.approx(2**-52)


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        ([], 0.95, "at least 3 values.*found 0"),
        ([1.0, 2.0], 0.95, "at least 3 values.*found 2.*5 are better than 3"),
        ([1.0, 1.0, 1.0], 0.95, "expected values that differ, found 3 times 1: without a spread"),
        ([1.0, math.nan, 2.0], 0.95, "expected finite values, found nan"),
        ([1.0, math.inf, -math.inf], 0.95, "found inf, -inf"),
        ([1.0, 2.0, 3.0], 0.0, "expected a probability between 0 and 1, found 0.0"),
        ([1.0, 2.0, 3.0], 1.0, "found 1.0"),
        ([1.0, 2.0, 3.0], math.nan, "found nan"),
    ],
)
def test_values_without_an_interval_are_refused(values: list[float], level: float, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        prediction_interval(values, level)


def test_a_missing_scipy_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scipy", "scipy.stats"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigurationError, match=r"pip install 'lightning-dtool\[reproduce\]'"):
        prediction_interval([1.0, 2.0, 3.0])
    with pytest.raises(ConfigurationError, match="SciPy"):
        judge({"x": 1.0}, [{"x": float(number)} for number in range(3)])


def test_nan_is_outside_every_interval() -> None:
    assert math.nan not in Interval(-math.inf, math.inf, 0.0, 1.0, 3, 0.95)


# -- the judgement --------------------------------------------------------------------------------

RUNS = [{"acc": 0.90}, {"acc": 0.91}, {"acc": 0.92}, {"acc": 0.93}, {"acc": 0.94}]


@pytest.mark.parametrize(
    ("value", "inside", "note"),
    [
        (0.92, True, ""),
        (0.87, False, "below what reruns predict"),
        (0.97, False, "above what reruns predict"),
        (1, False, "above what reruns predict"),
    ],
)
def test_a_better_value_is_outside_too(value: float, inside: bool, note: str) -> None:
    (entry,) = judge({"acc": value}, RUNS)
    assert (entry.name, entry.recorded, entry.inside, entry.comparable, entry.note) == (
        "acc",
        value,
        inside,
        True,
        note,
    )
    assert entry.interval == prediction_interval([run["acc"] for run in RUNS])


def test_several_metrics_share_one_level() -> None:
    """Bonferroni's correction counts only the metrics that can be judged."""
    runs = [{"a": 1.0 + n, "accuracy[3]": 2.0 + n, "accuracy[4]": 1.0 * n, "text": "x"} for n in range(4)]
    found = {entry.name: entry for entry in judge({**runs[0], "other": 1}, runs, 0.9)}
    assert list(found) == ["a", "accuracy[3]", "accuracy[4]", "text", "other"]
    for name in ("a", "accuracy[3]", "accuracy[4]"):
        assert found[name].interval.level == pytest.approx(1 - 0.1 / 3)
        assert found[name].level == 0.9
    assert found["text"].interval is None


@given(st.integers(1, 6), st.integers(3, 8), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_more_metrics_make_each_interval_wider(metrics: int, runs: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(runs, metrics))
    measured = [{f"m{index}": float(value) for index, value in enumerate(row)} for row in values]
    for entry in judge(measured[0], measured):
        alone = prediction_interval([run[entry.name] for run in measured])
        assert entry.interval.low <= alone.low
        assert entry.interval.high >= alone.high


def test_all_metrics_together_are_covered_at_the_level() -> None:
    """Dependent or independent metrics: the coverage is at least the level, up to chance."""
    generator, trials, n, m = np.random.default_rng(5), 400, 4, 3
    for mixing in (np.eye(m), np.ones((m, m)) + 0.1 * np.eye(m)):
        together = 0
        for _ in range(trials):
            rows = [
                dict(zip("abc", map(float, row), strict=True)) for row in generator.normal(size=(n + 1, m)) @ mixing
            ]
            together += all(entry.inside for entry in judge(rows[n], rows[:n], 0.9))
        assert together / trials >= 0.9 - 4 * math.sqrt(0.09 / trials)


@pytest.mark.parametrize(
    ("recorded", "runs", "note"),
    [
        ({}, RUNS, "not comparable: it is not recorded"),
        ({"acc": math.nan}, RUNS, r"the recorded value is not a finite number (nan)"),
        ({"acc": {"type": "builtins:float", "value": "nan"}}, RUNS, "the recorded value is not a finite number (nan)"),
        ({"acc": None}, RUNS, "the recorded value is not a finite number (None)"),
        ({"acc": True}, RUNS, "the recorded value is not a finite number (True)"),
        ({"acc": 10**400}, RUNS, "the recorded value is not a finite number (1000"),
        ({"acc": 0.9}, [*RUNS, {"acc": math.inf}], "the value of a rerun is not a finite number (inf)"),
        ({"acc": 0.9}, [*RUNS, {"acc": "good"}], "the value of a rerun is not a finite number (good)"),
        ({"acc": 0.9}, RUNS[:2], "2 of 2 reruns measured it, and an interval needs at least 3"),
        ({"acc": 0.9}, [*RUNS[:2], {}, {}], "2 of 4 reruns measured it"),
        ({"acc": 0.9}, [], "0 of 0 reruns measured it"),
    ],
)
def test_a_metric_that_cannot_be_judged_is_reported_and_not_inside(recorded: Any, runs: Any, note: str) -> None:
    (entry,) = judge(recorded, runs)
    assert not entry.inside
    assert not entry.comparable
    assert entry.interval is None
    assert note in entry.note


def test_a_metric_missing_in_some_reruns_is_judged_by_the_others() -> None:
    (entry,) = judge({"acc": 0.92}, [*RUNS, {}])
    assert entry.inside
    assert entry.note == "only 5 of 6 reruns measured it"


def test_no_interval_follows_from_equal_values() -> None:
    """A metric that saturates is no evidence if the record has the same value, and is another one if not."""
    runs = [{"acc": 1.0, "loss": loss} for loss in (0.1, 0.2, 0.3)]
    same, loss = judge({"acc": 1.0, "loss": 0.2}, runs)
    assert (same.interval, same.comparable, same.inside) == (None, False, False)
    assert same.note == "all 3 reruns measured 1; no interval follows from equal values"
    assert same.values == (1.0, 1.0, 1.0)
    assert loss.interval is not None
    assert loss.interval.level == 0.95  # the level is not shared with a metric that has no interval
    other, _ = judge({"acc": 0.5, "loss": 0.2}, runs)
    assert (other.interval, other.comparable, other.inside) == (None, True, False)
    assert "measured 1, which is not the recorded value; no interval" in other.note


def test_an_interval_ends_where_the_metric_ends() -> None:
    runs = [{"val_acc": acc, "acc_percent": 100 * acc, "train_loss": 1 - acc, "reward": acc} for acc in (0.9, 0.95, 1)]
    recorded = {"val_acc": 0.99, "acc_percent": 99.0, "train_loss": 0.01, "reward": 0.99}
    cross_entropy = Loss(calls=[LossCall(name="torch.nn.functional:cross_entropy", kind="function")])
    found = {entry.name: entry.interval for entry in judge(recorded, runs, loss=cross_entropy)}
    assert found["val_acc"].high == 1.0
    assert found["acc_percent"].high == 100.0
    assert found["train_loss"].low == 0.0
    assert found["reward"].high > 1.0
    assert found["val_acc"].low == found["reward"].low
    unknown = {entry.name: entry.interval for entry in judge(recorded, runs)}
    assert unknown["train_loss"].low < 0.0


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("val_acc", [0.5], (0.0, 1.0)),
        ("valAccuracy", [0.5], (0.0, 1.0)),
        ("MulticlassF1Score", [0.5], (0.0, 1.0)),
        ("recall[oak]", [1.0], (0.0, 1.0)),
        ("val/auroc_epoch", [0.5], (0.0, 1.0)),
        ("acc", [50.0, 0.5], (0.0, 100.0)),
        ("acc", [-1.0], (-math.inf, math.inf)),
        ("val_rmse", [3.0], (0.0, math.inf)),
        ("accumulated", [3.0], (-math.inf, math.inf)),
        ("loss", [0.5], (0.0, math.inf)),
        ("loss", [-0.5], (-math.inf, math.inf)),
    ],
)
def test_the_range_of_a_metric_holds_all_its_values(name: str, values: list[float], found: tuple[float, float]) -> None:
    assert range_of(name, values, Loss(calls=[LossCall(name="torch.nn.modules.loss:MSELoss", kind="module")])) == found


def test_a_loss_with_an_unknown_or_subtracted_part_may_be_negative() -> None:
    known = LossCall(name="torch.nn.functional:mse_loss", kind="function")
    own = LossCall(name="train:bonus", kind="function")
    assert range_of("loss", [0.5], Loss(calls=[known, own]))[0] == -math.inf
    assert range_of("loss", [0.5], Loss(calls=[known], operations=["SubBackward0"]))[0] == -math.inf
    assert range_of("loss", [0.5], Loss())[0] == -math.inf


def test_numpy_numbers_are_accepted() -> None:
    (entry,) = judge({"x": np.float32(0.5)}, [{"x": np.float32(value)} for value in (0.4, 0.5, 0.6)])
    assert entry.inside


def test_an_invalid_level_is_refused() -> None:
    for level in (0, 1, 95, -0.1):
        with pytest.raises(ConfigurationError, match="probability"):
            judge({}, [], level)
