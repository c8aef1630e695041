"""Datasets, samplers, transforms and loaders with state of their own."""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset, WeightedRandomSampler

from resume_cases.data import SAMPLES, Plain, numbers
from resume_cases.models import Training


def _tensors() -> tuple[torch.Tensor, torch.Tensor]:
    x = numbers(7, SAMPLES, 8)
    return x, x[:, :3].argmax(1)


class Own(Plain):
    """A loader that a function makes."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__("DataLoader", "0", 4)
        self.make = make

    def train_dataloader(self) -> Any:
        return self.make()


def _own(make: Callable[[], Any]) -> Callable[[], Own]:
    return lambda: Own(make)


class Shuffled(Sampler[list[int]]):
    """A batch sampler with a generator of its own."""

    def __init__(self) -> None:
        self.rng = torch.Generator().manual_seed(0)

    def __iter__(self) -> Iterator[list[int]]:
        yield from torch.randperm(SAMPLES, generator=self.rng).view(-1, 4).tolist()

    def __len__(self) -> int:
        return SAMPLES // 4


class CountsEpochs(Sampler[int]):
    """A sampler that counts its epochs, because nobody calls `set_epoch`."""

    def __init__(self) -> None:
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        yield from torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(self.epoch)).tolist()

    def __len__(self) -> int:
        return SAMPLES


class Samples(Dataset):
    def __init__(self) -> None:
        self.x, self.y = _tensors()

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        return self.changed(self.x[index], index), self.y[index]

    def changed(self, x: torch.Tensor, index: int) -> torch.Tensor:
        raise NotImplementedError


class Noisy(Samples):
    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(3)

    def changed(self, x: torch.Tensor, index: int) -> torch.Tensor:
        return x + torch.from_numpy(self.rng.standard_normal(8).astype("float32"))


class CountsSamples(Samples):
    seen = 0

    def changed(self, x: torch.Tensor, index: int) -> torch.Tensor:
        self.seen += 1
        return x + 0.01 * self.seen


class Memoized(Samples):
    """Augments each sample once, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[int, torch.Tensor] = {}

    def changed(self, x: torch.Tensor, index: int) -> torch.Tensor:
        if index not in self.cache:
            self.cache[index] = x + torch.randn(8)
        return self.cache[index]


class Reordered(Samples):
    """Shuffles a list in place after its last sample."""

    def __init__(self) -> None:
        super().__init__()
        self.order = list(range(SAMPLES))
        self.random = random.Random(2)

    def changed(self, x: torch.Tensor, index: int) -> torch.Tensor:
        found = self.x[self.order[index]]
        if index == SAMPLES - 1:
            self.random.shuffle(self.order)
        return 0.5 * x + 0.5 * found


class Stream(IterableDataset):
    """Goes on where the last epoch ended."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[Any]:
        x, y = _tensors()
        for _ in range(SAMPLES):
            index = self.position % (SAMPLES - 1)
            self.position += 1
            yield x[index], y[index]


class EndlessStream(IterableDataset):
    """Reads from an iterator that it keeps."""

    def __init__(self) -> None:
        self.source = itertools.cycle(range(SAMPLES - 1))

    def __iter__(self) -> Iterator[Any]:
        x, y = _tensors()
        for index in itertools.islice(self.source, SAMPLES):
            yield x[index], y[index]


class LyingLoader(DataLoader):
    """A loader whose state says less than it should."""

    def state_dict(self) -> dict[str, Any]:
        return {"batches": 0}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Collate:
    """A `collate_fn` that counts."""

    def __init__(self) -> None:
        self.batches = 0

    def __call__(self, samples: Any) -> Any:
        self.batches += 1
        x, y = torch.utils.data.default_collate(samples)
        return x * (1 + 0.05 * self.batches), y


def _loader(dataset: Callable[[], Any] = lambda: TensorDataset(*_tensors()), **options: Any) -> Callable[[], Own]:
    """Return a function that makes a DataModule; callables among the options make their value."""
    return _own(
        lambda: DataLoader(
            dataset(),
            **{"batch_size": 4, **{name: make() if name != "shuffle" else make for name, make in options.items()}},
        )
    )


def _weighted() -> WeightedRandomSampler:
    return WeightedRandomSampler([1.0 + index % 3 for index in range(SAMPLES)], SAMPLES)


def _weighted_by_own_generator() -> WeightedRandomSampler:
    sampler = _weighted()
    sampler.generator = torch.Generator().manual_seed(6)
    return sampler


class Jitter:
    """A transform with a generator of the standard library."""

    def __init__(self) -> None:
        self.random = random.Random(1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() + 0.5 * self.random.random()


class Randomizable:
    """A transform with a generator as MONAI's have."""

    def __init__(self) -> None:
        self.R = np.random.RandomState(1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() + 0.5 * float(self.R.uniform())


class Stronger:
    """A transform that grows with its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x.float() + 0.01 * self.calls


class Composed:
    """Several transforms in one, as torchvision's Compose holds them."""

    def __init__(self) -> None:
        self.transforms = [Jitter(), Randomizable(), Stronger()]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        for transform in self.transforms:
            x = transform(x)
        return x


def _closure() -> Callable[[torch.Tensor], torch.Tensor]:
    rng = np.random.default_rng(8)
    return lambda x: x.float() + float(rng.random())


def _no_batch_size() -> Own:
    return Own(lambda: DataLoader(TensorDataset(*_tensors()), batch_sampler=Shuffled()))


KINDS = {
    "batch sampler with a generator": Training(data=_no_batch_size),
    "sampler that counts epochs": Training(data=_loader(sampler=CountsEpochs)),
    "WeightedRandomSampler": Training(data=_loader(sampler=_weighted)),
    "WeightedRandomSampler with a generator": Training(data=_loader(sampler=_weighted_by_own_generator)),
    "dataset with a NumPy generator": Training(data=_loader(Noisy, shuffle=True)),
    "dataset that counts": Training(data=_loader(CountsSamples, shuffle=True)),
    "dataset that keeps augmented samples": Training(data=_loader(Memoized, shuffle=True)),
    "dataset that reorders itself": Training(data=_loader(Reordered)),
    "IterableDataset with a position": Training(data=_loader(Stream)),
    "IterableDataset with an iterator": Training(data=_loader(EndlessStream)),
    "loader with a state_dict that leaves something out": Training(
        data=_own(lambda: LyingLoader(TensorDataset(*_tensors()), batch_size=4, shuffle=True))
    ),
    "collate_fn that counts": Training(data=_loader(collate_fn=Collate, shuffle=True)),
    "transform with random.Random": Training(transform=Jitter),
    "transform with self.R": Training(transform=Randomizable),
    "transform that counts": Training(transform=Stronger),
    "transforms in a transform": Training(transform=Composed),
    "transform with a generator in a closure": Training(transform=_closure),
    "dataset with a generator, in workers": Training(
        data=_own(lambda: DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=2))
    ),
    "dataset with a generator, in persistent workers": Training(
        data=_own(lambda: DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=2, persistent_workers=True))
    ),
}
