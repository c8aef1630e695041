"""A file to write that hashes what passes through it."""

import contextlib
import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

from lightning_dtool.store.hashing_file import HashingFile


class Reluctant(io.FileIO):
    """Takes at most 3 bytes at a time, as a file system may."""

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
        file.finish()
    content = path.read_bytes()
    assert content.startswith(b"12345678\x01\x02\x03\x04")
    assert len(content) == size
    assert file.md5.hexdigest() == hashlib.md5(content).hexdigest()
    assert file.sha256.hexdigest() == hashlib.sha256(content).hexdigest()
