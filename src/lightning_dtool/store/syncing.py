"""What was written reaches the disk: a file, a directory, or a whole tree at the price of a few."""

import ctypes
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# A sync of the whole file system also waits for what others have written: not worth it for a checkpoint.
_FEW = 64
# A journal commits together what is asked of it at the same time.
_THREADS = 16

# Of the file systems whose syncfs(2) does what fsync(2) does for every file: ext2-4, XFS, Btrfs, F2FS. A network's
# need not wait for the server, FUSE's does not tell the program behind it, and overlayfs does not report errors.
_SYNCED_AS_A_WHOLE = frozenset({0xEF53, 0x58465342, 0x9123683E, 0xF2F52010})
# Before, syncfs(2) did not report that something could not be written.
_FIRST_HONEST_LINUX = (5, 8)


def sync_path(path: str | os.PathLike[str]) -> None:
    """Make a file's content, or the entries of a directory, durable.

    Args:
        path: The file or directory.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Make everything below a directory durable: files first, then the directories that name them.

    Many files are synced with the whole file system where that is as safe, which takes a small part of the
    time; elsewhere several at once.

    Args:
        root: The directory; its parent is synced, too.

    Raises:
        OSError: If something could not be written.
    """
    files: list[str] = []
    directories: list[str] = []
    for directory, _, names in os.walk(root, topdown=False):
        files += [os.path.join(directory, name) for name in names]
        directories.append(directory)
    if len(files) + len(directories) > _FEW and _sync_file_system(root):
        return
    _sync_all(files)
    _sync_all(directories)
    sync_path(root.parent)


def _sync_all(paths: Sequence[str]) -> None:
    # For a few files to start many threads would cost more than it saves.
    with ThreadPoolExecutor(min(_THREADS, 1 + len(paths) // 8)) as pool:
        for _ in pool.map(sync_path, paths):
            pass


def _sync_file_system(path: Path) -> bool:
    """Sync the whole file system that a directory is on, if that is known to be as safe; tell whether it was done."""
    if sys.platform != "linux" or _linux_release() < _FIRST_HONEST_LINUX:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not (hasattr(libc, "fstatfs") and hasattr(libc, "syncfs")):
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # struct statfs begins with the type, a long (on s390 an int); 512 bytes are ample for the rest.
        status = (ctypes.c_long * 64)()
        if libc.fstatfs(descriptor, status) or status[0] & 0xFFFFFFFF not in _SYNCED_AS_A_WHOLE:
            return False
        if libc.syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)
    return True


def _linux_release() -> tuple[int, int]:
    """Return the first two numbers of the kernel's release; zeros if they cannot be read."""
    parts = os.uname().release.split(".")
    try:
        return int(parts[0]), int(parts[1].split("-")[0])
    except (IndexError, ValueError):
        return 0, 0
