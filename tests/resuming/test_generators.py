"""The generators that loaders hold, and what a loader can do."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from lightning_dtool.data.loaders import StatefulDataLoader
from lightning_dtool.data.sampler import ResumableSampler
from lightning_dtool.resuming.generators import (
    has_persistent_workers,
    is_known_to_resume,
    loaders,
    restore_generators,
    resumes_inside_epoch,
    save_generators,
)

DATA = TensorDataset(torch.arange(12))


def trainer(train: Any, val: Any = None) -> Any:
    val_loop = SimpleNamespace(_combined_loader=CombinedLoader(val) if val is not None else None)
    combined = CombinedLoader(train) if train is not None else None
    return SimpleNamespace(
        fit_loop=SimpleNamespace(_combined_loader=combined, epoch_loop=SimpleNamespace(val_loop=val_loop))
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_loaders_have_names_by_stage_and_place() -> None:
    found = dict(loaders(trainer([DataLoader(DATA), DataLoader(DATA)], DataLoader(DATA))))
    assert list(found) == ["train[0]", "train[1]", "val[0]"]
    assert list(loaders(trainer(None))) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(DATA, batch_size=4, shuffle=True, generator=seeded(1)),
        lambda: DataLoader(DATA, batch_size=4, sampler=RandomSampler(DATA, generator=seeded(1))),
        lambda: DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA, generator=seeded(1)), 4, False)),
    ],
    ids=["loader", "sampler", "batch sampler"],
)
def test_a_generator_is_restored(make: Any) -> None:
    ran, other = make(), make()
    list(ran)
    saved = save_generators(trainer(ran))
    expected = [batch[0].tolist() for batch in ran]
    restore_generators(trainer(other), saved)
    assert [batch[0].tolist() for batch in other] == expected


def test_a_generator_that_is_gone_is_passed_over() -> None:
    saved = save_generators(trainer(DataLoader(DATA, shuffle=True, generator=seeded(1))))
    assert saved
    restore_generators(trainer(DataLoader(DATA)), saved)


def test_which_loaders_resume_inside_an_epoch() -> None:
    assert resumes_inside_epoch(StatefulDataLoader(DATA, sampler=ResumableSampler(DATA)))
    assert not resumes_inside_epoch(StatefulDataLoader(DATA))  # Lightning puts a sampler of its own in place
    assert not resumes_inside_epoch(DataLoader(DATA))
    stateful = SimpleNamespace(state_dict=dict, load_state_dict=print)
    assert resumes_inside_epoch(stateful)
    assert not is_known_to_resume(stateful)
    assert is_known_to_resume(StatefulDataLoader(DATA, sampler=ResumableSampler(DATA)))


def test_which_loaders_have_persistent_workers() -> None:
    persistent = {"num_workers": 1, "persistent_workers": True}
    assert has_persistent_workers(DataLoader(DATA, **persistent))
    assert not has_persistent_workers(DataLoader(DATA, num_workers=1))
    assert not has_persistent_workers(StatefulDataLoader(DATA, sampler=ResumableSampler(DATA), **persistent))
    assert not has_persistent_workers([1, 2])
