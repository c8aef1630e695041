"""Blocks of content on their way into a file: written, and hashed in MD5 and SHA-256, all at the same time.

Run as a program it does this for another process; see `writing_process`. It then starts in some 30 ms, because it
needs nothing but the standard library.
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
"""Bytes that are handed on at once."""

BLOCKS = 4
"""How many of them are on their way."""

_ALIGNMENT = 4096
_DIRECT = getattr(os, "O_DIRECT", 0)
"""Linux only: writes go to the device at once, in half the time that it takes to fill the page cache and sync it."""

MESSAGE = 4096
"""The most bytes of an order or an answer."""

_NICER = 10
"""Where all cores are busy, those who train get ten times the share of one who is nicer by so much."""


class Digests(NamedTuple):
    """What was computed of a file's content, in hexadecimal digits."""

    md5: str
    sha256: str


class HashingWriter:
    """Writes blocks to a file and hashes them, in three threads: MD5, which dtool asks for, takes longer than the rest.

    Args:
        raw: The unbuffered file, at its beginning.
        blocks: Memory of `BLOCK` bytes each, aligned to pages.
    """

    def __init__(self, raw: io.FileIO, blocks: Sequence[memoryview]) -> None:
        self._raw = raw
        self._blocks = blocks
        # MD5 also where it is not allowed for security.
        self._md5, self._sha256 = (hashlib.new(name, usedforsecurity=False) for name in ("md5", "sha256"))
        consumers = (self._write_block, self._md5.update, self._sha256.update)
        self._threads: list[tuple[ThreadPoolExecutor, Callable[[memoryview], object]]] = [
            (ThreadPoolExecutor(1, "lightning-dtool-write"), consume) for consume in consumers
        ]
        self._running: list[list[Future[object]]] = [[] for _ in blocks]
        self._direct = False
        self._set_direct(True)

    def begin(self, turn: int, length: int) -> None:
        """Begin with a block.

        Args:
            turn: Its number. It must not change before `wait` has returned.
            length: How many of its bytes; fewer than all in the last block only.
        """
        block = self._blocks[turn][:length]
        self._running[turn] = [thread.submit(consume, block) for thread, consume in self._threads]

    def wait(self, turn: int) -> None:
        """Wait until a block is free, and raise what went wrong with it.

        Args:
            turn: Its number.
        """
        running, self._running[turn] = self._running[turn], []
        for future in running:
            future.result()

    def finish(self) -> Digests:
        """Wait for all blocks, and return the digests."""
        for turn in range(len(self._blocks)):
            self.wait(turn)
        return Digests(self._md5.hexdigest(), self._sha256.hexdigest())

    def stop(self) -> None:
        """End the threads; what is waiting is dropped."""
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
            # A file system that refuses direct writes when they come, or the alignment.
            self._raw.seek(self._raw.tell() // BLOCK * BLOCK)
            self._set_direct(False)
            write_all(self._raw, block)

    def _set_direct(self, direct: bool) -> None:
        """Let writes pass by the page cache, where the system and the file system have a way to."""
        if not _DIRECT:
            return
        import fcntl  # not on every system

        with contextlib.suppress(OSError):
            flags = fcntl.fcntl(self._raw, fcntl.F_GETFL)
            fcntl.fcntl(self._raw, fcntl.F_SETFL, flags | _DIRECT if direct else flags & ~_DIRECT)
            self._direct = direct


def write_all(raw: io.FileIO, data: memoryview) -> None:
    """Write all of the data to a file that may take less than it is given.

    Args:
        raw: The unbuffered file.
        data: The bytes.
    """
    written = 0
    while written < len(data):
        written += raw.write(data[written:])


def new_blocks(descriptor: int = -1) -> list[memoryview]:
    """Return memory for blocks; maps begin at a page, as direct writes need it.

    Args:
        descriptor: Of the memory that is shared. Default: new memory of this process.
    """
    memory = memoryview(mmap.mmap(descriptor, BLOCKS * BLOCK))
    return [memory[start : start + BLOCK] for start in range(0, len(memory), BLOCK)]


def serve(link: socket.socket, blocks: Sequence[memoryview]) -> None:
    """Write files for the process at the other end of a link, until it closes it or is no more.

    Args:
        link: Where a file's descriptor comes, then orders: `block <turn> <length>`, `finish` and `end`. The answers
            are `free` for each block, `done <md5> <sha256>`, `ended`, and `failed <errno> <message>` for any of them.
        blocks: The memory that both processes share.
    """
    while True:
        message, descriptors, _, _ = socket.recv_fds(link, MESSAGE, 1)
        if not message:
            return
        with open(descriptors[0], "wb", buffering=0) as raw:
            _serve_file(link, HashingWriter(raw, blocks))


def _serve_file(link: socket.socket, writer: HashingWriter) -> None:
    reporter = ThreadPoolExecutor(1)  # says which blocks are free, in their order, while new ones come
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
    # What ends the other process reaches this one, too; but that one may still have a file to finish.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICER)
    with contextlib.suppress(OSError):  # the other process is gone
        serve(socket.socket(fileno=int(sys.argv[1])), new_blocks(int(sys.argv[2])))
