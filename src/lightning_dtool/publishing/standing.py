"""A file that was saved at a path, and whether it still stands there."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StandingFile:
    """A plain checkpoint file at one of Lightning's paths.

    Attributes:
        path: The path.
        identity: Device, inode, size and time of the last change, just after it was saved.
    """

    path: Path
    identity: tuple[int, int, int, int]

    @classmethod
    def at(cls, path: Path) -> "StandingFile":
        """Return the file that stands at a path.

        Args:
            path: The path.
        """
        return cls(path, _identity(os.stat(path)))

    def is_there(self) -> bool:
        """Return True if the file still stands at its path, unchanged. The name may be a link to it."""
        try:
            return _identity(os.stat(self.path)) == self.identity
        except OSError:
            return False


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
