"""Copies of files that are hashed on the way."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from lightning_dtool.store.digest import CHUNK, new_hash

# Windows translates line ends unless it is told not to.
_BINARY: int = getattr(os, "O_BINARY", 0)

_THREADS = 4
_BATCH = 32
"""Number of files that a thread takes at once. Passing on a small file takes as long as copying it."""


def copy_all(
    paths: Mapping[str, str | os.PathLike[str]],
    root: Path,
    on_copy: Callable[[str, int, str, str], object],
    guard: Callable[[str], AbstractContextManager[None]],
) -> None:
    """Copy files into a folder, several at a time. If it fails, the files for which `on_copy` was not called are gone.

    Args:
        paths: The files, by their relative paths in the folder. Nothing may exist there.
        root: The folder.
        on_copy: Called with the relative path, the size, the MD5 and the SHA-256 of each file, in the order of `paths`.
        guard: Returns the context manager in which a file is copied, by its relative path, to translate its errors.
    """
    relpaths = list(paths)

    def copy(relpath: str) -> tuple[str, int, str, str]:
        with guard(relpath):
            return relpath, *copy_hashed(paths[relpath], f"{root}/{relpath}")

    for directory, first in {relpath.rpartition("/")[0]: relpath for relpath in reversed(relpaths)}.items():
        with guard(first):
            os.makedirs(root / directory, exist_ok=True)
    batches = [relpaths[first : first + _BATCH] for first in range(0, len(relpaths), _BATCH)]
    finished: set[str] = set()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for batch in pool.map(lambda batch: [copy(relpath) for relpath in batch], batches):
                for copied in batch:
                    finished.add(copied[0])
                    on_copy(*copied)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            for relpath in paths.keys() - finished:
                (root / relpath).unlink(missing_ok=True)
            raise


def copy_hashed(source: str | os.PathLike[str], destination: str | os.PathLike[str]) -> tuple[int, str, str]:
    """Copy a file's content to a path where nothing exists yet.

    Args:
        source: The file.
        destination: The new file. It is removed if copying fails.

    Returns:
        The number of bytes, and their MD5 and SHA-256 in hexadecimal digits.

    Raises:
        OSError: If a file cannot be read or written, or if the destination exists.
    """
    md5, sha256 = new_hash("md5"), new_hash("sha256")
    size = 0
    # Most files are small: Python's file objects would take longer than the copying.
    reading = os.open(source, os.O_RDONLY | _BINARY)
    try:
        writing = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
        try:
            while chunk := os.read(reading, CHUNK):
                md5.update(chunk)
                sha256.update(chunk)
                size += len(chunk)
                rest = memoryview(chunk)
                while rest:
                    rest = rest[os.write(writing, rest) :]
        except BaseException:
            os.close(writing)
            os.unlink(destination)
            raise
        os.close(writing)
    finally:
        os.close(reading)
    return size, md5.hexdigest(), sha256.hexdigest()
