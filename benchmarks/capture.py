"""Benchmarks of observing a training: at the start of a fit, and in each step."""

import importlib
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from benchmarks.measuring import SEED, Bar, Comparison, Settings, interleaved
from benchmarks.training import Wide, batches, quiet_trainer
from lightning_dtool import DtoolProvenanceCallback

FILES = 200
LINES = 120


class TimedStart(DtoolProvenanceCallback):
    """A callback that measures how long its hooks at the start of a fit take, in seconds."""

    start = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Time the setup of the callback."""
        begun = time.perf_counter()
        super().setup(trainer, pl_module, stage)
        self.start = time.perf_counter() - begun

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Time the observation of random states and weights."""
        begun = time.perf_counter()
        super().on_fit_start(trainer, pl_module)
        self.start += time.perf_counter() - begun

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Time the observation of everything else."""
        begun = time.perf_counter()
        super().on_train_start(trainer, pl_module)
        self.start += time.perf_counter() - begun


def run(settings: Settings) -> Iterator[Comparison]:
    """Measure the start of a fit, the callback's hooks in a step, and a whole step."""
    models = settings.folder / "models"
    models.mkdir()
    before = os.getcwd()
    try:
        project(settings.folder / "project")
        yield _start(settings, models)
    finally:
        os.chdir(before)
    yield _hooks(settings, models)
    yield _steps(settings, models)


def project(folder: Path) -> None:
    """Create a project of many modules in a git repository, import all modules, and make it the main program."""
    package = folder / "leaves"
    package.mkdir(parents=True)
    body = "\n".join(f"def f{number}(x):\n    return x + {number}\n" for number in range(LINES // 3))
    for number in range(FILES):
        (package / f"part{number}.py").write_text(f"import os\n\n{body}")
    (folder / "train.py").write_text("import leaves\n")
    identity = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "leaves"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    sys.path.insert(0, str(folder))
    for number in range(FILES):
        importlib.import_module(f"leaves.part{number}")
    sys.modules["__main__"].__file__ = str(folder / "train.py")
    os.chdir(folder)


def _start(settings: Settings, models: Path) -> Comparison:
    seconds = []
    for number in range(2 if settings.short else 7):
        callback = TimedStart(str(models))
        trainer = quiet_trainer(settings.folder / str(number), [callback], max_epochs=1, enable_checkpointing=False)
        trainer.fit(Wide(0.1), batches(1))
        seconds.append(1e3 * callback.start)
    return Comparison(
        f"Time added at the start of a fit ({FILES} source files in git)",
        "ms",
        {"first fit in a process": seconds[:1], "later fits": seconds[1:]},
        "first fit in a process",
        [Bar("first fit in a process", 100, absolute=True), Bar("later fits", 100, absolute=True)],
    )


def _hooks(settings: Settings, models: Path) -> Comparison:
    steps = 1_000 if settings.short else 20_000
    callback = DtoolProvenanceCallback(str(models))
    trainer = quiet_trainer(settings.folder, [callback], max_epochs=1, enable_checkpointing=False)
    trainer.fit(Wide(0.1), batches(8))
    unused: Any = None
    optimizer = trainer.optimizers[0]

    def ours() -> float:
        begun = time.perf_counter()
        for _ in range(steps):
            callback.on_train_batch_start(trainer, unused, unused, 0)
            callback.on_before_backward(trainer, unused, unused)
            callback.on_before_optimizer_step(trainer, unused, optimizer)
            callback.on_train_batch_end(trainer, unused, unused, unused, 0)
        return 1e6 * (time.perf_counter() - begun) / steps

    name = "DtoolProvenanceCallback"
    figures = interleaved({name: ours}, rounds=1 if settings.short else 7)
    return Comparison("The callback's hooks in a step", "us", figures, name, [Bar(name, 5, absolute=True)])


def _steps(settings: Settings, models: Path) -> Comparison:
    """Compare steps within one fit. Between fits, step times vary by more than the difference to be measured."""
    empty, ours = "an empty callback", "DtoolProvenanceCallback"
    block, pairs = (5, 2) if settings.short else (10, 2_000)
    exchange = _Exchange(DtoolProvenanceCallback(str(models)), _Empty(), block)
    trainer = quiet_trainer(settings.folder, [exchange.ours, exchange], max_epochs=1, enable_checkpointing=False)
    trainer.fit(Wide(0.1, tensors=2), batches(2 * block * (pairs + 1)))
    # Each figure is the median of a few pairs, to keep the number of figures small.
    some = 1 if settings.short else 20
    figures = {
        name: [
            statistics.median(exchange.figures[which][start : start + some])
            for start in range(0, pairs // some * some, some)
        ]
        for name, which in ((empty, False), (ours, True))
    }
    ratios = [own / other for own, other in zip(figures[ours], figures[empty], strict=True)]
    # The standard error of the median of approximately normal values.
    error = 1.25 * statistics.stdev(ratios) / math.sqrt(len(ratios))
    return Comparison(
        "A step of a tiny model",
        "us",
        figures,
        empty,
        [Bar(ours, 1.01, statistic="paired")],
        [
            f"Measured in one fit: the callbacks take turns of {block} steps, in pairs with a random order.",
            f"A figure is the median of {some} pairs. The ratio has a 95 % confidence interval of ±{1.96 * error:.3f}.",
        ],
    )


class _Empty(Callback):
    """A callback that does nothing. Lightning calls all its hooks anyway."""


class _Exchange(Callback):
    """Switches between two callbacks after each block of steps, and measures the steps with each."""

    def __init__(self, ours: Callback, empty: Callback, block: int) -> None:
        self.ours = ours
        self.empty = empty
        self.block = block
        self.figures: dict[bool, list[float]] = {False: [], True: []}
        self._shuffled = random.Random(SEED)
        self._order = [True, False]
        self._begun = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the block of steps that ends here, and choose the callback of the next one."""
        blocks, rest = divmod(batch_idx + 1, self.block)
        if rest:
            return
        if blocks > 2:  # the callback observes more in the first steps
            self.figures[self._order[(blocks - 1) % 2]].append(1e6 * (time.perf_counter() - self._begun) / self.block)
        if blocks % 2 == 0:
            self._order = self._shuffled.sample([True, False], 2)
        trainer.callbacks[0] = self.ours if self._order[blocks % 2] else self.empty
        self._begun = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the package's callback."""
        trainer.callbacks[0] = self.ours
