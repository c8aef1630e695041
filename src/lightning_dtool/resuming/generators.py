"""Generators and seeds of loaders and samplers, and persistent workers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from lightning_dtool.capture.own_randomness import own_generators
from lightning_dtool.data.loaders import SeededDataLoader, StatefulDataLoader
from lightning_dtool.data.sampler import ResumableSampler


def loaders(trainer: Any) -> Iterator[tuple[str, Any]]:
    """Yield the loaders that `fit` uses, with a name that is the same in every run.

    Args:
        trainer: The Trainer.
    """
    fit_loop = trainer.fit_loop
    for stage, combined in (
        ("train", fit_loop._combined_loader),
        ("val", fit_loop.epoch_loop.val_loop._combined_loader),
    ):
        for index, loader in enumerate(combined.flattened if isinstance(combined, CombinedLoader) else []):
            yield f"{stage}[{index}]", loader


def save_generators(trainer: Any) -> dict[str, torch.Tensor]:
    """Return the states of the generators that loaders and samplers hold, by name.

    Args:
        trainer: The Trainer.
    """
    return {name: generator.get_state() for name, generator in _generators(trainer)}


def restore_generators(trainer: Any, states: Mapping[str, torch.Tensor]) -> None:
    """Restore generators by name. Names without a generator are ignored.

    Args:
        trainer: The Trainer.
        states: What `save_generators` returned.
    """
    for name, generator in _generators(trainer):
        if name in states:
            generator.set_state(states[name].cpu())


def _generators(trainer: Any) -> Iterator[tuple[str, torch.Generator]]:
    for name, loader in loaders(trainer):
        batch_sampler = getattr(loader, "batch_sampler", None)
        holders = {
            "loader": loader,
            "sampler": getattr(loader, "sampler", None),
            "batch_sampler": batch_sampler,
            "batch_sampler.sampler": getattr(batch_sampler, "sampler", None),
        }
        for holder, value in holders.items():
            generator = getattr(value, "generator", None)
            if isinstance(generator, torch.Generator):
                yield f"{name}.{holder}", generator


def save_seeds(trainer: Any) -> dict[str, int]:
    """Return the seeds of distributed samplers, by loader. Lightning takes them from an environment variable.

    Args:
        trainer: The Trainer.
    """
    return {name: sampler.seed for name, sampler in _seeded_samplers(trainer)}


def restore_seeds(trainer: Any, seeds: Mapping[str, int]) -> None:
    """Restore the seeds of distributed samplers.

    Args:
        trainer: The Trainer.
        seeds: What `save_seeds` returned.
    """
    for name, sampler in _seeded_samplers(trainer):
        sampler.seed = seeds.get(name, sampler.seed)


def _seeded_samplers(trainer: Any) -> Iterator[tuple[str, Any]]:
    for name, loader in loaders(trainer):
        sampler = getattr(loader, "sampler", None)
        # A ResumableSampler saves its seed itself.
        if isinstance(sampler, DistributedSampler) and not isinstance(sampler, ResumableSampler):
            yield name, sampler


def resumes_inside_epoch(loader: Any) -> bool:
    """Return True for a loader whose state can be saved and restored inside an epoch.

    Args:
        loader: A training loader.
    """
    if isinstance(loader, StatefulDataLoader):
        return isinstance(loader.sampler, ResumableSampler)
    return callable(getattr(loader, "state_dict", None)) and callable(getattr(loader, "load_state_dict", None))


def is_known_to_resume(loader: Any) -> bool:
    """Return True for a loader of a class whose state is known to say with which batch it continues.

    Args:
        loader: A training loader for which `resumes_inside_epoch` is True.
    """
    return isinstance(loader, StatefulDataLoader) or type(loader).__module__.startswith(
        "torchdata.stateful_dataloader."
    )


def has_persistent_workers(loader: Any) -> bool:
    """Return True for a loader with persistent workers, whose random generators cannot be saved.

    Args:
        loader: A loader. A SeededDataLoader seeds its workers for each batch, so it does not count.
    """
    persistent = isinstance(loader, DataLoader) and loader.persistent_workers and loader.num_workers > 0
    return persistent and not isinstance(loader, SeededDataLoader)


def generators_in_workers(loader: Any) -> list[str]:
    """Return where the dataset of a loader with workers holds random generators. Each worker has a copy of them.

    Args:
        loader: A loader.
    """
    if not getattr(loader, "num_workers", 0):
        return []
    if loader not in _HELD:  # a search through a dataset takes too long for each save
        _HELD[loader] = [*own_generators(loader.dataset), *own_generators(getattr(loader, "collate_fn", None))]
    return _HELD[loader]


_HELD: "WeakKeyDictionary[Any, list[str]]" = WeakKeyDictionary()


def running_workers(trainer: Any) -> list[str]:
    """Return the names of the loaders with persistent workers that are running.

    Args:
        trainer: The Trainer.
    """
    return [
        name for name, loader in loaders(trainer) if has_persistent_workers(loader) and loader._iterator is not None
    ]


def start_workers(trainer: Any, names: Sequence[str]) -> None:
    """Start the persistent workers that were running at the save. This draws a global random number.

    Args:
        trainer: The Trainer.
        names: What `running_workers` returned.
    """
    for name, loader in loaders(trainer):
        if name in names and has_persistent_workers(loader) and loader._iterator is None:
            iter(loader)
