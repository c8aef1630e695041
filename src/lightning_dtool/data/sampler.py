"""The sampler whose order depends only on seed, epoch and position, so that a resume is exact."""

import hashlib
from collections.abc import Iterator, Sized
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import Sampler
from torch.utils.data.distributed import DistributedSampler

from lightning_dtool._public import public
from lightning_dtool.errors import ConfigurationError


@public
class ResumableSampler(DistributedSampler[int]):
    """A sampler whose order of indices depends only on the seed, the epoch and the position.

    Each of n processes of a distributed run computes the same order and takes every n-th index of it. The sampler is a
    `DistributedSampler`, so Lightning keeps it and calls `set_epoch`. It has its own random number generator; it
    neither reads nor changes the global one.

    `DtoolDataModule` uses this sampler for training. Use it in a loader of your own for the same order in every run;
    with `StatefulDataLoader`, training can also be resumed inside an epoch. It draws each sample once per epoch, so it
    cannot weight samples or classes.

    Args:
        data_source: The dataset, or any object with a length.
        num_replicas: The number of processes that share the order. Default: the world size of `torch.distributed` when
            an iteration begins, or 1.
        rank: The rank of this process, from 0. Default: the rank in `torch.distributed`, or 0.
        shuffle: Shuffle the indices differently in each epoch. If False, the order is 0, 1, 2, … Default: True.
        seed: The seed of the order. `seed_everything` does not change it. Default: 0.
        drop_last: If the length is not a multiple of the number of processes, leave out the last indices of the order.
            If False, the first indices occur twice instead. Default: False.

    Raises:
        ConfigurationError: If `rank` does not fit `num_replicas`.

    Example:
        >>> sampler = ResumableSampler(range(5), seed=1)
        >>> sampler.set_epoch(3)
        >>> whole = list(sampler)
        >>> sampler.load_state_dict({"seed": 1, "epoch": 3, "position": 2})
        >>> list(sampler) == whole[2:]
        True
    """

    def __init__(
        self,
        data_source: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        # `DistributedSampler.__init__` needs an initialised torch.distributed.
        Sampler.__init__(self)
        if rank is not None and not 0 <= rank < (1 if num_replicas is None else num_replicas):
            raise ConfigurationError(f"rank={rank} does not fit num_replicas={num_replicas}: give both, rank from 0.")
        self.dataset: Any = data_source
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0
        self._num_replicas = num_replicas
        self._rank = rank
        self._start = 0
        self._position = 0

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """The number of processes that share the order."""
        if self._num_replicas is not None:
            return self._num_replicas
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    @property
    def rank(self) -> int:  # type: ignore[override]
        """The rank of this process."""
        if self._rank is not None:
            return self._rank
        return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0

    @property
    def num_samples(self) -> int:  # type: ignore[override]
        """The number of indices that this process gets in an epoch."""
        return self.total_size // self.num_replicas

    @property
    def total_size(self) -> int:  # type: ignore[override]
        """The number of indices that all processes together get in an epoch."""
        length, replicas = len(self.dataset), self.num_replicas
        return (length if self.drop_last else length + replicas - 1) // replicas * replicas

    def __len__(self) -> int:
        """Return the number of indices of this process in a whole epoch, even if the next iteration skips some."""
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of this process, from a loaded position, or else from the beginning of the epoch."""
        order = self.order()[self._start :]
        self._position, self._start = self._start, 0
        replicas = self.num_replicas
        for index in order[self.rank :: replicas]:
            self._position += replicas
            yield index

    def order(self) -> list[int]:
        """Return the order of the current epoch for all processes."""
        length = len(self.dataset)
        if self.shuffle:
            # Hashed: with the usual sum of seed and epoch, epoch 0 of seed 1 would have the order of epoch 1 of seed 0.
            digest = hashlib.sha256(f"{self.seed}\0{self.epoch}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
            indices: list[int] = torch.randperm(length, generator=generator).tolist()
        else:
            indices = list(range(length))
        total = self.total_size
        return indices[:total] if total <= length else [indices[i % length] for i in range(total)]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. Lightning calls this at the start of each epoch.

        Args:
            epoch: The epoch, from 0. A position that was loaded for another epoch is discarded.
        """
        if epoch != self.epoch:
            self._start = self._position = 0
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return `seed`, `epoch`, `length`, and `position`, the number of indices that all processes have taken.

        A loader with workers takes indices before it returns their batches. `StatefulDataLoader` saves the position of
        the batches that it has returned.
        """
        return {"seed": self.seed, "epoch": self.epoch, "position": self._position, "length": len(self.dataset)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the epoch and the position at which the next iteration begins.

        Args:
            state_dict: The value that `state_dict` returned. Only `epoch` and `position` are required.

        Raises:
            ConfigurationError: If the state belongs to another order: another seed, or a dataset of another length.
        """
        for name, mine in (("seed", self.seed), ("length", len(self.dataset))):
            if state_dict.get(name, mine) != mine:
                raise ConfigurationError(
                    f"Training was interrupted inside an epoch whose order had {name} {state_dict[name]}; here it is"
                    f" {mine}. To resume it, use the same {name}. To start a new training, load only the weights."
                )
        self.epoch = int(state_dict["epoch"])
        position = int(state_dict["position"])
        self._start = self._position = position if position < self.total_size else 0
