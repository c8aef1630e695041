"""Comparisons of cases that run alternately, with their figures and goals."""

import gc
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SEED = 0


@dataclass(frozen=True)
class Settings:
    """Options of a benchmark.

    Attributes:
        folder: An empty folder on the disk to measure.
        short: Run each case once at a tiny size, only to test that it runs. False by default.
    """

    folder: Path
    short: bool = False


@dataclass(frozen=True)
class Bar:
    """A goal for one series of a comparison.

    Attributes:
        series: The name of the series.
        at_most: The highest allowed ratio; with `absolute`, the highest allowed figure.
        against: The series to divide by. Default: the comparison's baseline.
        statistic: `"median"` (default), `"min"`, `"first"`, or `"paired"`: the median of the ratios of figures from the
            same round. Use `"paired"` for differences smaller than the variation of the machine.
        absolute: Whether the figure itself is judged, in the comparison's unit, instead of a ratio. False by default.
            Has no effect with `"paired"`.
    """

    series: str
    at_most: float
    against: str | None = None
    statistic: str = "median"
    absolute: bool = False


@dataclass(frozen=True)
class Comparison:
    """The figures of several cases that do the same task.

    Attributes:
        title: The task.
        unit: The unit of the figures, such as `"s"`; smaller figures are better.
        series: The figures of each case by name, in the order of the table.
        baseline: The name of the series that the others are compared with.
        bars: The goals.
        notes: Remarks for the reader, one sentence each.
    """

    title: str
    unit: str
    series: Mapping[str, Sequence[float]]
    baseline: str
    bars: Sequence[Bar] = field(default_factory=tuple)
    notes: Sequence[str] = field(default_factory=tuple)

    def figure(self, name: str, statistic: str = "median") -> float:
        """Return the figure that represents a series."""
        values = self.series[name]
        if statistic == "first":
            return values[0]
        return min(values) if statistic == "min" else statistics.median(values)

    def reached(self, bar: Bar) -> float:
        """Return what a goal is compared with: a ratio or, with `absolute`, a figure."""
        if bar.statistic == "paired":
            pairs = zip(self.series[bar.series], self.series[bar.against or self.baseline], strict=True)
            return statistics.median(own / other for own, other in pairs)
        own = self.figure(bar.series, bar.statistic)
        return own if bar.absolute else own / self.figure(bar.against or self.baseline, bar.statistic)


def interleaved(
    cases: Mapping[str, Callable[[], float]], rounds: int, *, warmup: int = 1, seed: int = SEED
) -> dict[str, list[float]]:
    """Run each case once per round, in a new random order in each round.

    Other activity on the machine then affects all cases alike.

    Args:
        cases: Functions by name; each returns one figure.
        rounds: The number of figures for each case.
        warmup: The number of additional rounds at the start, whose figures are dropped. 1 by default.
        seed: The seed of the order. 0 by default.

    Returns:
        The figures by name, in the order of `cases`.
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


def bytes_below(folder: Path) -> int:
    """Return the size of the files below a folder in bytes.

    A symbolic link counts as a link, and a file with several hard links once.

    Args:
        folder: The folder.
    """
    found = (path.lstat() for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return sum({(status.st_dev, status.st_ino): status.st_size for status in found}.values())
