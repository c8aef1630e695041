"""A memory of verified files, which later processes share."""

import contextlib
import json
import os
import stat
import struct
import tempfile
import time
import weakref
from array import array
from pathlib import Path
from typing import NamedTuple

from lightning_dtool.store.private import is_trusted, make_private, user_number

# The four properties of a mark, and the beginning of the recorded hash.
_ROW = struct.Struct("<QqqQ32s")
_SETTLED_NS = 20_000_000
"""How long after a file's last change its mark is not trusted: within a tick of the file system's clock, another change
would leave the mark as it is."""
_SETTLED_SECONDS_NS = 2_500_000_000
"""The same for a file system that keeps whole seconds."""

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)


class Mark(NamedTuple):
    """Properties of a file. At least one of them changes whenever the file does. No program can set `changed_ns`."""

    inode: int
    modified_ns: int
    changed_ns: int
    size: int


def mark(file: str | os.PathLike[str] | int) -> Mark:
    """Return a file's mark.

    Args:
        file: The file, or the descriptor of an open one.

    Raises:
        OSError: If the file does not exist.
    """
    return mark_of(os.stat(file))


def mark_of(status: os.stat_result) -> Mark:
    """Return the mark of a file with this status."""
    return Mark(status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def is_settled(found: tuple[int, int, int, int]) -> bool:
    """Tell whether any change from now on will change a file's mark. Ask before the file is read.

    Args:
        found: The mark.
    """
    changed_ns = found[2]
    tick = _SETTLED_NS if changed_ns % 1_000_000_000 else _SETTLED_SECONDS_NS
    return time.time_ns() - changed_ns >= tick


class VerifiedFiles:
    """The files of one directory whose hashes were found to be the recorded ones.

    Each is recorded as a line of one file in that directory. This file is read only if the user owns it and nobody else
    can write it.

    Args:
        directory: The directory.
    """

    def __init__(self, directory: Path) -> None:
        self._record = directory / f".verified-{user_number()}"
        self._known: dict[str, tuple[Mark, str]] | None = None

    def knows(self, name: str, found: Mark, recorded: str) -> bool:
        """Tell whether a file had the recorded hash and has not changed since.

        Args:
            name: The file's name.
            found: The file's mark.
            recorded: The recorded hash.
        """
        if self._known is None:
            self._known = self._read()
        return self._known.get(name) == (found, recorded)

    def add(self, name: str, found: Mark, recorded: str) -> None:
        """Remember that a file has the recorded hash.

        Args:
            name: The file's name.
            found: The file's mark.
            recorded: The recorded hash.
        """
        if self.knows(name, found, recorded):
            return
        assert self._known is not None  # noqa: S101 - `knows` has read it
        self._known[name] = found, recorded
        line = json.dumps([name, *found, recorded]) + "\n"
        # The record only saves time. A line is written in one step, so that several processes can append.
        with contextlib.suppress(OSError):
            descriptor = os.open(self._record, _APPEND, 0o600)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)

    def _read(self) -> dict[str, tuple[Mark, str]]:
        known = {}
        with contextlib.suppress(OSError), self._record.open(encoding="utf-8", errors="replace") as file:
            if not _is_users_alone(file.fileno()):
                return {}
            for line in file:
                # A full disk may have cut off a line.
                with contextlib.suppress(ValueError, TypeError):
                    name, inode, modified, changed, size, recorded = json.loads(line)
                    known[name] = Mark(inode, modified, changed, size), recorded
        return known


class VerifiedItems:
    """The items of one dataset on disk whose content was found to be the recorded one.

    Each has a row of fixed length in one file, so that several processes can read and write it at the same time, and
    none has to read all of it, however many items there are. The file is used only if the user owns it and nobody else
    can write it. If it cannot be written, there is one in the folder for temporary files. If that cannot be used
    either, this process alone remembers the items.

    Args:
        path: The file. It and its folder are created when an item is remembered.
        count: The number of items.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._descriptor: int | None = None
        # One hash per item, because a dict of marks would take thirty times as much memory.
        self._known = array("q", bytes(8 * count))

    def knows(self, position: int, found: tuple[int, int, int, int], recorded: str) -> bool:
        """Tell whether an item had the recorded hash and has not changed since.

        Args:
            position: The position of the item in the manifest.
            found: The mark of its file.
            recorded: The recorded hash.
        """
        key = hash((found, recorded))
        if self._known[position] == key:
            return True
        descriptor = self._descriptor or self._opened(create=False)
        if descriptor is None or os.pread(descriptor, _ROW.size, position * _ROW.size) != _row(found, recorded):
            return False
        self._known[position] = key
        return True

    def add(self, position: int, found: tuple[int, int, int, int], recorded: str) -> None:
        """Remember that an item has the recorded hash.

        Args:
            position: The position of the item in the manifest.
            found: The mark of its file, which was settled before the content was read; see `is_settled`.
            recorded: The recorded hash.
        """
        self._known[position] = hash((found, recorded))
        descriptor = self._descriptor or self._opened(create=True)
        if descriptor is not None:
            # The file only saves time: a row that a full disk cuts off is not equal to any.
            try:  # noqa: SIM105 - `suppress` takes as long as the write
                os.pwrite(descriptor, _row(found, recorded), position * _ROW.size)
            except OSError:
                pass

    def _opened(self, *, create: bool) -> int | None:
        if self._descriptor is None and hasattr(os, "pread"):
            # A folder for the user alone, because other users can write beside it.
            temporary = Path(tempfile.gettempdir(), f"lightning-dtool-verified-{user_number()}", self._path.name)
            for path in (self._path, temporary):
                self._descriptor = _open_own(path, create=create)
                if self._descriptor is not None:
                    weakref.finalize(self, os.close, self._descriptor)
                    break
        return self._descriptor


def _open_own(path: Path, *, create: bool) -> int | None:
    """Open a file to read and write; None if there is none, or if anybody else can write it."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    with contextlib.suppress(OSError):
        if create:
            make_private(path.parent)
        if not _is_own_folder(path.parent):
            return None
        descriptor = os.open(path, flags, 0o600)
        if _is_users_alone(descriptor):
            return descriptor
        os.close(descriptor)
    return None


def _is_own_folder(folder: Path) -> bool:
    status = os.lstat(folder)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == user_number() and is_trusted(status)


def _is_users_alone(descriptor: int) -> bool:
    """Tell whether an open file is a plain file that the user owns and nobody else can write."""
    status = os.fstat(descriptor)
    return (
        stat.S_ISREG(status.st_mode)
        and getattr(status, "st_uid", 0) == user_number()
        and not (os.name == "posix" and status.st_mode & 0o022)
    )


def _row(found: tuple[int, int, int, int], recorded: str) -> bytes:
    return _ROW.pack(*found, recorded.encode()[:32])
