"""The settings of data loaders and samplers."""

import functools
import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_dtool.capture.preprocessing import describe_pipeline
from lightning_dtool.capture.reachable import reachable
from lightning_dtool.data.sampler import ResumableSampler
from lightning_dtool.record import Gaps, Loader, as_text
from lightning_dtool.values.attributes import attribute, attributes_of
from lightning_dtool.values.definitions import class_path, is_users
from lightning_dtool.values.digests import nbytes
from lightning_dtool.values.surroundings import is_path_here, is_setting, values_around

MAX_NUMBERS = 100
"""Maximum number of numbers in one setting. If there are more, only their count and hash are recorded."""

MAX_BYTES = 64 * 2**20
"""Maximum size of a tensor that is hashed, in bytes."""

MAX_INNER_LOADERS = 10
"""Maximum number of DataLoaders inside another loader that are described."""

MAX_WRAPPERS = 20
"""Maximum number of nested wrappers around a sampler."""

OF_EVERY_LOADER = frozenset(vars(DataLoader[Any](TensorDataset())))
"""The attributes of every DataLoader."""

_NOT_SETTINGS = frozenset({"dataset", "data_source", "sampler", "epoch"})
"""Attributes of a sampler that are not settings."""


def capture_loader(loader: Any, gaps: Gaps) -> Loader:
    """Describe a data loader: its settings, its sampler and its `collate_fn`.

    Args:
        loader: A DataLoader, whose sampler Lightning may have replaced, or any other iterable.
        gaps: Collector at its place in the record. Receives a gap for everything that is not described completely.
    """
    if not isinstance(loader, DataLoader):
        return _other_loader(loader, gaps)
    batches = loader.batch_sampler
    own_batches = batches is not None and type(batches) is not BatchSampler
    settings: dict[str, Any] = {
        name: describe_setting(value, gaps.at(f"settings.{name}"))
        for name in (
            "pin_memory", "pin_memory_device", "persistent_workers", "prefetch_factor", "timeout", "in_order",
            "multiprocessing_context", "worker_init_fn", "generator",
        )
        if (value := getattr(loader, name, None)) is not None
    }  # fmt: skip
    settings.update(_of_class(loader, gaps.at("settings")))
    if own_batches:
        settings["batch_sampler"] = _sampler(batches, gaps.at("settings.batch_sampler"))
    if batches is None:
        settings["automatic_batching"] = False
    size = loader.batch_size
    drop_last = getattr(batches, "drop_last", None) if own_batches else loader.drop_last
    if batches is None and isinstance(loader.sampler, BatchSampler):  # the dataset is asked for a whole batch
        size, drop_last = _number(loader.sampler, "batch_size"), attribute(loader.sampler, "drop_last")
    if size is None:
        size = _number(loader.dataset if batches is None else batches, "batch_size")
    if size is None:
        gaps.at("batch_size").add(*_why_unknown(loader))
    return Loader(
        class_path=class_path(type(loader)),
        batch_size=size,
        num_workers=loader.num_workers,
        drop_last=drop_last if isinstance(drop_last, bool) else None,
        # For an iterable dataset, DataLoader has a sampler that selects nothing.
        sampler={} if isinstance(loader.dataset, IterableDataset) else _sampler(loader.sampler, gaps.at("sampler")),
        collate_fn=describe_pipeline(loader.collate_fn, gaps.at("collate_fn")),
        settings=settings,
    )


def flat_loaders(loaders: Any) -> list[Any]:
    """Return the data loaders in a list, a dict or a CombinedLoader.

    Args:
        loaders: What the Trainer holds for a stage. None if it holds nothing.
    """
    if loaders is None:
        return []
    if isinstance(loaders, DataLoader):
        return [loaders]
    return list((loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders)).flattened)


def workers_seeded(loaders: Iterable[Any], asked: bool) -> bool:
    """Return whether Lightning seeds the workers of the data loaders.

    Args:
        loaders: The data loaders.
        asked: Whether Lightning was last told to do so. Loaders that were set up before are not affected, and a user's
            own `worker_init_fn` is kept.
    """
    functions = [loader.worker_init_fn for loader in loaders if isinstance(loader, DataLoader) and loader.num_workers]
    if None in functions:
        return False
    return asked or any(
        isinstance(function, functools.partial) and function.func.__name__ == "pl_worker_init_function"
        for function in functions
    )


def _of_class(loader: Any, gaps: Gaps) -> dict[str, Any]:
    """Return what a DataLoader of a user's class has beside the usual attributes, and what its code uses."""
    if not is_users(type(loader)):
        return {}
    kept = {name: value for name, value in (attributes_of(loader) or {}).items() if name not in OF_EVERY_LOADER}
    plain = {name: value for name, value in kept.items() if is_setting(value) and not is_path_here(value)}
    values = {**plain, **values_around(type(loader))}
    return {as_text(name): describe_setting(value, gaps.at(name)) for name, value in values.items()}


def _other_loader(loader: Any, gaps: Gaps) -> Loader:
    """Describe a loader that is no DataLoader by its attributes, and by the DataLoaders inside it."""
    inner = [
        found
        for _, found in reachable(loader, beyond=lambda found: not isinstance(found, DataLoader | Dataset))
        if isinstance(found, DataLoader)
    ]
    settings: dict[str, Any] = {}
    if inner:
        settings["loaders"] = [
            capture_loader(found, gaps.at(f"settings.loaders[{index}]")).model_dump(mode="json")
            for index, found in enumerate(inner[:MAX_INNER_LOADERS])
        ]
    size = _number(loader, "batch_size")
    if size is None:
        gaps.at("batch_size").add(
            f"a {class_path(type(loader))} is no DataLoader and does not say how many samples a batch has",
            "use a DataLoader, or give the loader an attribute `batch_size`",
        )
    drop_last = attribute(loader, "drop_last")
    return Loader(
        class_path=class_path(type(loader)),
        batch_size=size,
        num_workers=_number(loader, "num_workers"),
        drop_last=drop_last if isinstance(drop_last, bool) else None,
        settings=settings,
    )


def _why_unknown(loader: Any) -> tuple[str, str]:
    """Return why the batch size of a DataLoader is unknown, and the remedy."""
    if loader.batch_sampler is None:
        return (
            f"with batch_size=None, a {class_path(type(loader.dataset))} makes the batches and does not say how large",
            "give the dataset an attribute `batch_size`",
        )
    return (
        f"a {class_path(type(loader.batch_sampler))} makes the batches and does not say how large",
        "give the batch sampler an attribute `batch_size`",
    )


def _number(obj: Any, name: str) -> int | None:
    value = attribute(obj, name)
    return value if type(value) is int else None


def _sampler(sampler: Any, gaps: Gaps, depth: int = 0) -> dict[str, Any]:
    """Describe a sampler, and the samplers that it wraps, by class and settings."""
    described: dict[str, Any] = {"class_path": class_path(type(sampler))}
    if isinstance(sampler, list | tuple):
        return {**described, "entries": describe_setting(sampler, gaps.at("entries"))}
    if isinstance(sampler, ResumableSampler):
        kept = {name: getattr(sampler, name) for name in ("seed", "shuffle", "drop_last", "num_replicas", "rank")}
    else:
        kept = {name.lstrip("_"): value for name, value in (attributes_of(sampler) or {}).items()}
        if is_users(type(sampler)):
            kept = {**values_around(type(sampler)), **kept}
    for name, value in kept.items():
        if name not in _NOT_SETTINGS:
            described[name] = describe_setting(value, gaps.at(name))
    # torch's BatchSampler wraps a sampler. Lightning's distributed sampler wraps one inside a dataset.
    inner = kept.get("sampler", getattr(kept.get("dataset"), "_sampler", None))
    if inner is not None and depth < MAX_WRAPPERS:
        described["sampler"] = _sampler(inner, gaps.at("sampler"), depth + 1)
    return described


def describe_setting(value: Any, gaps: Gaps) -> Any:
    """Return a setting as strict JSON. A long sequence of numbers, such as indices, is recorded by its hash.

    Args:
        value: Any value.
        gaps: Collector at its place in the record. Receives a gap for everything that is not described completely.

    Returns:
        Strict JSON.
    """
    if hasattr(value, "get_start_method"):  # a context of multiprocessing
        return value.get_start_method()
    numbers = _numbers_of(value)
    if numbers is not None and len(numbers) > MAX_NUMBERS:  # the indices of a subset, weights of samples
        digest = hashlib.sha256(json.dumps(numbers).encode()).hexdigest()
        return {"type": class_path(type(value)), "length": len(numbers), "sha256": digest}
    return describe_pipeline(value, gaps)


def _numbers_of(value: Any) -> list[Any] | None:
    """Return a sequence of plain numbers as a list. None for any other value."""
    if isinstance(value, torch.Tensor) and value.dim() == 1 and nbytes(value) <= MAX_BYTES:
        return list(value.tolist())
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "biuf":
        return list(value.tolist())
    if isinstance(value, range):
        return list(value)
    if isinstance(value, list | tuple) and all(type(entry) in (int, float, bool) for entry in value):
        return list(value)
    return None
