"""The loaders that resume at any batch, and whose workers draw the same random numbers in every run."""

import hashlib
import sys
import weakref
from array import array
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_dtool._public import public
from lightning_dtool.data.sampler import ResumableSampler


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
