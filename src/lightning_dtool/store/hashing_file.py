"""A file to write that hashes what passes through it."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from lightning_dtool.store.digest import new_hash


class HashingFile(io.RawIOBase):
    """Writes to another file and computes MD5 and SHA-256 on the way; it cannot seek.

    Args:
        raw: The unbuffered file to write to. It stays open when this one is closed.
        guard: Makes the context in which each write runs, to translate its errors.
    """

    def __init__(self, raw: io.FileIO, guard: Callable[[], AbstractContextManager[None]]) -> None:
        self._raw = raw
        self._guard = guard
        self._position = 0
        self.md5 = new_hash("md5")
        self.sha256 = new_hash("sha256")

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write all of the data.

        Args:
            data: Bytes, or anything with the buffer protocol.

        Returns:
            The number of bytes.
        """
        view = memoryview(data).cast("B")
        written = 0
        with self._guard():
            # A raw file may take less than it is given.
            while written < len(view):
                written += self._raw.write(view[written:])
        self.md5.update(view)
        self.sha256.update(view)
        self._position += len(view)
        return len(view)

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self._position
