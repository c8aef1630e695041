"""What observing costs: once when fitting begins, and at every step."""

import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from benchmarks.measuring import Bar, Comparison, Settings, interleaved
from benchmarks.training import Wide, batches, quiet_trainer
from lightning_dtool import DtoolProvenanceCallback

FILES = 200
LINES = 120


class TimedStart(DtoolProvenanceCallback):
    """Knows how long its hooks at the start of a fit take."""

    start = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Time the installation."""
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


class Stopwatch(Callback):
    """Times the steps from the second on."""

    def __init__(self) -> None:
        self.begun = 0.0
        self.seconds = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Begin after the first batch, in which more is observed, and end with the last one."""
        if batch_idx == 0:
            self.begun = time.perf_counter()
        self.seconds = time.perf_counter() - self.begun


def run(settings: Settings) -> Iterator[Comparison]:
    """Measure the start of a fit, our own hooks of a step, and a step as the user sees it."""
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
    """Make a project of many modules in a git repository, import all of it, and be its main program."""
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
        f"What is added when a fit begins ({FILES} source files in git)",
        "ms",
        {"first in a process": seconds[:1], "later ones": seconds[1:]},
        "first in a process",
        [Bar("first in a process", 100, absolute=True), Bar("later ones", 100, absolute=True)],
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

    name = "our hooks"
    figures = interleaved({name: ours}, rounds=1 if settings.short else 7)
    return Comparison("Our own hooks in a step", "us", figures, name, [Bar(name, 5, absolute=True)])


def _steps(settings: Settings, models: Path) -> Comparison:
    steps = 20 if settings.short else 2_000

    def timed(kind: type[Callback], *arguments: Any) -> float:
        watch = Stopwatch()
        callbacks = [kind(*arguments), watch]
        trainer = quiet_trainer(settings.folder, callbacks, max_epochs=1, enable_checkpointing=False)
        trainer.fit(Wide(0.1, tensors=2), batches(steps))
        return 1e6 * watch.seconds / (steps - 1)

    empty, ours = "an empty callback", "DtoolProvenanceCallback"
    figures = interleaved(
        {empty: lambda: timed(_Empty), ours: lambda: timed(DtoolProvenanceCallback, str(models))},
        rounds=1 if settings.short else 11,
    )
    spread = (max(figures[empty]) - min(figures[empty])) / statistics.median(figures[empty])
    return Comparison(
        "A step of a tiny model",
        "us",
        figures,
        empty,
        [Bar(ours, 1.01), Bar(ours, 1.01, statistic="min")],
        [f"the empty callback alone spreads over {100 * spread:.0f} % of its median"],
    )


class _Empty(Callback):
    """Has the hooks that ours has, and does nothing in them: Lightning calls each hook of each callback in any case."""
