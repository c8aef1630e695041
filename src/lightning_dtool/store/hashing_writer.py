"""A writer of blocks that writes and hashes them at the same time.

Run as a program, this module writes files for another process; see `writing_process`. The program starts in about
30 ms, because it imports nothing but the standard library.
"""

import contextlib
import hashlib
import io
import mmap
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

BLOCK = 2 * 2**20
"""Bytes in one block."""

BLOCKS = 4
"""Number of blocks. One is filled while the others are written."""

_ALIGNMENT = 4096
_DIRECT = getattr(os, "O_DIRECT", 0)
"""The flag for direct writes (Linux only), which bypass the page cache. Otherwise the cache has to be filled and
then synced.

With threads, direct writes shorten the time that publishing adds to a fit from 1.01 s to 0.75 s (5 checkpoints of
100 MB) and from 7.6 s to 3.4 s (4 of 1 GB). Measured on 2 cores and ext4.
"""

MESSAGE = 4096
"""The maximal length of a request or an answer, in bytes."""

_NICER = 10
"""The niceness of the writing process. If all cores are busy, a training thread gets about ten times as
much processor time as a thread of this process."""


class Digests(NamedTuple):
    """The hashes of a file's content, in hexadecimal digits."""

    md5: str
    sha256: str


class HashingWriter:
    """Writes blocks to a file and hashes them.

    Writing, MD5 and SHA-256 each have a thread. MD5, which dtool requires, takes the longest.

    Args:
        raw: The unbuffered file, at its beginning.
        blocks: Memory of `BLOCK` bytes each, aligned to pages.
    """

    def __init__(self, raw: io.FileIO, blocks: Sequence[memoryview]) -> None:
        self._raw = raw
        self._blocks = blocks
        # With this argument, MD5 also works on systems that forbid it for security purposes.
        self._md5, self._sha256 = (hashlib.new(name, usedforsecurity=False) for name in ("md5", "sha256"))
        consumers = (self._write_block, self._md5.update, self._sha256.update)
        self._threads: list[tuple[ThreadPoolExecutor, Callable[[memoryview], object]]] = [
            (ThreadPoolExecutor(1, "lightning-dtool-write"), consume) for consume in consumers
        ]
        self._running: list[list[Future[object]]] = [[] for _ in blocks]
        self._direct = False
        self._set_direct(True)

    def begin(self, turn: int, length: int) -> None:
        """Start writing and hashing a block.

        Args:
            turn: The block's number. Its memory must not change before `wait` has returned.
            length: The number of bytes to write. Only the last block may be shorter than `BLOCK`.
        """
        block = self._blocks[turn][:length]
        self._running[turn] = [thread.submit(consume, block) for thread, consume in self._threads]

    def wait(self, turn: int) -> None:
        """Wait until a block is free. Raises the error if writing it failed.

        Args:
            turn: The block's number.
        """
        running, self._running[turn] = self._running[turn], []
        for future in running:
            future.result()

    def finish(self) -> Digests:
        """Wait for all blocks and return the digests."""
        for turn in range(len(self._blocks)):
            self.wait(turn)
        return Digests(self._md5.hexdigest(), self._sha256.hexdigest())

    def stop(self) -> None:
        """End the threads. Blocks that are still waiting are dropped."""
        for thread, _ in self._threads:
            thread.shutdown(wait=True, cancel_futures=True)

    def _write_block(self, block: memoryview) -> None:
        if self._direct and len(block) % _ALIGNMENT:  # the end of the file
            self._set_direct(False)
        try:
            write_all(self._raw, block)
        except OSError:
            if not self._direct:
                raise
            # Some file systems accept the flag and refuse the write, or its alignment.
            self._raw.seek(self._raw.tell() // BLOCK * BLOCK)
            self._set_direct(False)
            write_all(self._raw, block)

    def _set_direct(self, direct: bool) -> None:
        """Switch direct writes on or off, if the system and the file system support them."""
        if not _DIRECT:
            return
        import fcntl  # not on every system

        with contextlib.suppress(OSError):
            flags = fcntl.fcntl(self._raw, fcntl.F_GETFL)
            fcntl.fcntl(self._raw, fcntl.F_SETFL, flags | _DIRECT if direct else flags & ~_DIRECT)
            self._direct = direct


def write_all(raw: io.FileIO, data: memoryview) -> None:
    """Write all of the data to a file that may accept only a part at a time.

    Args:
        raw: The unbuffered file.
        data: The bytes.
    """
    written = 0
    while written < len(data):
        written += raw.write(data[written:])


def new_blocks(descriptor: int = -1) -> list[memoryview]:
    """Return memory for blocks, aligned to pages, as direct writes require.

    Args:
        descriptor: The descriptor of shared memory. By default new memory of this process is used.
    """
    memory = memoryview(mmap.mmap(descriptor, BLOCKS * BLOCK))
    return [memory[start : start + BLOCK] for start in range(0, len(memory), BLOCK)]


def serve(link: socket.socket, blocks: Sequence[memoryview]) -> None:
    """Write files for the process at the other end of a socket, until that process closes it or ends.

    Args:
        link: The socket. For each file a descriptor arrives, then the requests `block <turn> <length>`, `finish` and
            `end`. Their answers are `free`, `done <md5> <sha256>` and `ended`, or `failed <errno> <message>`.
        blocks: The memory that both processes share.
    """
    while True:
        message, descriptors, _, _ = socket.recv_fds(link, MESSAGE, 1)
        if not message:
            return
        with open(descriptors[0], "wb", buffering=0) as raw:
            _serve_file(link, HashingWriter(raw, blocks))


def _serve_file(link: socket.socket, writer: HashingWriter) -> None:
    reporter = ThreadPoolExecutor(1)  # reports free blocks in order while new ones arrive
    try:
        while order := link.recv(MESSAGE).decode().split():
            if order[0] == "block":
                turn, length = map(int, order[1:])
                writer.begin(turn, length)
                reporter.submit(_answer, link, partial(_free, writer, turn))
            elif order[0] == "finish":
                reporter.submit(_answer, link, partial(_done, writer))
            else:
                reporter.shutdown(wait=True, cancel_futures=True)
                link.send(b"ended")
                return
    finally:
        writer.stop()


def _free(writer: HashingWriter, turn: int) -> str:
    writer.wait(turn)
    return "free"


def _done(writer: HashingWriter) -> str:
    return "done {} {}".format(*writer.finish())


def _answer(link: socket.socket, find: Callable[[], str]) -> None:
    try:
        answer = find()
    except OSError as error:
        answer = f"failed {error.errno or 0} {error.strerror or error}"
    except Exception as error:
        answer = f"failed 0 {error!r}"
    link.send(answer.encode()[:MESSAGE])


if __name__ == "__main__":
    # A signal from the terminal reaches both processes. The other one may still need this one to finish a file.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICER)
    with contextlib.suppress(OSError):  # the other process has ended
        serve(socket.socket(fileno=int(sys.argv[1])), new_blocks(int(sys.argv[2])))
