"""Order as a function of (seed, epoch, position): what makes resuming inside an epoch exact."""

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
    """Yields the indices of a dataset in an order that depends on nothing but seed, epoch and position.

    Every process of a distributed run computes the same order and takes every n-th index of it. It
    is a `DistributedSampler`, so Lightning leaves it in place and calls `set_epoch`. The order comes
    from a generator of its own: no global random number is used, and none is drawn.

    Args:
        data_source: The dataset, or anything with a length.
        num_replicas: How many processes share the order. By default `torch.distributed` is asked
            when an iteration begins; without it there is one process.
        rank: Which of the processes this one is, from 0. By default as for `num_replicas`.
        shuffle: Whether each epoch has an order of its own. If not, the order is 0, 1, 2, …
        seed: Another seed gives other orders. The order does not depend on `seed_everything`.
        drop_last: What happens if the length is no multiple of the number of processes: leave out
            the last few indices of the epoch's order, or (the default) let its first few occur twice.

    Raises:
        ConfigurationError: If `rank` and `num_replicas` do not fit together.

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
        # DistributedSampler's own __init__ asks torch.distributed at once, and raises where there is none.
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
        """How many processes share the order."""
        if self._num_replicas is not None:
            return self._num_replicas
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    @property
    def rank(self) -> int:  # type: ignore[override]
        """Which of the processes this one is."""
        if self._rank is not None:
            return self._rank
        return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0

    @property
    def num_samples(self) -> int:  # type: ignore[override]
        """How many indices this process gets in a whole epoch."""
        return self.total_size // self.num_replicas

    @property
    def total_size(self) -> int:  # type: ignore[override]
        """How many indices all processes together get in a whole epoch."""
        length, replicas = len(self.dataset), self.num_replicas
        return (length if self.drop_last else length + replicas - 1) // replicas * replicas

    def __len__(self) -> int:
        """Return how many indices this process gets in a whole epoch, wherever the next iteration begins."""
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        """Yield this process's indices, from the position that was loaded last, else from the beginning."""
        order = self.order()[self._start :]
        self._position, self._start = self._start, 0
        replicas = self.num_replicas
        for index in order[self.rank :: replicas]:
            self._position += replicas
            yield index

    def order(self) -> list[int]:
        """Return the current epoch's order over all processes."""
        length = len(self.dataset)
        if self.shuffle:
            # Hashed, because the sum of the two, which is usual, gives seed 1 the orders of seed 0 an epoch early.
            digest = hashlib.sha256(f"{self.seed}\0{self.epoch}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
            indices: list[int] = torch.randperm(length, generator=generator).tolist()
        else:
            indices = list(range(length))
        total = self.total_size
        return indices[:total] if total <= length else [indices[i % length] for i in range(total)]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this at the start of each.

        Args:
            epoch: Counted from 0. A position that was loaded for another epoch is forgotten.
        """
        if epoch != self.epoch:
            self._start = self._position = 0
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return `seed`, `epoch`, `length` and `position`: how many indices of the epoch all processes have taken.

        A DataLoader with workers takes indices ahead of the batches that it hands out; what
        `StatefulDataLoader` saves counts batches handed out.
        """
        return {"seed": self.seed, "epoch": self.epoch, "position": self._position, "length": len(self.dataset)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next iteration begin where a state was saved.

        Args:
            state_dict: What `state_dict` returned. Only `epoch` and `position` have to be there.

        Raises:
            ConfigurationError: If the state comes from another order, where the position means
                nothing: another seed, or a dataset of another length.
        """
        for name, mine in (("seed", self.seed), ("length", len(self.dataset))):
            if state_dict.get(name, mine) != mine:
                raise ConfigurationError(
                    f"Training stopped inside an epoch whose order had {name} {state_dict[name]}; here it is {mine}."
                    f" To go on where it stopped, use the same {name}; to start afresh, load the weights only."
                )
        self.epoch = int(state_dict["epoch"])
        position = int(state_dict["position"])
        self._start = self._position = position if position < self.total_size else 0


@public
class SeededDataLoader(DataLoader[Any]):
    """A DataLoader that moves no global random number generator on.

    In worker processes, a `DtoolDataset` seeds the generators for each batch: by torch's seed in the training process,
    the epoch if there is one, and the position. So random transforms draw the same numbers with any number of workers,
    persistent or not, and after a resume anywhere. Without workers they draw from the global generators, as ever.
    Any other dataset has to see to its workers' random numbers itself: they begin every epoch with the same.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Iterate over the batches."""
        # torch draws a seed for the workers from the global generator: when it makes an iterator, and not when
        # persistent workers begin again. A resumed run makes one where the other did not.
        with torch.random.fork_rng(devices=[]):
            return super().__iter__()

    @property
    def _index_sampler(self) -> Any:
        """What DataLoader's iterators take indices from: whole batches, each with a seed of its own."""
        batches = super()._index_sampler
        return _SeededBatches(batches, self) if batches is self.batch_sampler else batches

    def _place(self) -> tuple[int, int, int]:
        """Return the epoch, the position at which an iteration begins, and by how much a batch moves it on."""
        replicas = getattr(self.sampler, "num_replicas", 1)
        return 0, getattr(self.sampler, "rank", 0), (self.batch_size or 1) * replicas


@public
class StatefulDataLoader(SeededDataLoader):
    """A DataLoader that can be saved inside an epoch and goes on at the next batch.

    Lightning saves and restores the state of such a loader with its loops. What counts are the
    batches handed out, not those that workers have fetched ahead. The sampler must be a
    `ResumableSampler`; with any other (Lightning puts one in place for `overfit_batches`) a resumed
    epoch starts at its beginning.

    It also keeps a digest of the order of every epoch, see `order_digests`.

    It starts its workers when the first batch is asked for, not in `iter()`: Lightning asks for the
    iterator before it has set the epoch (https://github.com/Lightning-AI/pytorch-lightning/issues/21938),
    and workers would by then have fetched batches of another one.

    """

    _state: dict[str, Any] | None = None
    _before: dict[str, Any] | None = None
    _pending: dict[str, Any] | None = None
    _order_digests: dict[str, str] | None = None

    @property
    def order_digests(self) -> dict[str, str]:
        """By epoch, the digest of the order in which this process has handed out samples so far.

        An epoch's digest is `sha256:` and a chain over its batches: d = SHA-256(d + indices of the batch), with the
        indices in the dataset as 8-byte little-endian integers, beginning with an empty d. So two runs
        differ from the first batch on that is not the same, and a digest goes on where it was saved. An
        epoch whose beginning is not known, because a checkpoint of an older version did not say, has none.

        Only a loader that a Trainer goes through in the order of its epochs keeps a useful account: one that begins
        an epoch again forgets it and those that came after. Assign a dict to go on with another loader's account.
        """
        if self._order_digests is None:
            self._order_digests = {}
        return self._order_digests

    @order_digests.setter
    def order_digests(self, digests: dict[str, str]) -> None:
        self._order_digests = digests

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Iterate over the rest of a resumed epoch, else over a whole one."""
        return self._batches()

    def _batches(self) -> Iterator[Any]:
        sampler = self.sampler
        pending, self._pending = self._pending, None
        resumes = False
        if isinstance(sampler, ResumableSampler):
            start: dict[str, Any] = {"epoch": sampler.epoch, "position": 0}
            # If it is another epoch than the saved one, that one had ended, perhaps early by `limit_train_batches`.
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
        """Whether a batch of the present epoch was handed out."""
        return self._before is not None and self._state is not None

    def state_before_last_batch(self) -> dict[str, Any]:
        """Return the state as it was before the last batch was handed out, for one that was not finished."""
        if self._before is None or self._state is None:
            return self.state_dict()
        digests = dict(self.order_digests)
        if self._before["digest"]:
            digests[str(self._state["epoch"])] = f"sha256:{self._before['digest'].hex()}"
        else:
            digests.pop(str(self._state["epoch"]), None)
        return {**self._state, "position": self._before["position"], "order": digests}

    def _begin_digest(self, epoch: int, resumes: bool) -> bytes | None:
        """Return the digest of an epoch so far; None if nobody knows how it began."""
        digests, name = self.order_digests, str(epoch)
        if resumes:
            saved = digests.get(name)
            return bytes.fromhex(saved.removeprefix("sha256:")) if saved is not None else None
        if name in digests:  # another run, or this one again from here
            for later in [each for each in digests if int(each) >= epoch]:
                del digests[later]
        return b""

    @property
    def _step(self) -> int:
        """How many indices all processes together take for one batch each."""
        replicas = self.sampler.num_replicas if isinstance(self.sampler, ResumableSampler) else 1
        return (self.batch_size or 1) * replicas

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state, its `position` counting the items that have been handed out.

        With it comes `order`: the digests of the epochs so far, see `order_digests`.
        """
        state = self._pending or self._state
        return {**state, "order": dict(self.order_digests)} if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next iteration go on where a state was saved.

        Args:
            state_dict: What `state_dict` returned. If the sampler is set to another epoch by the
                time the first batch is asked for, that epoch starts at its beginning.
        """
        if not state_dict or not isinstance(self.sampler, ResumableSampler):
            return
        self.order_digests.clear()
        self.order_digests.update(state_dict.get("order", {}))  # an older version did not keep them
        complete = state_dict["position"] >= min(len(self) * self._step, self.sampler.total_size)
        if state_dict["position"] and not complete:
            self.sampler.set_epoch(state_dict["epoch"])
            self._pending = {name: value for name, value in state_dict.items() if name != "order"}


class SeededBatch(list[int]):
    """The indices of one batch, and the seed of the random numbers that are drawn for it in a worker."""

    seed: int

    def __reduce__(self) -> Any:
        """Keep the seed on the way to a worker."""
        return _seeded_batch, (list(self), self.seed)


def _seeded_batch(indices: list[int], seed: int) -> SeededBatch:
    batch = SeededBatch(indices)
    batch.seed = seed
    return batch


class _SeededBatches:
    """A loader's batches of indices, with a seed each."""

    def __init__(self, batches: Any, loader: SeededDataLoader) -> None:
        self._batches = batches
        # Weak: with a cycle of loader and iterator, persistent workers would be ended by the garbage collector. It
        # closes their queues first, and then torch waits five seconds for each of them.
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
