"""A writable file that hashes its content."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from lightning_dtool.store.digest import new_hash
from lightning_dtool.store.hashing_writer import BLOCK, Digests, HashingWriter, new_blocks, write_all
from lightning_dtool.store.writing_process import RemoteWriter, WritingProcess


class HashingFile(io.RawIOBase):
    """A file object that writes to another file and computes MD5 and SHA-256 on the way. It cannot seek.

    Large content is hashed while it is written, in threads or in a process. The file is complete only after `finish`.

    Args:
        raw: The unbuffered file to write to, at its beginning. It stays open when this one is closed.
        guard: Returns the context manager in which each write runs, to translate its errors.
        process: The process that hashes and writes large content. By default threads of this process do so.
    """

    def __init__(
        self,
        raw: io.FileIO,
        guard: Callable[[], AbstractContextManager[None]],
        process: WritingProcess | None = None,
    ) -> None:
        self._raw = raw
        self._guard = guard
        self._process = process
        self._position = 0
        self._small = bytearray()
        self._pipeline: Pipeline | None = None
        self.failure: Exception | None = None
        """The first error. torch catches it and raises another one."""

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Accept all of the data. An error of the file may be raised later, in `finish` at the latest.

        Args:
            data: Bytes, or anything with the buffer protocol. The caller may change it when this returns.

        Returns:
            The number of bytes.
        """
        view = memoryview(data).cast("B")
        try:
            with self._guard():
                # For a single block, starting threads takes longer than it saves.
                if self._pipeline is None and len(self._small) + len(view) <= BLOCK:
                    self._small += view
                else:
                    self._large().put(view)
        except Exception as error:
            self.failure = self.failure or error
            raise
        self._position += len(view)
        return len(view)

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self._position

    def finish(self) -> Digests:
        """Write the rest and return the digests."""
        with self._guard():
            if self._pipeline is not None:
                return self._pipeline.finish()
            write_all(self._raw, memoryview(self._small))
            md5, sha256 = new_hash("md5"), new_hash("sha256")
            md5.update(self._small)
            sha256.update(self._small)
            return Digests(md5.hexdigest(), sha256.hexdigest())

    def discard(self) -> None:
        """Stop writing. The file stays incomplete."""
        if self._pipeline is not None:
            self._pipeline.stop()

    def _large(self) -> "Pipeline":
        if self._pipeline is None:
            if self._process is not None and self._process.usable:
                self._pipeline = Pipeline(self._process.writer(self._raw), self._process.blocks)
            else:
                blocks = new_blocks()
                self._pipeline = Pipeline(HashingWriter(self._raw, blocks), blocks)
            self._pipeline.put(memoryview(self._small))
            self._small = bytearray()
        return self._pipeline


class Pipeline:
    """A buffer of several blocks, of which full ones are written while the next one fills.

    Args:
        writer: Writes the blocks.
        blocks: The memory of the blocks, which is reused in turn.
    """

    def __init__(self, writer: HashingWriter | RemoteWriter, blocks: list[memoryview]) -> None:
        self._writer = writer
        self._blocks = blocks
        self._turn = 0
        self._filled = 0

    def put(self, data: memoryview) -> None:
        """Copy bytes into the blocks. Waits while all blocks are full.

        Args:
            data: The bytes.
        """
        # NumPy releases the interpreter lock while it copies. Imported late: the command line starts faster without it.
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

    def finish(self) -> Digests:
        """Write the rest, wait until everything is written, and return the digests. Raises the first error."""
        try:
            if self._filled:
                self._hand_on()
            return self._writer.finish()
        finally:
            self.stop()

    def stop(self) -> None:
        """Drop what is not yet written."""
        self._writer.stop()

    def _hand_on(self) -> None:
        self._writer.begin(self._turn, self._filled)
        self._turn = (self._turn + 1) % len(self._blocks)
        self._filled = 0
        self._writer.wait(self._turn)
