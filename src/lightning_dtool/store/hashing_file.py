"""A new file that hashes what is written to it, and writes large content past the page cache."""

import contextlib
import io
import mmap
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

from lightning_dtool.store.digest import new_hash

BLOCK = 4 * 2**20
"""Bytes that are handed on at once. Content that fits into one is small: threads would cost more than they save."""

_BLOCKS = 4
_ALIGNMENT = 4096
_DIRECT = getattr(os, "O_DIRECT", 0)
"""Linux only: writes go to the device at once, in half the time that it takes to fill the page cache and sync it."""


class HashingFile(io.RawIOBase):
    """Writes to another file, and computes MD5 and SHA-256 on the way; it cannot seek.

    Of large content the hashes are computed in threads, at the same time as it is written: MD5, which dtool asks
    for, takes longer than everything else together. Call `finish` at the end; only then are file and hashes complete.

    Args:
        raw: The unbuffered file to write to, at its beginning. It stays open when this one is closed.
        guard: Makes the context in which each write runs, to translate its errors.
    """

    def __init__(self, raw: io.FileIO, guard: Callable[[], AbstractContextManager[None]]) -> None:
        self._raw = raw
        self._guard = guard
        self._position = 0
        self._small = bytearray()
        self._pipeline: Pipeline | None = None
        self._direct = False
        self.md5 = new_hash("md5")
        self.sha256 = new_hash("sha256")

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Take all of the data; errors of the file may show later, in `finish` at the latest.

        Args:
            data: Bytes, or anything with the buffer protocol. It is not needed any more when this returns.

        Returns:
            The number of bytes.
        """
        view = memoryview(data).cast("B")
        with self._guard():
            if self._pipeline is None and len(self._small) + len(view) <= BLOCK:
                self._small += view
            else:
                self._large().put(view)
        self._position += len(view)
        return len(view)

    def tell(self) -> int:
        """Return the number of bytes taken so far."""
        return self._position

    def finish(self) -> None:
        """Write what is left, and complete the hashes."""
        with self._guard():
            if self._pipeline is not None:
                self._pipeline.finish()
            else:
                for consume in (self._write_all, self.md5.update, self.sha256.update):
                    consume(memoryview(self._small))

    def discard(self) -> None:
        """Stop: nobody wants this file any more."""
        if self._pipeline is not None:
            self._pipeline.stop()

    def _large(self) -> "Pipeline":
        if self._pipeline is None:
            self._set_direct(True)
            self._pipeline = Pipeline([self._write_block, self.md5.update, self.sha256.update])
            self._pipeline.put(memoryview(self._small))
            self._small = bytearray()
        return self._pipeline

    def _write_block(self, block: memoryview) -> None:
        if self._direct and len(block) % _ALIGNMENT:  # the end of the file
            self._set_direct(False)
        try:
            self._write_all(block)
        except OSError:
            if not self._direct:
                raise
            # A file system that refuses direct writes when they come, or the alignment.
            self._raw.seek(self._raw.tell() // BLOCK * BLOCK)
            self._set_direct(False)
            self._write_all(block)

    def _write_all(self, data: memoryview) -> None:
        written = 0
        # A raw file may take less than it is given.
        while written < len(data):
            written += self._raw.write(data[written:])

    def _set_direct(self, direct: bool) -> None:
        """Let writes pass by the page cache, where the system and the file system have a way to."""
        if not _DIRECT:
            return
        import fcntl

        with contextlib.suppress(OSError):
            flags = fcntl.fcntl(self._raw, fcntl.F_GETFL)
            fcntl.fcntl(self._raw, fcntl.F_SETFL, flags | _DIRECT if direct else flags & ~_DIRECT)
            self._direct = direct


class Pipeline:
    """Hands bytes on in blocks to several consumers at once, each in a thread of its own and in order.

    Args:
        consumers: Functions that take a block. All blocks but the last have `BLOCK` bytes, in aligned memory that is
            used again when every consumer has returned.
    """

    def __init__(self, consumers: Sequence[Callable[[memoryview], object]]) -> None:
        self._consumers = [(ThreadPoolExecutor(1, "lightning-dtool-write"), consume) for consume in consumers]
        # Anonymous maps begin at a page, as direct writes need it.
        self._blocks = [memoryview(mmap.mmap(-1, BLOCK)) for _ in range(_BLOCKS)]
        self._running: list[list[Future[object]]] = [[] for _ in self._blocks]
        self._turn = 0
        self._filled = 0

    def put(self, data: memoryview) -> None:
        """Take bytes, and wait while all blocks are full.

        Args:
            data: The bytes; they are copied.
        """
        # NumPy lets other threads run while it copies. Imported late: the command line is quicker without.
        import numpy as np

        taken = 0
        while taken < len(data):
            part = data[taken : taken + BLOCK - self._filled]
            block = np.frombuffer(self._blocks[self._turn], np.uint8)
            block[self._filled : self._filled + len(part)] = np.frombuffer(part, np.uint8)
            taken += len(part)
            self._filled += len(part)
            if self._filled == BLOCK:
                self._hand_on()

    def finish(self) -> None:
        """Hand on the rest, wait for the consumers, and raise what went wrong in one of them."""
        try:
            if self._filled:
                self._hand_on()
            for turn in range(len(self._blocks)):
                self._wait(turn)
        finally:
            self.stop()

    def stop(self) -> None:
        """End the threads; what is waiting is dropped."""
        for thread, _ in self._consumers:
            thread.shutdown(wait=True, cancel_futures=True)

    def _hand_on(self) -> None:
        block = self._blocks[self._turn][: self._filled]
        self._running[self._turn] = [thread.submit(consume, block) for thread, consume in self._consumers]
        self._turn = (self._turn + 1) % len(self._blocks)
        self._filled = 0
        self._wait(self._turn)

    def _wait(self, turn: int) -> None:
        """Wait until a block is free."""
        running, self._running[turn] = self._running[turn], []
        for future in running:
            future.result()
