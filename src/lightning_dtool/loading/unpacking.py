"""Safe unpacking of source.zip, which may come from a stranger: no file outside the folder, no zip bomb."""

import zipfile
import zlib
from pathlib import Path

from lightning_dtool.errors import CorruptDatasetError, UnsafeDatasetError

MAX_EXTRACTED_BYTES = 500 * 2**20
"""Largest total size of the unpacked files."""


def unpack(source_zip: Path, folder: Path, uri: str) -> None:
    """Unpack the recorded source.

    Args:
        source_zip: The verified `source.zip`.
        folder: Where its files go.
        uri: The dataset's URI, for errors.

    Raises:
        CorruptDatasetError: If it is not a zip file.
        UnsafeDatasetError: If it names files outside of the folder, or if it is a zip bomb.
    """
    try:
        with zipfile.ZipFile(source_zip) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > MAX_EXTRACTED_BYTES:
                raise UnsafeDatasetError(
                    f"source.zip unpacks to {size} bytes, expected at most {MAX_EXTRACTED_BYTES}. Do not use it.",
                    uri=uri,
                )
            for name in archive.namelist():
                refuse_outside(folder, name, uri)
            archive.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise CorruptDatasetError(
            f"source.zip cannot be unpacked ({error}). The dataset is damaged; restore it from a copy.", uri=uri
        ) from error


def refuse_outside(folder: Path, name: str, uri: str) -> None:
    """Raise an error if a name in source.zip, or in its record, leads out of the folder.

    Args:
        folder: The folder.
        name: The name.
        uri: The dataset's URI, for errors.
    """
    if "\0" in name or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise UnsafeDatasetError(f"source.zip names {name!r}, which lies outside of it. Do not use it.", uri=uri)
