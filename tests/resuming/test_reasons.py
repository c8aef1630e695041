"""Trainings that Lightning cannot continue where they were, and the warnings about them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from kit import TinyNet, loader
from lightning_dtool import DtoolDataModule
from lightning_dtool.data.loaders import StatefulDataLoader
from lightning_dtool.data.sampler import ResumableSampler
from resuming.runs import Resumed, assert_exact, resumed, vectors

# Lightning's warning about a run that is resumed in another folder.
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")

INSIDE = {"every_n_train_steps": 4}


def assert_announced(found: Resumed, reason: str) -> None:
    assert not found.equal
    assert len(found.gaps) == len(found.reasons) == 1
    assert reason in found.gaps[0]
    assert reason in found.reasons[0]


class Stream:
    """A loader of the user's that saves its position."""

    def __init__(self) -> None:
        self.position, self.x = 0, torch.randn(24, 8, generator=torch.Generator().manual_seed(0))

    def __iter__(self) -> Iterator[Any]:
        while self.position < 24:
            first, self.position = self.position, self.position + 4
            yield self.x[first : first + 4], torch.arange(first, first + 4) % 3
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


@pytest.mark.parametrize(("step", "when"), [(8, INSIDE), (12, {})], ids=["inside an epoch", "end of epoch"])
def test_data_without_a_length_is_fetched_ahead(tmp_path: Path, step: int, when: dict[str, Any]) -> None:
    found = resumed(tmp_path, TinyNet, Stream, step, when=when)
    reason = "the training data has no length, so that Lightning fetches a batch ahead"
    assert any(reason in each for each in found.gaps)
    assert any(reason in each for each in found.reasons)


class Jitter:
    """Noise from a generator of its own."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(5)

    def __call__(self, x: Any) -> torch.Tensor:
        return torch.as_tensor(x) + torch.from_numpy(self.rng.standard_normal(8).astype("float32"))


def test_a_generator_of_which_each_worker_has_a_copy_is_announced(tmp_path: Path) -> None:
    uri = vectors(tmp_path)
    data = lambda: DtoolDataModule(uri, batch_size=4, num_workers=1, train_transform=Jitter())  # noqa: E731
    found = resumed(tmp_path, TinyNet, data, 8, when=INSIDE)
    assert_announced(found, "random generator transform.rng")


class Shuffled(IterableDataset):
    """Samples in another order each time, without a length."""

    def __iter__(self) -> Iterator[Any]:
        for index in torch.randperm(24).tolist():
            yield torch.randn(8), index % 3


def test_a_plain_loader_without_a_length_resumes_after_an_epoch(tmp_path: Path) -> None:
    assert_exact(resumed(tmp_path, TinyNet, lambda: DataLoader(Shuffled(), batch_size=4), step=12))


class OfTwo(TinyNet):
    """A module that trains on the batches of two loaders."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.stack([super(OfTwo, self).training_step(each, batch_idx) for each in batch if each]).sum()


class Two(L.LightningDataModule):
    """Two loaders, of 6 and of 3 batches."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def train_dataloader(self) -> CombinedLoader:
        return CombinedLoader([self.made(24), self.made(12)], self.mode)

    def made(self, samples: int) -> StatefulDataLoader:
        x = torch.randn(samples, 8, generator=torch.Generator().manual_seed(samples))
        data = TensorDataset(x, torch.arange(samples) % 3)
        return StatefulDataLoader(data, batch_size=4, sampler=ResumableSampler(data, seed=1))

    def val_dataloader(self) -> Any:
        return loader(samples=16)


def test_a_loader_that_had_ended_begins_again(tmp_path: Path) -> None:
    found = resumed(tmp_path, OfTwo, lambda: Two("max_size"), step=4, when=INSIDE)
    assert_announced(found, "a training loader had ended before the others, and begins again")


@pytest.mark.parametrize(("mode", "step"), [("max_size", 2), ("max_size_cycle", 4), ("min_size", 4)])
def test_loaders_that_are_combined_resume_inside_the_epoch(tmp_path: Path, mode: str, step: int) -> None:
    when = {"every_n_train_steps": 2}
    assert_exact(resumed(tmp_path, OfTwo, lambda: Two(mode), step, when=when))


def test_validations_by_the_clock_are_announced(tmp_path: Path) -> None:
    options = {"val_check_interval": "00:00:10:00", "check_val_every_n_epoch": None}
    when = {"save_on_train_epoch_end": True, "every_n_epochs": 1}
    found = resumed(tmp_path, TinyNet, loader, step=12, when=when, **options)
    assert "validations are due by the clock" in found.gaps[0]
    assert "validations are due by the clock" in found.reasons[0]
