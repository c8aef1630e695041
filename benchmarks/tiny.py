"""Benchmarks of checkpoints of a tiny model, of which a run may save hundreds."""

import contextlib
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.measuring import Bar, Comparison, Settings, bytes_below, interleaved
from benchmarks.training import quiet_trainer
from lightning_dtool import DtoolProvenanceCallback

PLAIN = "ModelCheckpoint"
OURS = "DtoolProvenanceCallback"
NOTHING = "no checkpoints"
BATCH = 64


class Tiny(L.LightningModule):
    """A classifier of 5,000 parameters."""

    def __init__(self, lr: float = 1e-3, p: float = 0.2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(p), nn.Linear(64, 10))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the cross-entropy."""
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])


@dataclass(frozen=True)
class Fit:
    """Figures of one fit.

    Attributes:
        seconds: Its time.
        processor: Its processor time, of all threads, in seconds.
        blocked: The median of the times that training waited for a save, in seconds.
        size: The bytes of the files that it left. A file with several hard links counts once.
    """

    seconds: float
    processor: float
    blocked: float
    size: int


def run(settings: Settings) -> Iterator[Comparison]:
    """Compare fits that save a tiny checkpoint after each epoch: time, waiting for saves, and disk space."""
    epochs, rounds = (3, 1) if settings.short else (100, 7)
    short, long = (4, 8) if settings.short else _batches_for(settings, (0.025, 0.25))
    for kept, top in (("the best one", 1), ("all", -1)):
        fits = _fits(settings, epochs, batches=short, top=top, rounds=rounds)
        what = f"{epochs} epochs of 25 ms ({short} batches), with a tiny checkpoint after each; {kept} kept"
        yield _compared(f"A fit of {what}", "s", fits, lambda fit: fit.seconds, 1.5)
        yield _compared(f"Processor time of a fit of {what}", "s", fits, lambda fit: fit.processor, None)
        yield _compared(f"Time that training waits for each of {what}", "ms", fits, lambda fit: 1000 * fit.blocked, 1.5)
        if top == -1:
            yield _compared(f"Disk space after {what}", "kB", fits, lambda fit: fit.size / 1000, 1.3)
    epochs, rounds = (3, 1) if settings.short else (40, 3)
    fits = _fits(settings, epochs, batches=long, top=-1, rounds=rounds)
    what = f"{epochs} epochs of 250 ms ({long} batches), with a tiny checkpoint after each; all kept"
    yield _compared(f"A fit of {what}", "s", fits, lambda fit: fit.seconds, 1.1)


def _batches_for(settings: Settings, seconds: tuple[float, ...]) -> list[int]:
    """Return how many batches make epochs of these lengths on this machine, without checkpoints."""
    epochs, batches = 10, 100
    times = [_fit(settings, NOTHING, epochs, batches, top=0).seconds for _ in range(4)]
    per_batch = statistics.median(times[1:]) / (epochs * batches)
    return [max(1, round(length / per_batch)) for length in seconds]


def _compared(
    title: str, unit: str, fits: dict[str, list[Fit]], figure: Callable[[Fit], float], at_most: float | None
) -> Comparison:
    bars = [] if at_most is None else [Bar(OURS, at_most)]
    return Comparison(title, unit, {name: [figure(fit) for fit in kept] for name, kept in fits.items()}, PLAIN, bars)


def _fits(settings: Settings, epochs: int, batches: int, top: int, rounds: int) -> dict[str, list[Fit]]:
    found: dict[str, list[Fit]] = {PLAIN: [], OURS: []}

    def case(name: str) -> Callable[[], float]:
        def fit() -> float:
            found[name].append(_fit(settings, name, epochs, batches, top))
            return found[name][-1].seconds

        return fit

    interleaved({name: case(name) for name in found}, rounds, warmup=0 if settings.short else 1)
    return {name: fits[-rounds:] for name, fits in found.items()}


def _fit(settings: Settings, name: str, epochs: int, batches: int, top: int) -> Fit:
    folder = settings.folder / f"{uuid.uuid4()}"
    (folder / "models").mkdir(parents=True)
    checkpoints = ModelCheckpoint(dirpath=folder / "checkpoints", every_n_epochs=1, save_top_k=top)
    callbacks: list[Callback] = [checkpoints]
    if name == OURS:
        callbacks.append(DtoolProvenanceCallback(str(folder / "models")))
    L.seed_everything(1, verbose=False)
    data = TensorDataset(torch.randn(BATCH * batches, 64), torch.randint(0, 10, (BATCH * batches,)))
    loader: DataLoader[Any] = DataLoader(data, batch_size=BATCH, shuffle=True)
    trainer, module = quiet_trainer(folder, callbacks, max_epochs=epochs), Tiny()
    begun, used = time.perf_counter(), time.process_time()
    with _saves_timed() as waits:
        trainer.fit(module, loader)
    seconds, processor = time.perf_counter() - begun, time.process_time() - used
    # The first save writes what later ones share.
    blocked = statistics.median(waits[1:] or [0.0])
    # The folder stays until the end: without a journal, ext4 searches among the inodes that were freed in the last
    # minutes whenever a file is created, which makes that several times slower.
    return Fit(seconds, processor, blocked, bytes_below(folder))


@contextlib.contextmanager
def _saves_timed() -> Iterator[list[float]]:
    """Yield a list that receives the time of each save. A list in a callback would be saved in each checkpoint."""
    save, seconds = ModelCheckpoint._save_checkpoint, list[float]()

    def timed(self: ModelCheckpoint, trainer: L.Trainer, filepath: str) -> None:
        begun = time.perf_counter()
        save(self, trainer, filepath)
        seconds.append(time.perf_counter() - begun)

    ModelCheckpoint._save_checkpoint = timed  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        ModelCheckpoint._save_checkpoint = save  # type: ignore[method-assign]
