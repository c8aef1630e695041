"""Benchmark of the verification of items when they are first read, in an epoch of training."""

import os
import shutil
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image

from benchmarks.data import BATCH, CLASSES, SIDE, folder_of_images
from benchmarks.measuring import Bar, Comparison, Settings, interleaved
from lightning_dtool import DtoolDataModule, pack
from lightning_dtool.store import FrozenDataset

_FIRST = ("first epoch, verify=False", "first epoch", "first epoch of the next run")
_NEXT = ("next epoch, verify=False", "next epoch")


def run(settings: Settings) -> Iterator[Comparison]:
    """Compare epochs whose items are verified when they are first read with epochs without verification."""
    # A cache of its own, which can be emptied.
    cache = settings.folder / "cache"
    before = os.environ.get("DTOOL_CACHE_DIRECTORY")
    os.environ["DTOOL_CACHE_DIRECTORY"] = str(cache)
    try:
        yield from _epochs(settings, cache)
    finally:
        os.environ.pop("DTOOL_CACHE_DIRECTORY")
        if before is not None:
            os.environ["DTOOL_CACHE_DIRECTORY"] = before


def _epochs(settings: Settings, cache: Path) -> Iterator[Comparison]:
    few = settings.short
    base = settings.folder / "datasets"
    base.mkdir()
    small = folder_of_images(settings.folder / "small", 2 * BATCH if few else 2_000)
    photos = folder_of_photos(settings.folder / "photos", 10 if few else 64)
    rows = settings.folder / "rows"
    rows.mkdir()
    count = 4 * BATCH if few else 60_000
    generator = np.random.default_rng(0)
    np.save(rows / "data.npy", generator.normal(size=(count, 2_048)).astype(np.float32))
    np.save(rows / "labels.npy", generator.integers(0, CLASSES, count))
    kinds = (
        (small, f"{SIDE} x {SIDE} pixels (PNG)"),
        (photos, "500 x 375 pixels (JPEG)"),
        (rows, "an array of 0.5 GB"),
    )
    for folder, what in kinds[::2] if few else kinds:
        uri = pack(folder, base, f"verified_{folder.name}", progress=False)
        for epoch, doing, bars in (
            (
                _trained,
                "training on",
                [
                    Bar("first epoch", 1.05, statistic="paired"),
                    Bar("first epoch of the next run", 1.005, statistic="paired"),
                    Bar("next epoch", 1.005, against=_NEXT[0], statistic="paired"),
                ],
            ),
            (_read, "reading", []),
        ):
            yield Comparison(
                f"One epoch of {doing} {what}, with and without verification",
                "s",
                interleaved({name: partial(epoch, cache, uri, name) for name in (*_FIRST, *_NEXT)}, 1 if few else 5),
                _FIRST[0],
                bars,
                [
                    "This is the time of the processor, because the differences are smaller than the variation of a"
                    " clock.",
                    "The time of a first epoch includes opening the dataset, where an array is verified as a whole.",
                    *(["The model is a small convolutional network."] if bars else []),
                ],
            )


def folder_of_photos(folder: Path, count: int) -> Path:
    """Write a folder of noisy JPEG files of about 100 kB, all different, in one class."""
    generator = np.random.default_rng(0)
    (folder / "class_0").mkdir(parents=True)
    for number in range(count):
        blocks = np.kron(generator.integers(0, 256, (25, 34, 3)), np.ones((15, 15, 1)))[:375, :500]
        pixels = blocks + generator.normal(0, 8, (375, 500, 3))
        path = folder / "class_0" / f"photo_{number:04}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


def _trained(cache: Path, uri: str, case: str) -> float:
    """Return the processor's time for the first epoch of a Trainer, or for the second one."""
    data, opening = _opened(cache, uri, case)
    times = _Times()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=cache.parent,
        callbacks=[times],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(_Convolutional(), data)
    return times.epochs[1] if case in _NEXT else opening + times.epochs[0]


def _read(cache: Path, uri: str, case: str) -> float:
    """Return the processor's time for reading all batches for the first time, or for the second time."""
    data, opening = _opened(cache, uri, case)
    loader = data.train_dataloader()
    times = []
    for _ in range(2):
        begun = time.process_time()
        for _ in loader:
            pass
        times.append(time.process_time() - begun)
    return times[1] if case in _NEXT else opening + times[0]


def _opened(cache: Path, uri: str, case: str) -> tuple[DtoolDataModule, float]:
    """Return the data of a case, and the processor's time for opening it."""
    shutil.rmtree(cache, ignore_errors=True)
    if case == "first epoch of the next run":
        FrozenDataset.from_uri(uri).verify_once(progress=False)
    begun = time.process_time()
    data = DtoolDataModule(uri, batch_size=BATCH, verify="verify=False" not in case)
    data.setup("fit")
    return data, time.process_time() - begun


class _Times(pl.Callback):
    """The time of each epoch."""

    def __init__(self) -> None:
        self.epochs: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = time.process_time()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs.append(time.process_time() - self._begun)


class _Convolutional(pl.LightningModule):
    """A small convolutional network. Rows of an array are read as grey images of 32 x 64 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.LazyConv2d(16, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(4),
            torch.nn.Flatten(),
            torch.nn.Linear(512, CLASSES),
        )

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        images = x.reshape(len(x), 1, 32, -1) if x.ndim == 2 else x
        return torch.nn.functional.cross_entropy(self.layers(images), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)
