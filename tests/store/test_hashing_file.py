"""The file object that hashes what is written to it."""

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import pickle
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_dtool.store.hashing_file import BLOCK, HashingFile
from lightning_dtool.store.writing_process import WritingProcess


@pytest.fixture(scope="module")
def process() -> Iterator[WritingProcess]:
    if not hasattr(os, "memfd_create"):
        pytest.skip("this system cannot share memory so")
    process = WritingProcess()
    yield process
    process.close()


class Reluctant(io.FileIO):
    """A file that accepts at most 3 bytes at a time, as a file system may."""

    def write(self, data: Any) -> int:
        return super().write(bytes(data)[:3])


def test_everything_is_written_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with Reluctant(str(path), "w") as raw:
        file = HashingFile(raw, contextlib.nullcontext)
        assert file.write(b"12345678") == 8
        assert file.write(memoryview(b"\x01\x02\x03\x04").cast("H")) == 4
        assert file.write(bytearray()) == 0
        assert file.tell() == 12
        assert file.writable()
        assert not file.seekable()
        pickle.dump(["x" * 100_000], file)
        size = file.tell()
        digests = file.finish()
    content = path.read_bytes()
    assert content.startswith(b"12345678\x01\x02\x03\x04")
    assert len(content) == size
    assert digests == (hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("size", [BLOCK, BLOCK + 1, 3 * BLOCK, 6 * BLOCK + 4096, 6 * BLOCK + 4097])
@pytest.mark.parametrize("piece", [BLOCK // 3, 7 * BLOCK])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_large_content_is_the_same(
    tmp_path: Path, size: int, piece: int, elsewhere: bool, process: WritingProcess
) -> None:
    content = random.Random(size).randbytes(size)
    with (tmp_path / "x").open("wb", buffering=0) as raw:
        file = HashingFile(raw, contextlib.nullcontext, process if elsewhere else None)
        for start in range(0, size, piece):
            buffer = bytearray(content[start : start + piece])
            file.write(buffer)
            buffer[:] = bytes(len(buffer))  # the caller may use its memory again
        digests = file.finish()
    assert (tmp_path / "x").read_bytes() == content
    assert file.tell() == size
    assert digests == (hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest())


class Undirected(io.FileIO):
    """A file on a file system that takes the flag for direct writes and then refuses such a write."""

    refused = 0

    def write(self, data: Any) -> int:
        if fcntl.fcntl(self, fcntl.F_GETFL) & os.O_DIRECT:
            self.refused += 1
            raise OSError(errno.EINVAL, "Invalid argument")
        return super().write(data)


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="there are no direct writes on this system")
def test_a_file_system_without_direct_writes(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(2 * BLOCK + 5)
    with Undirected(tmp_path / "x", "w") as raw:
        file = HashingFile(raw, contextlib.nullcontext)
        file.write(content)
        file.finish()
    assert raw.refused <= 1  # none where the flag itself was refused
    assert (tmp_path / "x").read_bytes() == content


def test_writing_in_a_process_can_be_discarded(tmp_path: Path, process: WritingProcess) -> None:
    with (tmp_path / "x").open("wb", buffering=0) as raw:
        file = HashingFile(raw, contextlib.nullcontext, process)
        file.write(bytes(20 * BLOCK))
        file.discard()
        file.discard()
    with (tmp_path / "y").open("wb", buffering=0) as raw:
        file = HashingFile(raw, contextlib.nullcontext, process)
        file.write(b"1" * (5 * BLOCK))
        assert file.finish().md5 == hashlib.md5(b"1" * (5 * BLOCK)).hexdigest()
    assert (tmp_path / "y").stat().st_size == 5 * BLOCK


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_process_reports_a_full_disk(tmp_path: Path, process: WritingProcess) -> None:
    for size in (2 * BLOCK, 30 * BLOCK):
        with Path("/dev/full").open("wb", buffering=0) as raw:
            file = HashingFile(raw, contextlib.nullcontext, process)

            def write(file: HashingFile = file, size: int = size) -> None:
                file.write(bytes(size))
                file.finish()

            with pytest.raises(OSError, match="No space left") as caught:
                write()
            assert caught.value.errno == errno.ENOSPC
            file.discard()
    assert process.usable


class Full(io.FileIO):
    """A disk that is full after some bytes."""

    def write(self, data: Any) -> int:
        if self.tell() >= BLOCK:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("size", [10, 20 * BLOCK])
def test_a_full_disk_is_reported_at_the_end_at_the_latest(tmp_path: Path, size: int) -> None:
    others = set(threading.enumerate())
    with Full(tmp_path / "x", "w") as raw:
        raw.seek(0 if size > BLOCK else BLOCK)
        file = HashingFile(raw, contextlib.nullcontext)

        def write() -> None:
            file.write(bytes(size))
            file.finish()

        with pytest.raises(OSError, match="No space left"):
            write()
        file.discard()
    started = set(threading.enumerate()) - others
    assert not [thread for thread in started if thread.name.startswith("lightning-dtool-write")]
