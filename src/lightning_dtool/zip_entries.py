"""The entries of a zip file that a stranger may have made, unpacked to no more than their stated sizes."""

import zipfile
from collections.abc import Iterable
from functools import partial

_CHUNK = 2**18


def compression_fault(entries: Iterable[zipfile.ZipInfo]) -> str | None:
    """Say which entry is compressed by a method that unpacks a whole block at once, however large; None if none is.

    NumPy and this package write entries that are stored or deflated.

    Args:
        entries: The entries.
    """
    for entry in entries:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return f"{entry.filename!r} in it is compressed by method {entry.compress_type}; only 8, deflate, is read"
    return None


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Return the content of an entry.

    Args:
        archive: The zip file.
        entry: The entry, which is stored or deflated.
    """
    # In pieces: to read it at once, Python unpacks all that is there and then cuts it to the stated size.
    with archive.open(entry) as file:
        return b"".join(iter(partial(file.read, _CHUNK), b""))
