"""Benchmarks of reading data: epochs of images and of array rows, and opening a large dataset."""

import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dtoolcore
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.measuring import Bar, Comparison, Settings, interleaved
from lightning_dtool import DtoolDataModule, DtoolDataset, pack
from lightning_dtool.data.decoding import image_to_tensor
from lightning_dtool.store import FrozenDataset, local_path

CLASSES = 10
SIDE = 48
BATCH = 64

Loader = Callable[[int], DataLoader[Any]]


def run(settings: Settings) -> Iterator[Comparison]:
    """Measure reading of images and array rows, with and without workers, reading of items, and opening a dataset."""
    base = settings.folder / "datasets"
    base.mkdir()
    # A new cache directory, so that each run fills the decoded cache again.
    before = os.environ.get("DTOOL_CACHE_DIRECTORY")
    os.environ["DTOOL_CACHE_DIRECTORY"] = str(settings.folder / "cache")
    try:
        yield from _images(settings, base)
    finally:
        os.environ.pop("DTOOL_CACHE_DIRECTORY")
        if before is not None:
            os.environ["DTOOL_CACHE_DIRECTORY"] = before
    yield from _rows(settings, base)
    yield _paths(settings, base)
    if find_spec("dtoolai"):
        yield _as_dtoolai(settings, base)
    yield _opening(settings, base)


# -- images -----------------------------------------------------------------------------------------


def folder_of_images(folder: Path, count: int, side: int = SIDE) -> Path:
    """Write a folder of small RGB images, all different (gradients with noise), with equally many in each class."""
    generator = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    for number in range(CLASSES):
        (folder / f"class_{number}").mkdir(parents=True)
    for number in range(count):
        slopes = generator.uniform(0, 100, (2, 3))
        pixels = x[..., None] * slopes[0] + y[..., None] * slopes[1] + generator.normal(30, 8, (side, side, 3))
        path = folder / f"class_{number % CLASSES}" / f"image_{number:06}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return folder


def _images(settings: Settings, base: Path) -> Iterator[Comparison]:
    count = 4 * BATCH if settings.short else 10_000
    try:
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import ToTensor
    except ImportError:
        return
    folder = folder_of_images(settings.folder / "images", count)
    uri = pack(folder, base, "images", progress=False)
    transform = ToTensor()
    peer = ImageFolder(str(folder), transform)
    plain = DtoolDataset(uri, transform=transform)
    bare = DtoolDataset(uri)
    cached = DtoolDataset(uri, transform=transform, decoded_cache=True)
    bare_cached = DtoolDataset(uri, decoded_cache=True)
    begun = time.perf_counter()
    bare_cached.fill_decoded_cache(progress=False)
    filling = time.perf_counter() - begun
    for dataset in (plain, bare, cached, bare_cached):
        _same_samples(dataset, peer)

    def of(dataset: Dataset[Any]) -> Loader:
        return lambda workers: DataLoader(dataset, BATCH, shuffle=True, num_workers=workers)

    def of_module(**options: Any) -> Loader:
        def loader(workers: int) -> DataLoader[Any]:
            data = DtoolDataModule(uri, batch_size=BATCH, num_workers=workers, **options)
            data.setup("fit")
            return data.train_dataloader()

        return loader

    loaders = {
        "ImageFolder": of(peer),
        "DtoolDataset": of(plain),
        "DtoolDataModule": of_module(train_transform=transform),
        "DtoolDataset, no transform": of(bare),
        "decoded cache": of(cached),
        "decoded cache, no transform": of(bare_cached),
        "decoded cache, DtoolDataModule, no transform": of_module(decoded_cache=True),
    }
    for workers in (0, 2):
        made = {name: loader(workers) for name, loader in loaders.items()}
        cases = {name: partial(_epoch, loader) for name, loader in made.items()}
        if workers == 0:
            cases["only the transform"] = partial(
                _transform_alone, [peer.loader(peer.samples[0][0])] * count, transform
            )
        yield Comparison(
            f"One epoch of {count:,} images of {SIDE} x {SIDE} pixels, {workers} workers",
            "s",
            interleaved(cases, 1 if settings.short else 7),
            "ImageFolder",
            [
                Bar("DtoolDataset", 1.05),
                Bar("DtoolDataModule", 1.05),
                *([Bar("decoded cache", 0.3)] if workers == 0 else []),
            ],
            [
                "All cases give the same tensors. The transform is `ToTensor`.",
                "The decoded cache replaces `ToTensor`. Another transform would be called, and would take time.",
                f"Filling the decoded cache took {filling:.1f} s.",
            ],
        )


def _same_samples(dataset: DtoolDataset, peer: Any) -> None:
    for index in range(0, len(peer), max(1, len(peer) // 20)):
        (ours, our_class), (theirs, their_class) = dataset[index], peer[index]
        if our_class != their_class or not torch.equal(ours, theirs):
            raise AssertionError(f"sample {index} differs")


def _epoch(loader: Iterable[Any]) -> float:
    begun = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - begun


def _transform_alone(images: list[Any], transform: Callable[[Any], Any]) -> float:
    begun = time.perf_counter()
    for image in images:
        transform(image)
    return time.perf_counter() - begun


# -- arrays -----------------------------------------------------------------------------------------


def _rows(settings: Settings, base: Path) -> Iterator[Comparison]:
    count = 4 * BATCH if settings.short else 50_000
    folder = settings.folder / "arrays"
    folder.mkdir()
    generator = np.random.default_rng(0)
    np.save(folder / "data.npy", generator.normal(size=(count, 128)).astype(np.float32))
    np.save(folder / "labels.npy", generator.integers(0, CLASSES, count))
    dataset = DtoolDataset(pack(folder, base, "arrays", progress=False))
    path, labels = (dataset.dataset.path(identifier) for identifier in dataset.identifiers)
    peer = TensorDataset(
        torch.from_numpy(np.load(path, mmap_mode="c")), torch.from_numpy(np.load(labels, mmap_mode="c"))
    )
    for ours, theirs in zip(DataLoader(dataset, BATCH), DataLoader(peer, BATCH), strict=True):
        if not all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True)):
            raise AssertionError("batches differ")
    for workers in (0, 2):
        cases = {
            name: partial(_epoch, DataLoader(each, BATCH, shuffle=True, num_workers=workers))
            for name, each in {"TensorDataset": peer, "DtoolDataset": dataset}.items()
        }
        data = DtoolDataModule(dataset.dataset.uri, batch_size=BATCH, num_workers=workers)
        data.setup("fit")
        cases["DtoolDataModule"] = partial(_epoch, data.train_dataloader())
        yield Comparison(
            f"One epoch of {count:,} rows of a memory-mapped array, {workers} workers",
            "s",
            interleaved(cases, 1 if settings.short else 7),
            "TensorDataset",
            [Bar("DtoolDataset", 1.1), Bar("DtoolDataModule", 1.1)],
        )


# -- paths and opening ------------------------------------------------------------------------------


def _paths(settings: Settings, base: Path) -> Comparison:
    count = 40 if settings.short else 400
    folder = settings.folder / "few"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.txt").write_text("x")
    uri = pack(folder, base, "few", progress=False)

    def ours() -> float:
        begun = time.perf_counter()
        dataset = FrozenDataset.from_uri(uri)
        for identifier in dataset.items:
            dataset.path(identifier).read_bytes()
        return time.perf_counter() - begun

    def plain() -> float:
        begun = time.perf_counter()
        dataset = dtoolcore.DataSet.from_uri(uri)
        for identifier in dataset.identifiers:
            Path(dataset.item_content_abspath(identifier)).read_bytes()
        return time.perf_counter() - begun

    return Comparison(
        f"Opening a dataset and reading its {count:,} items",
        "s",
        interleaved({"dtoolcore": plain, "FrozenDataset": ours}, 1 if settings.short else 7),
        "dtoolcore",
        [Bar("FrozenDataset", 1.0)],
        ["dtoolcore parses the manifest for each item, so that its time grows with the square of the number of items."],
    )


def _as_dtoolai(settings: Settings, base: Path) -> Comparison:
    from dtoolai.data import ImageDataSet

    count = 40 if settings.short else 400
    uri = pack(folder_of_images(settings.folder / "scaled", count), base, "scaled", progress=False)
    dataset = FrozenDataset.from_uri(uri)
    classes = sorted(set(dataset.overlay("category").values()))
    dataset.put_annotation("category_encoding", {name: number for number, name in enumerate(classes)})

    def ours() -> Iterator[Any]:
        return iter(DtoolDataset(uri, transform=lambda image: image_to_tensor(image.resize((256, 256)))))

    def theirs() -> Iterator[Any]:
        images = ImageDataSet(uri)
        return (images[index] for index in range(len(images)))

    # The two datasets have different orders.
    if {image.numpy().tobytes() for image, _ in ours()} != {image.tobytes() for image, _ in theirs()}:
        raise AssertionError("images differ")
    return Comparison(
        f"Opening a dataset and reading its {count:,} images for the first time, at 256 x 256 pixels",
        "s",
        interleaved(
            {"dtoolAI's ImageDataSet": lambda: _epoch(theirs()), "DtoolDataset": lambda: _epoch(ours())},
            1 if settings.short else 7,
        ),
        "dtoolAI's ImageDataSet",
        [Bar("DtoolDataset", 1.0)],
        ["dtoolAI keeps every image in memory after the first read. Later reads are fast if the data fits."],
    )


def _opening(settings: Settings, base: Path) -> Comparison:
    count = 200 if settings.short else 100_000
    folder = settings.folder / "many"
    one = folder_of_images(settings.folder / "one", 1, 16) / "class_0" / "image_000000.png"
    for number in range(CLASSES):
        (folder / f"class_{number}").mkdir(parents=True)
    for number in range(count):
        # Link files instead of copying them. File systems limit the links to a file, so use a new one after 10,000.
        if number and number % 10_000 == 0:
            one = Path(_copied(one, one.with_name(f"{number}.png")))
        os.link(one, folder / f"class_{number % CLASSES}" / f"image_{number:06}.png")
    uri = pack(folder, base, "many", progress=False)
    root = local_path(uri)
    assert root is not None

    def listed(*names: str) -> float:
        begun = time.perf_counter()
        for name in names:
            with (root / ".dtool" / name).open() as file:
                json.load(file)
        return time.perf_counter() - begun

    def opened(**options: Any) -> float:
        begun = time.perf_counter()
        next(iter(DataLoader(DtoolDataset(uri, **options), BATCH, shuffle=True)))
        return time.perf_counter() - begun

    def module() -> float:
        begun = time.perf_counter()
        data = DtoolDataModule(uri, batch_size=BATCH, val_split=0.1)
        data.setup("fit")
        next(iter(data.train_dataloader()))
        return time.perf_counter() - begun

    cases = {
        "json.load of its manifest": partial(listed, "manifest.json"),
        "json.load of its manifest and categories": partial(listed, "manifest.json", "overlays/category.json"),
        "DtoolDataset": partial(opened, target="none"),
        "DtoolDataset, with categories": opened,
        "DtoolDataModule, with a split": module,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Comparison(
            f"Opening a dataset of {count:,} items and reading its first batch",
            "s",
            interleaved(cases, 1 if settings.short else 9),
            "json.load of its manifest",
            [
                Bar("DtoolDataset", 2.0),
                Bar("DtoolDataset, with categories", 2.0, against="json.load of its manifest and categories"),
            ],
        )


def _copied(source: Path, destination: Path) -> Path:
    destination.write_bytes(source.read_bytes())
    return destination
