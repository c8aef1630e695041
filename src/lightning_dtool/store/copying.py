"""Copies of files that are hashed on the way."""

import os

from lightning_dtool.store.digest import CHUNK, new_hash

# Windows translates line ends unless it is told not to.
_BINARY: int = getattr(os, "O_BINARY", 0)


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
