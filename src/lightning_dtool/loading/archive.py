"""Torch's checkpoint file: a zip file with a pickle and the storages that the pickle refers to."""

import mmap
import pickle
import struct
import zipfile
from pathlib import Path

import torch


def is_compressed(path: Path) -> bool:
    """Return True for a zip file with compressed entries, which may be a zip bomb. Torch writes none.

    Args:
        path: The file.
    """
    try:
        with zipfile.ZipFile(path) as opened:
            return any(entry.compress_type != zipfile.ZIP_STORED for entry in opened.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


class Archive:
    """The file, open for reading. Each method raises `pickle.UnpicklingError` for a file that torch did not write.

    Args:
        path: The file.
        mmap: Memory-map the storages instead of reading them.
    """

    def __init__(self, path: Path, mmap: bool = True) -> None:
        self._path = path
        self._mmap = mmap

    def __enter__(self) -> "Archive":
        if not zipfile.is_zipfile(self._path):
            raise pickle.UnpicklingError("it is not a zip file; PyTorch before 1.6 wrote another format")
        with self._path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with zipfile.ZipFile(self._path) as opened:
            # As torch does: all is in one folder, which the first entry names.
            folder = f"{opened.infolist()[0].filename.partition('/')[0]}/"
            inside = [entry for entry in opened.infolist() if entry.filename.startswith(folder)]
        self._entries = {entry.filename.removeprefix(folder): entry for entry in inside}
        if len(self._entries) < len(inside):
            raise pickle.UnpicklingError("two entries in it have the same name")
        if "constants.pkl" in self._entries:
            raise pickle.UnpicklingError("it is a TorchScript program")
        order = self.read("byteorder") if "byteorder" in self._entries else b"little"
        if order != b"little" or torch.tensor([1]).view(torch.uint8)[0] != 1:
            raise pickle.UnpicklingError("it was written on a machine with another byte order")
        self._whole = torch.UntypedStorage.from_file(str(self._path), False, self._path.stat().st_size)
        return self

    def __exit__(self, *_: object) -> None:
        self._bytes.close()

    def read(self, name: str) -> bytes:
        """Return the content of an entry."""
        start, size = self._extent(name)
        return self._bytes[start : start + size]

    def storage(self, key: str, size: int) -> torch.UntypedStorage:
        """Return a storage of the given number of bytes. Changes of it are not written to the file."""
        start, available = self._extent(f"data/{key}")
        if not 0 <= size <= available:
            raise pickle.UnpicklingError(f"the storage {key!r} has {available} bytes, expected {size}")
        mapped = self._whole[start : start + size]
        return mapped if self._mmap else mapped.clone()  # type: ignore[no-any-return]

    def _extent(self, name: str) -> tuple[int, int]:
        """Return where the content of an entry begins, and its size."""
        entry = self._entries.get(name)
        if entry is None:
            raise pickle.UnpicklingError(f"it holds no {name!r}")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"{name!r} in it is compressed")
        header = self._bytes[entry.header_offset : entry.header_offset + 30]
        name_size, extra_size = struct.unpack("<HH", header[26:30])
        start = entry.header_offset + 30 + name_size + extra_size
        if start + entry.file_size > len(self._bytes):
            raise pickle.UnpicklingError(f"{name!r} in it is cut off")
        return start, entry.file_size
