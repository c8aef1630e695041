"""Benchmarks of saving checkpoints: waiting time, added fit time, disk space and memory."""

import contextlib
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from benchmarks.measuring import SEED, Bar, Comparison, Settings, bytes_below, interleaved
from benchmarks.training import SaveTimer, Wide, batches, quiet_trainer
from lightning_dtool import DtoolProvenanceCallback
from lightning_dtool.capture.recorder import Recorder
from lightning_dtool.resuming.plain_state.remembered import Remembered
from lightning_dtool.snapshot.memory import available_memory
from lightning_dtool.store.digest import hash_file

NONE = "no checkpoints"
PLAIN = "ModelCheckpoint"
ASYNC = "ModelCheckpoint + AsyncCheckpointIO"
NAIVE = "save, then dtoolcore's put_item and freeze"
OURS = "DtoolProvenanceCallback"
BLOCKING = "DtoolProvenanceCallback(background=False)"
MLFLOW = 'MLFlowLogger(log_model="all")'
DVC = 'DVCLiveLogger(log_model="all")'
EPOCHS = 5


@dataclass(frozen=True)
class Run:
    """Figures of one fit.

    Attributes:
        saves: The time that training waited for each save, in seconds.
        fit: The time of the whole fit, in seconds.
        size: The size of the files that are left on disk, in bytes.
    """

    saves: list[float]
    fit: float
    size: int


class Naive(Callback):
    """A straightforward alternative: save each checkpoint, then copy it into a dataset and freeze that."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.seconds: list[float] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save a checkpoint and make a dataset of it."""
        from dtoolcore import create_proto_dataset

        begun = time.perf_counter()
        file = self.base / f"{trainer.current_epoch}.ckpt"
        trainer.save_checkpoint(file)
        proto = create_proto_dataset(f"m-{uuid.uuid4()}", self.base.as_uri())
        proto.put_item(str(file), "checkpoint.ckpt")
        proto.freeze()
        file.unlink()
        self.seconds.append(time.perf_counter() - begun)


def run(settings: Settings) -> Iterator[Comparison]:
    """Compare the time, disk space and memory of fits that save a large checkpoint after each epoch."""
    sizes = {"1 MB": (1, 4, 1)} if settings.short else {"100 MB": (100, 12, 5), "1 GB": (1024, 6, 2)}
    for shown, (megabytes, steps, rounds) in sizes.items():
        yield from _compare(settings, shown, megabytes, steps, rounds)
    yield from _huge(settings)
    yield _memory(settings, 8 if settings.short else 512)
    for background in (False, True):
        for megabytes in (0.01,) if settings.short else (0.01, 100):
            for what in (LOOKS, REMEMBERS):
                yield _in_turns(settings, what, megabytes, background)


@dataclass(frozen=True)
class Part:
    """A part of a save that a benchmark leaves out.

    Attributes:
        on: Its name in the results.
        off: The name of the saves without it.
        owner: The class that does it.
        without: The methods of the class that do nothing instead.
    """

    on: str
    off: str
    owner: type
    without: Mapping[str, Callable[..., Any]]


LOOKS = Part(
    "looks for changes",
    "does not look",
    Recorder,
    {"_looked_again": lambda self, trainer, before, before_batch: before},
)
REMEMBERS = Part(
    "remembers plain state",
    "does not remember",
    Remembered,
    {
        "save": lambda self, trainer: ({"table": [], "changes": []}, []),
        "note_before_validation": lambda self: None,
    },
)


def _in_turns(settings: Settings, part: Part, megabytes: float, background: bool) -> Comparison:
    """Compare saves with one of their parts with saves without it, in turns within one fit."""
    pairs = 4 if settings.short else 60 if megabytes < 1 else 20
    shuffled = random.Random(SEED)
    plan = [on for _ in range(pairs) for on in shuffled.sample([True, False], 2)]
    folder = settings.folder / f"{uuid.uuid4()}"
    (folder / "models").mkdir(parents=True)
    timer = SaveTimer(ModelCheckpoint(dirpath=folder / "checkpoints", save_top_k=1))
    provenance = DtoolProvenanceCallback(str(folder / "models"), background=background)
    callbacks = [_Settled(), provenance, *timer.callbacks]
    with _left_out(part, timer, plan):
        quiet_trainer(folder, callbacks, max_epochs=len(plan)).fit(Wide(megabytes), batches(2))
    shutil.rmtree(folder)
    # The first saves write what later ones share, such as the archive of the code.
    each = list(zip(plan, timer.seconds, strict=True))[4:]
    figures = {
        name: [1e3 * time for on, time in each if on is chosen] for name, chosen in ((part.off, False), (part.on, True))
    }
    size = "a tiny model" if megabytes < 1 else f"{megabytes} MB"
    return Comparison(
        f"Time that training waits for a checkpoint of {size} with background={background}, which {part.on}",
        "ms",
        figures,
        part.off,
        [Bar(part.on, 1.05, statistic="paired")],
        [
            "Measured in one fit: the saves take turns, in pairs with a random order.",
            "Each begins when the last checkpoint is published, as if epochs were longer than that takes.",
        ],
    )


class _Settled(Callback):
    """A callback that waits until what was saved before is published."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait."""
        checkpoint_io: Any = trainer.strategy.checkpoint_io
        checkpoint_io.flush()


@contextlib.contextmanager
def _left_out(part: Part, timer: SaveTimer, plan: Sequence[bool]) -> Iterator[None]:
    """Leave a part out of the saves for which the plan says False."""

    def in_turns(name: str, instead: Callable[..., Any]) -> Callable[..., Any]:
        whole = getattr(part.owner, name)

        def method(*args: Any, **options: Any) -> Any:
            return (whole if not timer.is_saving or plan[len(timer.seconds)] else instead)(*args, **options)

        return method

    with patch.multiple(part.owner, **{name: in_turns(name, instead) for name, instead in part.without.items()}):
        yield


def _compare(settings: Settings, shown: str, megabytes: int, steps: int, rounds: int) -> Iterator[Comparison]:
    runs: dict[str, list[Run]] = {}
    epochs = 2 if settings.short else EPOCHS
    large = megabytes > 500

    def case(name: str) -> Callable[[], float]:
        def fit() -> float:
            folder = settings.folder / f"{uuid.uuid4()}"
            measured = _fit(name, folder, megabytes, steps, epochs)
            shutil.rmtree(folder)
            runs.setdefault(name, []).append(measured)
            return measured.fit

        return fit

    names = [NONE, PLAIN, ASYNC, OURS, BLOCKING] + ([] if large else [NAIVE])
    peers = [] if large else [peer for peer, module in ((MLFLOW, "mlflow"), (DVC, "dvclive")) if find_spec(module)]
    # A round with large checkpoints takes minutes, and a warm-up round would not make the others faster.
    interleaved({name: case(name) for name in names + peers}, rounds, warmup=0 if settings.short or large else 1)
    kept = {name: runs[name][-rounds:] for name in names + peers}
    without = [run.fit for run in kept.pop(NONE)]
    each = statistics.median(without) / epochs
    epoch = f"{epochs} epochs of {each:.2f} s, with a checkpoint after each; all checkpoints are kept."

    later = {name: [statistics.median(run.saves[1:]) for run in values] for name, values in kept.items()}
    yield Comparison(
        f"Time that training waits for a checkpoint of {shown}, from the second one on",
        "s",
        later,
        PLAIN,
        [Bar(OURS, 0.05), Bar(OURS, 0.25, against=ASYNC)],
        [epoch],
    )
    first = {name: [run.saves[0] for run in values] for name, values in kept.items()}
    yield Comparison(
        f"Time that training waits for the first checkpoint of {shown}", "s", first, PLAIN, [Bar(OURS, 0.3)]
    )
    # Compared with the fit of the same round, because the speed of a shared machine changes within minutes.
    added = {
        name: [max(1e-6, run.fit - none) for run, none in zip(values, without, strict=True)]
        for name, values in kept.items()
    }
    spread = (max(without) - min(without)) / statistics.median(without)
    yield Comparison(
        f"Time that {epochs} checkpoints of {shown} add to a fit",
        "s",
        added,
        PLAIN,
        [Bar(OURS, 0.5), Bar(BLOCKING, 1.0)],
        [f"The range of the fits without checkpoints is {100 * spread:.0f} % of their median."],
    )
    size = {name: [run.size / 2**20 for run in values] for name, values in kept.items()}
    yield Comparison(f"Disk space after {epochs} checkpoints of {shown}", "MiB", size, PLAIN, [Bar(OURS, 1.005)])
    if large or settings.short:
        yield _against_md5(settings, shown, megabytes, rounds, later[BLOCKING])


def _huge(settings: Settings) -> Iterator[Comparison]:
    """Compare the waiting time and the memory for a state that takes a large part of a machine's memory."""
    megabytes, shown = (1, "1 MB") if settings.short else (5 * 1024, "5 GB")
    free = shutil.disk_usage(settings.folder).free
    if (available_memory() or 0) < 4 * megabytes * 2**20 or free < 5 * megabytes * 2**20:
        print(f"skipped: {shown} needs four times as much memory, and five times as much room on the disk")
        return

    def blocked(name: str) -> float:
        folder = settings.folder / f"{uuid.uuid4()}"
        saves = _fit(name, folder, megabytes, steps=20, epochs=3).saves
        shutil.rmtree(folder)
        return statistics.median(saves[1:])

    waits = interleaved({name: lambda name=name: blocked(name) for name in (PLAIN, OURS)}, rounds=1, warmup=0)
    title = f"Time that training waits for a checkpoint of {shown} that takes a large part of the memory"
    yield Comparison(title, "s", waits, PLAIN, [Bar(OURS, 0.05)])
    if not settings.short:
        yield _memory(settings, megabytes)


def _against_md5(settings: Settings, shown: str, megabytes: int, rounds: int, blocked: Sequence[float]) -> Comparison:
    """Compare saves with `background=False` with hashing a file of the same size, with the MD5 that dtool requires."""
    file = settings.folder / "bytes"
    torch.save(torch.randn(megabytes * 2**18), file)

    def timed(algorithm: str) -> float:
        begun = time.perf_counter()
        hash_file(file, algorithm)
        return time.perf_counter() - begun

    hashes = interleaved({name: lambda name=name: timed(name) for name in ("md5", "sha256")}, rounds)
    file.unlink()
    return Comparison(
        f"A checkpoint of {shown} with background=False, compared with hashing as many bytes",
        "s",
        {**hashes, BLOCKING: blocked},
        "md5",
        [Bar(BLOCKING, 1.25)],
    )


def _fit(name: str, folder: Path, megabytes: float, steps: int, epochs: int, *more: Callback) -> Run:
    """Run one fit that saves and keeps a checkpoint after each epoch."""
    home = Path.cwd()
    (folder / "models").mkdir(parents=True)
    timer = SaveTimer(ModelCheckpoint(dirpath=folder / "checkpoints", save_top_k=-1))
    naive = Naive(folder / "models")
    callbacks: list[Callback] = [*more] if name in (NONE, NAIVE) else [*more, *timer.callbacks]
    options: dict[str, Any] = {"enable_checkpointing": name not in (NONE, NAIVE)}
    if name == NAIVE:
        callbacks.append(naive)
    if name in (OURS, BLOCKING):
        callbacks.append(DtoolProvenanceCallback(str(folder / "models"), background=name == OURS))
    if name == ASYNC:
        options["plugins"] = [AsyncCheckpointIO()]
    if name == MLFLOW:
        from lightning.pytorch.loggers import MLFlowLogger

        database = f"sqlite:///{folder / 'mlflow.db'}"
        options["logger"] = MLFlowLogger(tracking_uri=database, artifact_location=str(folder / "ml"), log_model="all")
    if name == DVC:
        from dvclive.lightning import DVCLiveLogger

        # DVCLive has to run inside a git repository with DVC.
        identity = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org"]
        commit = ["git", *identity, "commit", "-q", "--allow-empty", "-m", "begin"]
        for command in (["git", "init", "-q"], commit, [sys.executable, "-m", "dvc", "init", "-q"]):
            subprocess.run(command, cwd=folder, check=True)
        os.chdir(folder)
        options["logger"] = DVCLiveLogger(dir=str(folder / "dvclive"), log_model="all", save_dvc_exp=False)
    trainer = quiet_trainer(folder, callbacks, max_epochs=epochs, **options)
    torch.manual_seed(0)
    module, data = Wide(megabytes), batches(steps)
    begun = time.perf_counter()
    trainer.fit(module, data)
    seconds = time.perf_counter() - begun
    os.chdir(home)
    return Run(timer.seconds or naive.seconds or [0.0], seconds, bytes_below(folder))


def _memory(settings: Settings, megabytes: int) -> Comparison:
    """Compare the peak memory of fits, each in a new process."""
    context = multiprocessing.get_context("spawn")

    def peak(name: str) -> float:
        folder = settings.folder / f"{uuid.uuid4()}"
        child = context.Process(target=_measure_peak, args=(name, folder, megabytes))
        # Otherwise glibc may keep the memory of freed tensors. Without checkpoints, peaks varied from 725 to 842 MiB.
        with patch.dict(os.environ, MALLOC_MMAP_THRESHOLD_="1048576"):
            child.start()
        child.join()
        measured = float((folder / "peak").read_text())
        shutil.rmtree(folder)
        return measured

    names = (NONE, PLAIN, OURS) if settings.short else (NONE, PLAIN, OURS, BLOCKING)
    cases = {name: lambda name=name: peak(name) for name in names}
    peaks = interleaved(cases, rounds=1 if settings.short else 3, warmup=0)
    none = statistics.median(peaks.pop(NONE))
    above: Mapping[str, list[float]] = {name: [value - none for value in values] for name, values in peaks.items()}
    bars = [Bar(OURS, 1.1 * megabytes, absolute=True), Bar(BLOCKING, 64, absolute=True)]
    return Comparison(
        f"Peak memory in addition to training, for a state of {megabytes} MiB",
        "MiB",
        above,
        PLAIN,
        [bar for bar in bars if bar.series in above],
        [
            "Each case runs in a new process, which returns freed memory to the system at once.",
            "The private memory of child processes is included.",
        ],
    )


class _Children(Callback):
    """A callback that adds up the private memory of child processes."""

    kilobytes = 0

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the memory of the child processes before they end."""
        for children in Path("/proc/self/task").glob("*/children"):
            for child in children.read_text().split():
                lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()
                self.kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def _measure_peak(name: str, folder: Path, megabytes: int) -> None:
    torch.set_num_threads(1)
    _fit(name, folder / "warm", 1, 2, 2)  # imports and one-time allocations do not count
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak
    before = _kilobytes("VmRSS")
    children = _Children()
    _fit(name, folder / "run", megabytes, 2, 3, children)
    (folder / "peak").write_text(str((_kilobytes("VmHWM") + children.kilobytes - before) / 1024))


def _kilobytes(field: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(field))
