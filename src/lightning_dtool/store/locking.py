"""Locks between processes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


@contextlib.contextmanager
def locked(path: Path, *, timeout: float = -1) -> Iterator[None]:
    """Run the block in one process and thread at a time, or without a lock if the file system has none.

    Args:
        path: The file of the lock. Its folder exists.
        timeout: After how many seconds of waiting the block runs without the lock. By default never.
    """
    lock = FileLock(path)
    with contextlib.suppress(OSError, NotImplementedError, Timeout):
        lock.acquire(timeout)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def tried(path: Path) -> Iterator[bool]:
    """Run the block with a lock if it is free, and tell the block whether nobody else has it.

    Args:
        path: The file of the lock.

    Yields:
        False if another process or thread has the lock. True if not, also where the file system has no locks.
    """
    lock, is_free = FileLock(path), True
    try:
        lock.acquire(0)
    except Timeout:
        is_free = False
    except (OSError, NotImplementedError):
        pass
    try:
        yield is_free
    finally:
        lock.release()
