"""How things are compared: side by side in one run, shuffled, after a warm-up; medians, minima and ratios."""

import gc
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SEED = 0


@dataclass(frozen=True)
class Settings:
    """How much to measure.

    Attributes:
        folder: An empty folder on the disk that is measured.
        short: Run everything once, at a tiny size: for correctness, not for figures.
    """

    folder: Path
    short: bool = False


@dataclass(frozen=True)
class Bar:
    """What a series has to reach.

    Attributes:
        series: Whose figure it is.
        at_most: The highest allowed ratio; with `absolute`, the highest allowed figure.
        against: What it is divided by. Default: the comparison's baseline.
        statistic: `"median"` (default), `"min"`, `"first"`, or `"paired"`: the median of the ratios of figures that
            were taken one after the other, for a difference that is smaller than what a machine does by itself.
        absolute: The figure itself is judged, in the comparison's unit.
    """

    series: str
    at_most: float
    against: str | None = None
    statistic: str = "median"
    absolute: bool = False


@dataclass(frozen=True)
class Comparison:
    """The figures of things that do the same.

    Attributes:
        title: What they do.
        unit: Of the figures, such as `"s"`; smaller is better.
        series: The figures by name, in the order in which a table shows them.
        baseline: The name that the others are compared with.
        bars: What has to be reached.
        notes: What a reader has to know besides, such as peers that were left out.
    """

    title: str
    unit: str
    series: Mapping[str, Sequence[float]]
    baseline: str
    bars: Sequence[Bar] = field(default_factory=tuple)
    notes: Sequence[str] = field(default_factory=tuple)

    def figure(self, name: str, statistic: str = "median") -> float:
        """Return what stands for a series."""
        values = self.series[name]
        if statistic == "first":
            return values[0]
        return min(values) if statistic == "min" else statistics.median(values)

    def reached(self, bar: Bar) -> float:
        """Return what a bar judges: a ratio, or with `absolute` a figure."""
        if bar.statistic == "paired":
            pairs = zip(self.series[bar.series], self.series[bar.against or self.baseline], strict=True)
            return statistics.median(own / other for own, other in pairs)
        own = self.figure(bar.series, bar.statistic)
        return own if bar.absolute else own / self.figure(bar.against or self.baseline, bar.statistic)


def interleaved(
    cases: Mapping[str, Callable[[], float]], rounds: int, *, warmup: int = 1, seed: int = SEED
) -> dict[str, list[float]]:
    """Run each case once per round, in an order shuffled anew in every round.

    What else goes on in the machine then hits all of them alike.

    Args:
        cases: Functions by name; each returns its own figure.
        rounds: How many figures to take of each.
        warmup: Rounds before that whose figures are dropped.
        seed: Of the shuffling.

    Returns:
        The figures by name, in the order of the cases.
    """
    shuffled = random.Random(seed)
    figures: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(warmup + rounds):
        for name in shuffled.sample(sorted(cases), len(cases)):
            gc.collect()
            figure = cases[name]()
            if number >= warmup:
                figures[name].append(figure)
    return figures
