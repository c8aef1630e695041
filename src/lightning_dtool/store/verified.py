"""A memory of verified files, which later processes share."""

import contextlib
import json
import os
from pathlib import Path
from typing import NamedTuple

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)


class Mark(NamedTuple):
    """Properties of a file. At least one of them changes whenever the file does. No program can set `changed_ns`."""

    inode: int
    modified_ns: int
    changed_ns: int
    size: int


def mark(path: Path) -> Mark:
    """Return a file's mark.

    Args:
        path: The file.

    Raises:
        OSError: If the file does not exist.
    """
    status = path.stat()
    return Mark(status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


class VerifiedFiles:
    """The files of one directory whose hashes were found to be the recorded ones.

    Each is recorded as a line of one file in that directory. This file is read only if the user owns it and nobody else
    can write it.

    Args:
        directory: The directory.
    """

    def __init__(self, directory: Path) -> None:
        user = os.getuid() if hasattr(os, "getuid") else 0
        self._record = directory / f".verified-{user}"
        self._user = user
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
            status = os.fstat(file.fileno())
            if getattr(status, "st_uid", 0) != self._user or (os.name == "posix" and status.st_mode & 0o022):
                return {}
            for line in file:
                # A full disk may have cut off a line.
                with contextlib.suppress(ValueError, TypeError):
                    name, inode, modified, changed, size, recorded = json.loads(line)
                    known[name] = Mark(inode, modified, changed, size), recorded
        return known
