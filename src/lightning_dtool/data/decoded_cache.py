"""Decoded images in a memory-mapped file, so that the next epoch, or run, need not decode them again."""

import base64
import contextlib
import hashlib
import json
import logging
import os
import secrets
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from filelock import FileLock
from PIL import Image, features
from PIL.TiffImagePlugin import IFDRational

from lightning_dtool._version import __version__

logger = logging.getLogger(__name__)

# Raised whenever a file of before would be read wrongly.
_FORMAT = b"decoded1"
# The format, where the index begins, how long it is, its SHA-256; then the pixels, then the index.
_HEADER = struct.Struct("<8sQQ32s")
_NOT_KEPT = -1

# Those whose bytes make the same image again; palettes are not pixels alone.
_MODES = frozenset({"1", "L", "LA", "RGB", "RGBA", "F", "I", "I;16", "I;16B", "I;16L"})
_CHANNELS = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}


def decoder_versions() -> list[Any]:
    """Return all that decides what this package makes of an image file."""
    libraries = ("jpg", "jpg_2000", "libtiff", "webp", "zlib")
    return [__version__, PIL.__version__, *(features.version(library) for library in libraries)]


class _Kind(NamedTuple):
    """What images have in common, most often all of a dataset."""

    mode: str
    width: int
    height: int
    size: int
    format: str | None
    info: Any


class DecodedImages:
    """The images that some items decode to, in a file of their own.

    The file is written aside and moved to its place whole, so that nobody sees half of one. A damaged one is
    noticed, by the digest of its index when it is opened and by the checksum of each image when it is first
    used, and then removed. What it does not hold has to be decoded: items that are no images, palettes, and images
    with metadata that is no plain value.

    Instances can be pickled; the copy opens the file again.

    Args:
        path: The file.
        count: How many items there are.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self._count = count
        self._opened: _Opened | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map is the whole file.
        return {**vars(self), "_opened": None}

    def open(self) -> bool:
        """Open the file, unless it is open; tell whether there is a sound one."""
        if self._opened is None:
            self._opened = _open(self.path, self._count)
        return self._opened is not None

    def fill(self, decode: Callable[[int], Any], advance: Callable[[int], object] = lambda position: None) -> None:
        """Write the file, unless there is a sound one.

        Of several processes that want the same file one writes it, and the others wait for it.

        Args:
            decode: Gives the value of the item at a position. If it raises, the item is not kept.
            advance: Called with each position that is done.

        Raises:
            OSError: If the file cannot be written.
        """
        if self.open():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path.with_suffix(".lock")):
            if self.open():
                return
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}-{secrets.token_hex(4)}")
            try:
                _write(temporary, self._count, decode, advance)
                temporary.replace(self.path)
            finally:
                temporary.unlink(missing_ok=True)
        if not self.open():
            raise OSError(f"{self.path} was written and cannot be read")

    def image(self, position: int) -> Image.Image | None:
        """Return an image as it was decoded, with its mode, size, pixels, `format` and `info`; None if it is not kept.

        Args:
            position: The item's.
        """
        found = self._bytes(position)
        if found is None:
            return None
        kind, data = found
        image = Image.frombytes(kind.mode, (kind.width, kind.height), data)
        image.format = kind.format
        image.info = dict(kind.info)
        return image

    def pixels(self, position: int) -> "np.ndarray[Any, Any] | None":
        """Return the pixels of an image of 8 bits per channel, not to be written to; None if none such is kept.

        Args:
            position: The item's.

        Returns:
            An array of shape (height, width), or (height, width, channels).
        """
        found = self._bytes(position)
        if found is None or found[0].mode not in _CHANNELS:
            return None
        kind, data = found
        return data.reshape(kind.height, kind.width, *_CHANNELS[kind.mode])

    def _bytes(self, position: int) -> "tuple[_Kind, np.ndarray[Any, Any]] | None":
        opened = self._opened
        if opened is None:
            return None
        kind_number = opened.kind_of[position]
        if kind_number == _NOT_KEPT:
            return None
        kind = opened.kinds[kind_number]
        start = opened.starts[position]
        data = opened.data[start : start + kind.size]
        if not opened.checked[position]:
            if zlib.crc32(data.data) != opened.checksums[position]:
                logger.warning("%s is damaged: it is removed, and written again by the next run.", self.path)
                self.path.unlink(missing_ok=True)
                opened.kind_of[position] = _NOT_KEPT
                return None
            opened.checked[position] = True
        return kind, data


class _Opened(NamedTuple):
    """A file, mapped, and its index."""

    data: "np.ndarray[Any, Any]"
    kinds: list[_Kind]
    kind_of: "np.ndarray[Any, Any]"
    starts: "np.ndarray[Any, Any]"
    checksums: "np.ndarray[Any, Any]"
    checked: "np.ndarray[Any, Any]"


def _open(path: Path, count: int) -> _Opened | None:
    """Map a file; None if there is none or it is not whole."""
    try:
        # A plain array: slices of a memmap take several times as long.
        data = np.asarray(np.memmap(path, np.uint8, "r"))
    except (OSError, ValueError):
        return None
    if len(data) < _HEADER.size:
        return None
    written_format, offset, length, digest = _HEADER.unpack(data[: _HEADER.size].tobytes())
    index = data[offset : offset + length].tobytes()
    if written_format != _FORMAT or offset + length != len(data) or hashlib.sha256(index).digest() != digest:
        return None
    found, starts, kind_of, checksums, kinds = _unpacked(index)
    if found != count:
        return None
    return _Opened(data, kinds, kind_of, starts, checksums, np.zeros(count, dtype=bool))


def _write(path: Path, count: int, decode: Callable[[int], Any], advance: Callable[[int], object]) -> None:
    starts = np.zeros(count, dtype="<i8")
    kind_of = np.full(count, _NOT_KEPT, dtype="<i4")
    checksums = np.zeros(count, dtype="<u4")
    kinds: dict[str, int] = {}
    with path.open("xb") as file:
        file.write(bytes(_HEADER.size))
        for position in range(count):
            kept = _kept(decode, position)
            if kept is not None:
                kind, pixels = kept
                starts[position] = file.tell()
                kind_of[position] = kinds.setdefault(kind, len(kinds))
                checksums[position] = zlib.crc32(pixels)
                file.write(pixels)
            advance(position)
        offset = file.tell()
        index = _packed(count, starts, kind_of, checksums, list(kinds))
        file.write(index)
        file.seek(0)
        file.write(_HEADER.pack(_FORMAT, offset, len(index), hashlib.sha256(index).digest()))
        file.flush()
        os.fsync(file.fileno())


def _packed(count: int, *parts: Any) -> bytes:
    *arrays, kinds = parts
    return struct.pack("<Q", count) + b"".join(array.tobytes() for array in arrays) + f"[{','.join(kinds)}]".encode()


def _unpacked(index: bytes) -> tuple[int, Any, Any, Any, list[_Kind]]:
    (count,) = struct.unpack_from("<Q", index)
    place, arrays = 8, []
    for dtype in ("<i8", "<i4", "<u4"):
        # A copy, which can be written to.
        arrays.append(np.frombuffer(index, dtype, count, place).copy())
        place += arrays[-1].nbytes
    kinds = [_Kind(**{**entry, "info": _restored(entry["info"])}) for entry in json.loads(index[place:])]
    return count, arrays[0], arrays[1], arrays[2], kinds


def _kept(decode: Callable[[int], Any], position: int) -> tuple[str, bytes] | None:
    """Return the kind of an image as JSON, and its pixels; None if it would not come back the same."""
    try:
        image = decode(position)
        if not isinstance(image, Image.Image) or image.mode not in _MODES:
            return None
        pixels = image.tobytes()
        kind = _Kind(image.mode, image.width, image.height, len(pixels), image.format, _plain(image.info))
        return json.dumps(kind._asdict()), pixels
    except Exception:
        # Whoever uses the item hears of what is wrong with it.
        return None


def _plain(value: Any) -> Any:
    """Write what JSON does not have as an object with one key.

    Raises:
        TypeError: For what is no plain value.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is bytes:
        return {"bytes": base64.b85encode(value).decode()}
    if type(value) is IFDRational:
        return {"rational": [value.numerator, value.denominator]}
    if type(value) is tuple:
        return {"tuple": [_plain(entry) for entry in value]}
    if type(value) is list:
        return [_plain(entry) for entry in value]
    if type(value) is dict:
        return {"dict": [[_plain(key), _plain(entry)] for key, entry in value.items()]}
    raise TypeError


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "bytes":
        return base64.b85decode(content)
    if tag == "rational":
        return IFDRational(*content)
    if tag == "tuple":
        return tuple(_restored(entry) for entry in content)
    return {_restored(key): _restored(entry) for key, entry in content}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time into the block; all of them where the file system has no locks."""
    lock = FileLock(path)
    # It only keeps processes from doing the same work: each writes to a file of its own.
    with contextlib.suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
