"""Safe reading of source.zip, which may come from a stranger: no file outside the folder, no zip bomb."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lightning_dtool import limits
from lightning_dtool.errors import CorruptDatasetError, LightningDtoolError, UnsafeDatasetError
from lightning_dtool.items import SOURCE_ITEM
from lightning_dtool.zip_entries import compression_fault, read_entry


def unpack(source_zip: Path, folder: Path, uri: str) -> None:
    """Unpack the recorded source.

    Args:
        source_zip: The verified `source.zip`.
        folder: Where its files go.
        uri: The dataset's URI, for errors.

    Raises:
        CorruptDatasetError: If it is not a zip file.
        UnsafeDatasetError: If it names files outside of the folder, or exceeds the limits of a source archive.
    """
    with _opened(source_zip, uri) as archive:
        for name in archive.namelist():
            refuse_outside(folder, name, uri)
        archive.extractall(folder)


def read_sources(archive: bytes, uri: str) -> dict[str, bytes]:
    """Return the files of a source.zip in memory, by their paths in the archive.

    Args:
        archive: The content of `source.zip`.
        uri: The dataset's URI, for errors.

    Raises:
        CorruptDatasetError: If it is not a zip file.
        UnsafeDatasetError: If it exceeds the limits of a source archive.
    """
    with _opened(io.BytesIO(archive), uri) as opened:
        return {entry.filename: read_entry(opened, entry) for entry in opened.infolist() if not entry.is_dir()}


def refuse_outside(folder: Path, name: str, uri: str) -> None:
    """Raise an error if a name in source.zip, or in its record, leads out of the folder.

    Args:
        folder: The folder.
        name: The name.
        uri: The dataset's URI, for errors.
    """
    if "\0" in name or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise UnsafeDatasetError(
            f"source.zip names {name!r}, which lies outside of it. Do not use it.", uri=uri, item=SOURCE_ITEM
        )


@contextmanager
def _opened(file: Path | IO[bytes], uri: str) -> Iterator[zipfile.ZipFile]:
    """Open an archive that is within the limits. Read errors, also in the block, become a CorruptDatasetError."""
    try:
        with zipfile.ZipFile(file) as archive:
            # The stated sizes can be trusted as limits: of these entries no more than that is unpacked.
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > limits.MAX_SOURCE_BYTES or len(entries) > limits.MAX_SOURCE_FILES:
                raise UnsafeDatasetError(
                    f"source.zip holds {len(entries)} files of {size} bytes, expected at most "
                    f"{limits.MAX_SOURCE_FILES} files of {limits.MAX_SOURCE_BYTES} bytes. This package did not write "
                    "it. Do not use it.",
                    uri=uri,
                    item=SOURCE_ITEM,
                )
            fault = compression_fault(entries)
            if fault is not None:
                raise UnsafeDatasetError(
                    f"source.zip cannot be read: {fault}. This package did not write it. Do not use it.",
                    uri=uri,
                    item=SOURCE_ITEM,
                )
            yield archive
    except LightningDtoolError:
        raise
    except Exception as error:  # zipfile raises whatever its decompressors, and the decoders of names, raise
        raise CorruptDatasetError(
            f"source.zip cannot be read ({type(error).__name__}: {error}). The dataset is damaged; restore it from a "
            "copy.",
            uri=uri,
            item=SOURCE_ITEM,
        ) from error
