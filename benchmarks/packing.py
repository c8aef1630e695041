"""What packing a folder costs, and how that grows."""

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
    """Measure a folder of small images, one twice as large, and a small one with dtoolcore."""
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
                "copytree, then sync, twice the images": _timed(settings, partial(_copied, double, durable=True)),
                "pack": _timed(settings, partial(_packed, folder)),
                "pack, twice the images": _timed(settings, partial(_packed, double)),
            },
            rounds,
        ),
        "copytree",
        [Bar("pack", 1.5), Bar("pack, twice the images", 2.2, against="pack", statistic="paired")],
        [
            "What copytree has copied is not yet on the disk; what pack has written is, and it is hashed twice (MD5 for"
            " dtool, SHA-256) and read back as a list.",
            "What twice the images take beyond twice the time is the file system's, as far as copytree shows it.",
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
        ["dtoolcore: put_item and add_item_metadata for each image, then freeze; nothing is synced to the disk."],
    )


def _timed(settings: Settings, work: Callable[[Path], None]) -> Callable[[], float]:
    """Time something that writes into a folder of its own, on a disk that has nothing else left to write."""
    numbers = count()

    def timed() -> float:
        # Never removed between repeats: that makes ext4 slow for those that come after.
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
