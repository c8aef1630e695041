"""Samples, or an order of samples, that are not known to follow from the seed of a run."""

import os
import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import ChainDataset, DataLoader, Dataset, IterableDataset, RandomSampler, Sampler, TensorDataset

from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolCheckpoint, DtoolDataset, DtoolProvenanceCallback
from lightning_dtool.capture.own_randomness import own_randomness

ROWS = [(torch.full((8,), float(number)), number % 3) for number in range(6)]
OWN = np.random.default_rng()
SEEDED = np.random.default_rng(4)


def unseeded_torch() -> torch.Generator:
    generator = torch.Generator()
    generator.seed()
    return generator


class Map(Dataset):  # type: ignore[type-arg]
    def __init__(self, **others: Any) -> None:
        self.__dict__.update(others)

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> Any:
        return ROWS[index]


class Stream(IterableDataset):  # type: ignore[type-arg]
    """Shuffles with the global generator of torch."""

    def __init__(self, **others: Any) -> None:
        self.__dict__.update(others)

    def __iter__(self) -> Iterator[Any]:
        return (ROWS[int(index)] for index in self.order())

    def order(self) -> Any:
        return torch.randperm(len(ROWS))


class NewGenerator(Stream):
    def order(self) -> Any:
        order = list(range(len(ROWS)))
        random.Random().shuffle(order)
        return order


class NewArrayGenerator(Stream):
    def order(self) -> Any:
        return np.random.default_rng().permutation(len(ROWS))


class SeededGenerator(Stream):
    def order(self) -> Any:
        return np.random.default_rng(7).permutation(len(ROWS))


class ByTheClock(Stream):
    def order(self) -> Any:
        return np.random.default_rng(int(time.time())).permutation(len(ROWS))


class ByTheSystem(Stream):
    def order(self) -> Any:
        return sorted(range(len(ROWS)), key=lambda index: os.urandom(4))


class OfTheModule(Stream):
    def order(self) -> Any:
        return OWN.permutation(len(ROWS))


class SeededOfTheModule(Stream):
    def order(self) -> Any:
        return SEEDED.permutation(len(ROWS))


class Shuffled(Sampler):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[int]:
        return iter(sorted(range(len(ROWS)), key=lambda index: uuid.uuid4()))

    def __len__(self) -> int:
        return len(ROWS)


class Batches:
    """A loader that is no DataLoader."""

    def __init__(self, rng: Any = None) -> None:
        self.rng = rng

    def __iter__(self) -> Iterator[Any]:
        yield torch.stack([x for x, _ in ROWS]), torch.tensor([y for _, y in ROWS])


def noisy(x: Any) -> Any:
    return x + np.random.default_rng().normal()


def generated() -> Iterator[Any]:
    rng = random.Random()
    while True:
        yield ROWS[rng.randrange(6)]


UNKNOWN = {
    "random.Random": lambda: DataLoader(Map(rng=random.Random())),
    "SystemRandom": lambda: DataLoader(Map(rng=random.SystemRandom())),
    "default_rng": lambda: DataLoader(Map(rng=np.random.default_rng())),
    "RandomState": lambda: DataLoader(Map(rng=np.random.RandomState())),
    "torch.Generator": lambda: DataLoader(Map(rng=unseeded_torch())),
    "in a list of transforms": lambda: DataLoader(Map(transform=[str, Batches(random.Random())])),
    "in a sampler": lambda: DataLoader(Map(), sampler=RandomSampler(ROWS, generator=unseeded_torch())),
    "by a sampler": lambda: DataLoader(Map(), sampler=Shuffled()),
    "by a transform": lambda: DataLoader(Map(transform=noisy)),
    "by a lambda": lambda: DataLoader(Map(), collate_fn=lambda rows: (rows, np.random.default_rng())),
    "by a worker": lambda: DataLoader(Map(), num_workers=1, worker_init_fn=lambda index: np.random.seed()),
    "in a stream": lambda: DataLoader(Stream(rng=random.Random())),
    "made in a stream": lambda: DataLoader(NewGenerator()),
    "made in a stream of arrays": lambda: DataLoader(NewArrayGenerator()),
    "by the clock": lambda: DataLoader(ByTheClock()),
    "by the system": lambda: DataLoader(ByTheSystem()),
    "of the module": lambda: DataLoader(OfTheModule()),
    "in a chain": lambda: DataLoader(ChainDataset([Stream(), NewGenerator()])),
    "in a loader of its own": lambda: Batches(random.Random()),
    "a generator": generated,
    "an iterator": lambda: map(list, [[1]]),
}

KNOWN = {
    "rows": lambda: DataLoader(Map(), shuffle=True),
    "tensors": lambda: loader(shuffle=True),
    "a list of batches": lambda: [ROWS],
    "a stream of the user's": lambda: DataLoader(Stream()),
    "a chain": lambda: DataLoader(ChainDataset([Stream(), Stream()])),
    "seeded random.Random": lambda: DataLoader(Map(rng=random.Random(42))),
    "a seed beside it": lambda: DataLoader(Map(rng=random.Random(987654), seed=987654)),
    "seeded default_rng": lambda: DataLoader(Map(rng=np.random.default_rng(3))),
    "seeded RandomState": lambda: DataLoader(Map(rng=np.random.RandomState(3))),
    "a generator as torch makes it": lambda: DataLoader(Map(rng=torch.Generator())),
    "seeded torch.Generator": lambda: DataLoader(Map(), generator=torch.Generator().manual_seed(5), shuffle=True),
    "that of the run": lambda: DataLoader(Map(rng=torch.Generator().manual_seed(torch.initial_seed()))),
    "the global ones": lambda: DataLoader(
        Map(a=random.shuffle, b=np.random.shuffle, c=torch.default_generator, d=random._inst)  # type: ignore[attr-defined]
    ),
    "seeded in a stream": lambda: DataLoader(SeededGenerator()),
    "seeded of the module": lambda: DataLoader(SeededOfTheModule()),
    "a loader of its own": Batches,
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_samples_that_do_not_follow_from_the_seed_are_found(case: str) -> None:
    assert own_randomness(UNKNOWN[case]()) is not None


@pytest.mark.parametrize("case", KNOWN)
def test_samples_that_follow_from_the_seed_are_no_gap(case: str) -> None:
    assert own_randomness(KNOWN[case]()) is None


def test_a_generator_that_has_drawn_is_recognised() -> None:
    rng = random.Random(42)
    rng.random()
    assert own_randomness(DataLoader(Map(rng=rng))) is None


def test_the_transform_of_a_dtool_dataset_is_looked_at(make_dataset: Any) -> None:
    uri = make_dataset().uri
    assert own_randomness(DataLoader(DtoolDataset(uri))) is None
    assert own_randomness(DataLoader(DtoolDataset(uri, transform=Batches(random.Random())))) is not None


def test_looking_draws_no_number_and_takes_no_sample() -> None:
    held = {"rng": random.Random(987654), "array": np.random.default_rng(), "torch": unseeded_torch()}
    states = held["rng"].getstate(), held["array"].bit_generator.state, held["torch"].get_state().tolist()
    before = random.getstate(), torch.get_rng_state().tolist()
    own_randomness(DataLoader(Stream(**held)))
    stream = generated()
    own_randomness(stream)
    assert states == (held["rng"].getstate(), held["array"].bit_generator.state, held["torch"].get_state().tolist())
    assert before == (random.getstate(), torch.get_rng_state().tolist())


@pytest.mark.parametrize(("data", "expected"), [(NewGenerator, None), (Stream, "seed")])
def test_a_record_claims_a_seed_only_if_the_samples_follow_from_it(
    data: Any, expected: str | None, tmp_path: Path, models: Path
) -> None:
    L.seed_everything(1)
    provenance = DtoolProvenanceCallback(str(models))
    trainer(tmp_path, provenance, max_epochs=1, limit_val_batches=0).fit(TinyNet(), DataLoader(data()))
    record = DtoolCheckpoint.from_uri(provenance.uris[0]).record
    assert record.randomness.repeatable_by == expected
    facts = [gap.fact for gap in record.gaps]
    assert facts.count("randomness.repeatable_by") == (expected is None)
    assert "data.order" in facts


def test_unknown_randomness_of_data_that_was_replaced_stays_a_gap(tmp_path: Path, models: Path) -> None:
    class Reloading(L.LightningDataModule):
        def train_dataloader(self) -> Any:
            first = self.trainer is None or self.trainer.current_epoch == 0
            return DataLoader(
                Map(rng=random.Random()) if first else TensorDataset(torch.zeros(6, 8), torch.zeros(6).long())
            )

    L.seed_everything(1)
    provenance = DtoolProvenanceCallback(str(models))
    trainer(tmp_path, provenance, max_epochs=2, limit_val_batches=0, reload_dataloaders_every_n_epochs=1).fit(
        TinyNet(), Reloading()
    )
    record = DtoolCheckpoint.from_uri(provenance.uris[-1]).record
    assert record.randomness.repeatable_by is None
