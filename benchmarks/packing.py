"""Benchmarks of packing a folder."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import dtoolcore

from benchmarks.data import folder_of_images
from benchmarks.measuring import Bar, Comparison, Settings, interleaved
from lightning_dtool import pack


def run(settings: Settings) -> Iterator[Comparison]:
    """Compare packing a folder with copying it, for two sizes, and with creating a dataset with dtoolcore."""
    size = 100 if settings.short else 10_000
    rounds = 1 if settings.short else 7
    folder = folder_of_images(settings.folder / "images", size, 16)
    double = folder_of_images(settings.folder / "double", 2 * size, 16)
    os.sync()
    yield Comparison(
        f"Packing {size:,} small images with categories",
        "s",
        interleaved(
            {
                "copytree": _timed(settings, partial(_copied, folder, durable=False)),
                "copytree, then sync": _timed(settings, partial(_copied, folder, durable=True)),
                "copytree, then sync, with twice the images": _timed(settings, partial(_copied, double, durable=True)),
                "pack": _timed(settings, partial(_packed, folder)),
                "pack, with twice the images": _timed(settings, partial(_packed, double)),
            },
            rounds,
        ),
        "copytree",
        [Bar("pack", 1.5), Bar("pack, with twice the images", 2.2, against="pack", statistic="paired")],
        [
            "`pack` waits until the files are on disk, hashes each twice (MD5 and SHA-256) and checks the listing.",
            "copytree alone does not wait until the files are on disk.",
            "The figures of copytree show how much of the growth with the number of images is due to the file system.",
        ],
    )
    few = folder_of_images(settings.folder / "few", size // 20, 16)
    yield Comparison(
        f"Packing {size // 20:,} small images with categories",
        "s",
        interleaved(
            {
                "dtoolcore": _timed(settings, partial(_created, few)),
                "pack": _timed(settings, partial(_packed, few)),
            },
            rounds,
        ),
        "dtoolcore",
        [Bar("pack", 1.0)],
        ["dtoolcore calls put_item and add_item_metadata for each image, then freeze, and does not sync to disk."],
    )


def _timed(settings: Settings, work: Callable[[Path], None]) -> Callable[[], float]:
    """Return a function that measures how long it takes to write into a new folder, after earlier writes are synced."""
    numbers = count()

    def timed() -> float:
        # The folder is not removed between rounds: on ext4, that would slow down later rounds.
        target = Path(tempfile.mkdtemp(prefix=f"to-{next(numbers)}-", dir=settings.folder))
        begun = time.perf_counter()
        work(target)
        seconds = time.perf_counter() - begun
        os.sync()
        return seconds

    return timed


def _copied(folder: Path, target: Path, *, durable: bool) -> None:
    shutil.copytree(folder, target / "copy")
    if durable:
        os.sync()


def _packed(folder: Path, target: Path) -> None:
    pack(folder, target, "images", progress=False)


def _created(folder: Path, target: Path) -> None:
    with dtoolcore.DataSetCreator("images", f"file://{target}") as creator:
        for path in sorted(folder.rglob("*.png")):
            relpath = path.relative_to(folder).as_posix()
            creator.put_item(str(path), relpath)
            creator.add_item_metadata(relpath, "category", path.parent.name)
