"""The sampler and the loaders whose order depends only on seed, epoch and position, so that a resume is exact."""

import hashlib
import sys
import weakref
from array import array
from collections.abc import Iterator, Sized
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Sampler
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


@public
class SeededDataLoader(DataLoader[Any]):
    """A DataLoader that does not change the global random number generators.

    `DtoolDataModule` uses it for validation, testing and prediction. In worker processes, a `DtoolDataset` seeds the
    generators for each batch with torch's seed in the main process and the position of the batch; in a
    `StatefulDataLoader` also with the epoch. Random transforms therefore draw the same numbers with any number of
    workers, persistent or not, and after any resume. Without workers, they draw from the global generators.

    Do not use it with workers and a dataset other than `DtoolDataset` that draws random numbers: its workers would draw
    the same numbers in every epoch.

    Args:
        *args: As for `torch.utils.data.DataLoader`.
        **kwargs: As for `torch.utils.data.DataLoader`.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Iterate over the batches."""
        # torch draws a seed for the workers from the global generator when it makes an iterator, but not when
        # persistent workers start another epoch. A resumed run would make an iterator where the uninterrupted run made
        # none.
        with torch.random.fork_rng(devices=[]):
            return super().__iter__()

    @property
    def _index_sampler(self) -> Any:
        """The batches of indices that the iterators of DataLoader read, each with its own seed."""
        batches = super()._index_sampler
        return _SeededBatches(batches, self) if batches is self.batch_sampler else batches

    def _place(self) -> tuple[int, int, int]:
        """Return the epoch, the position at which an iteration begins, and the number of positions per batch."""
        replicas = getattr(self.sampler, "num_replicas", 1)
        return 0, getattr(self.sampler, "rank", 0), (self.batch_size or 1) * replicas


@public
class StatefulDataLoader(SeededDataLoader):
    """A DataLoader that resumes inside an epoch, at the batch after the last one that it returned.

    `DtoolDataModule` uses it for training. Lightning saves and restores its state with its loops. Batches that workers
    have fetched but that the loader has not returned yet do not count. The sampler must be a `ResumableSampler`. With
    any other sampler, such as the one of `overfit_batches`, a resumed epoch starts at its beginning.

    The loader also keeps a digest of the order of each epoch; see `order_digests`.

    Workers start when the first batch is read, not in `iter()`: Lightning calls `iter()` before it sets the epoch
    (https://github.com/Lightning-AI/pytorch-lightning/issues/21938), so workers that started there would fetch batches
    of another epoch.

    Args:
        *args: As for `torch.utils.data.DataLoader`.
        **kwargs: As for `torch.utils.data.DataLoader`.

    Example:
        >>> loader = StatefulDataLoader(range(8), batch_size=2, sampler=ResumableSampler(range(8), seed=1))
        >>> batches = iter(loader)
        >>> _ = next(batches)
        >>> state = loader.state_dict()
        >>> rest = [batch.tolist() for batch in batches]
        >>> again = StatefulDataLoader(range(8), batch_size=2, sampler=ResumableSampler(range(8), seed=1))
        >>> again.load_state_dict(state)
        >>> [batch.tolist() for batch in again] == rest
        True
    """

    _state: dict[str, Any] | None = None
    _before: dict[str, Any] | None = None
    _pending: dict[str, Any] | None = None
    _order_digests: dict[str, str] | None = None

    @property
    def order_digests(self) -> dict[str, str]:
        """The digest of the order in which this process has read the samples of each epoch so far.

        The digest of an epoch is `sha256:` and a chain over its batches: d = SHA-256(d + indices of the batch), with
        the indices in the dataset as 8-byte little-endian integers, starting with an empty d. The digests of two runs
        therefore differ from the first batch that differs, and a digest is continued after a resume. An epoch has no
        digest if its beginning is unknown.

        The epochs must be read in order: if an epoch is started again, its digest and those of later epochs are
        deleted. Assign a dict to continue the digests of another loader.
        """
        if self._order_digests is None:
            self._order_digests = {}
        return self._order_digests

    @order_digests.setter
    def order_digests(self, digests: dict[str, str]) -> None:
        self._order_digests = digests

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Iterate over the rest of a resumed epoch, or else over a whole epoch."""
        return self._batches()

    def _batches(self) -> Iterator[Any]:
        sampler = self.sampler
        pending, self._pending = self._pending, None
        resumes = False
        if isinstance(sampler, ResumableSampler):
            start: dict[str, Any] = {"epoch": sampler.epoch, "position": 0}
            # If the epoch is not the saved one, the saved one had ended, perhaps early because of
            # `limit_train_batches`.
            if pending is not None and pending["epoch"] == sampler.epoch:
                resumes, start = True, pending
            sampler.load_state_dict(start)
            self._state = state = sampler.state_dict()
            self._before = None
            digest = self._begin_digest(sampler.epoch, resumes)
            mine = array("q", sampler.order()[sampler.rank :: sampler.num_replicas]) if digest is not None else None
        for batch in super().__iter__():
            if isinstance(sampler, ResumableSampler):
                self._before = {"position": state["position"], "digest": digest}
                if mine is not None and digest is not None:
                    first = state["position"] // sampler.num_replicas
                    digest = _chained(digest, mine[first : first + (self.batch_size or 1)])
                    self.order_digests[str(state["epoch"])] = f"sha256:{digest.hex()}"
                state["position"] += self._step
            yield batch

    def _place(self) -> tuple[int, int, int]:
        if self._state is None or not isinstance(self.sampler, ResumableSampler):
            return super()._place()
        return self._state["epoch"], self._state["position"] + self.sampler.rank, self._step

    @property
    def last_batch_started(self) -> bool:
        """Whether a batch of the current epoch was returned."""
        return self._before is not None and self._state is not None

    def state_before_last_batch(self) -> dict[str, Any]:
        """Return the state as it was before the last batch was returned, to train on that batch again."""
        if self._before is None or self._state is None:
            return self.state_dict()
        digests = dict(self.order_digests)
        if self._before["digest"]:
            digests[str(self._state["epoch"])] = f"sha256:{self._before['digest'].hex()}"
        else:
            digests.pop(str(self._state["epoch"]), None)
        return {**self._state, "position": self._before["position"], "order": digests}

    def _begin_digest(self, epoch: int, resumes: bool) -> bytes | None:
        """Return the digest of an epoch so far; None if its beginning is unknown."""
        digests, name = self.order_digests, str(epoch)
        if resumes:
            saved = digests.get(name)
            return bytes.fromhex(saved.removeprefix("sha256:")) if saved is not None else None
        if name in digests:  # the epoch is started again
            for later in [each for each in digests if int(each) >= epoch]:
                del digests[later]
        return b""

    @property
    def _step(self) -> int:
        """The number of indices that all processes together take when each reads one batch."""
        replicas = self.sampler.num_replicas if isinstance(self.sampler, ResumableSampler) else 1
        return (self.batch_size or 1) * replicas

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state, in which `position` counts the samples that were returned.

        `order` holds the digests of the epochs so far; see `order_digests`.
        """
        state = self._pending or self._state
        return {**state, "order": dict(self.order_digests)} if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the position at which the next iteration begins.

        Args:
            state_dict: The value that `state_dict` returned. If the sampler is set to another epoch before the first
                batch is read, that epoch starts at its beginning.
        """
        if not state_dict or not isinstance(self.sampler, ResumableSampler):
            return
        self.order_digests.clear()
        self.order_digests.update(state_dict.get("order", {}))  # the state of a sampler alone has none
        complete = state_dict["position"] >= min(len(self) * self._step, self.sampler.total_size)
        if state_dict["position"] and not complete:
            self.sampler.set_epoch(state_dict["epoch"])
            self._pending = {name: value for name, value in state_dict.items() if name != "order"}

    def set_loaded_epoch(self) -> None:
        """Set the sampler to the epoch of the loaded position again, if it has been set to another epoch since."""
        if self._pending is not None and isinstance(self.sampler, ResumableSampler):
            self.sampler.set_epoch(self._pending["epoch"])


class SeededBatch(list[int]):
    """The indices of one batch, and the seed for random numbers that a worker draws for it."""

    seed: int

    def __reduce__(self) -> Any:
        """Pickle the seed, too."""
        return _seeded_batch, (list(self), self.seed)


def _seeded_batch(indices: list[int], seed: int) -> SeededBatch:
    batch = SeededBatch(indices)
    batch.seed = seed
    return batch


class _SeededBatches:
    """The batches of indices of a loader, each with its seed."""

    def __init__(self, batches: Any, loader: SeededDataLoader) -> None:
        self._batches = batches
        # A weak reference: otherwise loader and iterator would form a cycle, and the garbage collector would end
        # persistent workers. It would close their queues first, and torch would then wait five seconds for each worker.
        self._loader = weakref.ref(loader)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[SeededBatch]:
        loader = self._loader()
        if loader is None:
            raise RuntimeError("the DataLoader of these batches no longer exists")
        return self._seeded(*loader._place())

    def _seeded(self, epoch: int, position: int, step: int) -> Iterator[SeededBatch]:
        base = torch.initial_seed()
        for indices in self._batches:
            digest = hashlib.sha256(f"{base}\0{epoch}\0{position}".encode()).digest()
            yield _seeded_batch(indices, int.from_bytes(digest[:8], "big") >> 1)
            position += step


def _chained(digest: bytes, indices: "array[int]") -> bytes:
    if sys.byteorder == "big":
        indices.byteswap()
    return hashlib.sha256(digest + indices.tobytes()).digest()
