"""Memory for the copy of a checkpoint, reused from one checkpoint to the next.

Touching new memory takes longer than copying into it. The copy of a checkpoint therefore goes where the previous one
was, and the memory for the first copy can be touched beforehand, while training continues.
"""

import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait

import torch

from lightning_dtool.snapshot.memory import available_memory

_SMALL = 64 * 1024
"""Storages of fewer bytes are not reused: the allocator has memory for them at hand."""

_SHARE = 0.8
"""Share of the available memory that a copy may take: training may need more later."""

_THREADS = min(4, os.cpu_count() or 1)
"""One core does not use the whole memory bandwidth. Training waits meanwhile, so its cores are free."""

_Copy = tuple[torch.UntypedStorage, torch.UntypedStorage]


class Staging:
    """Memory for one copy of a state at a time, which the next copy reuses.

    It never holds more than the largest state so far has needed. Tensors on a CUDA device are copied on a separate
    stream into pinned memory. Training does not wait for these copies; `wait` does.

    Args:
        limit: Bytes that it may hold at most. Default: what the machine, or the container, has available.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._free: dict[tuple[int, bool], list[torch.UntypedStorage]] = {}
        self._used: list[tuple[torch.UntypedStorage, bool]] = []
        self._held = 0
        self._in_use = 0
        self._largest = 0
        self._pending: list[_Copy] = []
        self._threads: ThreadPoolExecutor | None = None
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    @property
    def nbytes(self) -> int:
        """Bytes that are held, in use or not."""
        return self._held

    def fits(self, nbytes: int) -> bool:
        """Return True if a state of a given size may be copied.

        Args:
            nbytes: The size of its tensors.
        """
        limit = self.limit
        if limit is None:
            available = available_memory()
            limit = None if available is None else self._held + int(_SHARE * available)
        return limit is None or nbytes <= limit

    def reserve(self, sizes: Iterable[int]) -> None:
        """Touch the memory that a state will need. Any thread may do so while no other thread uses this object.

        Args:
            sizes: The bytes of each of its storages on the CPU.
        """
        missing = Counter(size for size in sizes if size >= _SMALL)
        for storage, _ in self._used:
            missing[storage.nbytes()] -= 1
        for (size, _), storages in self._free.items():
            missing[size] -= len(storages)
        needed = sum(size * count for size, count in missing.items() if count > 0)
        if not self.fits(self._held + needed):
            return
        for size, count in missing.items():
            for _ in range(count):
                self._give_back(torch.empty(size, dtype=torch.uint8).fill_(0).untyped_storage(), pinned=False)
                self._held += size
        self._largest = max(self._largest, self._held)

    def recycle(self) -> None:
        """Let the next copy reuse the memory of the last one."""
        for storage, pinned in self._used:
            self._give_back(storage, pinned)
        self._used, self._pending = [], []
        self._in_use = 0

    def copy(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        """Return a storage on the CPU. It holds the copy after `finish`, or after `wait` for one from a CUDA device.

        Args:
            storage: On any device.
        """
        if storage.nbytes() < _SMALL:
            return torch.UntypedStorage(storage.nbytes()).copy_(storage)  # type: ignore[no-untyped-call]
        if storage.device.type != "cuda":
            target = self._take(storage.nbytes(), pinned=False)
            self._pending.append((target, storage))
            return target
        stream = self._streams.get(storage.device)
        if stream is None:
            stream = self._streams[storage.device] = torch.cuda.Stream(storage.device)  # type: ignore[no-untyped-call]
        target = self._take(storage.nbytes(), pinned=True)
        training = torch.cuda.current_stream(storage.device)
        stream.wait_stream(training)
        with torch.cuda.stream(stream):
            target.copy_(storage, non_blocking=True)
        # Training's next work on the device waits for the copy. This thread does not.
        training.wait_stream(stream)
        return target

    def finish(self) -> None:
        """Copy, in several threads, what is on the CPU. After this the originals may change."""
        pending, self._pending = self._pending, []
        shares: list[list[_Copy]] = [[] for _ in range(_THREADS)]
        sizes = [0] * _THREADS
        for pair in sorted(pending, key=lambda pair: pair[1].nbytes(), reverse=True):
            smallest = sizes.index(min(sizes))
            shares[smallest].append(pair)
            sizes[smallest] += pair[1].nbytes()
        if _THREADS == 1 or not sizes[-1]:  # too little to share
            _copy_all(pending)
            return
        if self._threads is None:  # kept: the first use of torch in a new thread is slow
            self._threads = ThreadPoolExecutor(_THREADS - 1, "lightning-dtool-copy")
        others = [self._threads.submit(_copy_all, share) for share in shares[1:]]
        try:
            _copy_all(shares[0])
        finally:  # also after Ctrl-C: the memory may be reused for another copy at once
            wait(others)
        for other in others:
            other.result()

    def wait(self) -> None:
        """Wait until the copies from devices have arrived."""
        for stream in self._streams.values():
            stream.synchronize()

    def release(self) -> None:
        """Return all memory to the system. A copy that is still referenced keeps its own memory."""
        # Before waiting for anything: after Ctrl-C a copy may still be under way.
        self._free, self._used, self._pending = {}, [], []
        self._held = self._in_use = self._largest = 0
        streams, self._streams = self._streams, {}
        threads, self._threads = self._threads, None
        for stream in streams.values():
            stream.synchronize()
        if threads is not None:
            threads.shutdown()

    def _take(self, size: int, pinned: bool) -> torch.UntypedStorage:
        known = self._free.get((size, pinned))
        if known:
            storage = known.pop()
        else:
            self._make_room(size)
            storage = _new(size, pinned)
            self._held += size
        self._used.append((storage, pinned))
        self._in_use += size
        return storage

    def _make_room(self, size: int) -> None:
        """Drop free storages of other sizes if more memory would be held than any state has needed."""
        self._largest = max(self._largest, self._in_use + size)
        for other, storages in self._free.items():
            while storages and self._held + size > self._largest:
                storages.pop()
                self._held -= other[0]

    def _give_back(self, storage: torch.UntypedStorage, pinned: bool) -> None:
        self._free.setdefault((storage.nbytes(), pinned), []).append(storage)


def _copy_all(pairs: list[_Copy]) -> None:
    for target, source in pairs:
        # As tensors: their copy releases the interpreter lock, that of storages does not.
        _as_bytes(target).copy_(_as_bytes(source))


def _as_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _new(size: int, pinned: bool) -> torch.UntypedStorage:
    return torch.empty(size, dtype=torch.uint8, pin_memory=pinned).untyped_storage()
