"""The cache of decoded images in a memory-mapped file, so that later epochs and runs need not decode them."""

import base64
import hashlib
import json
import logging
import os
import secrets
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image, features
from PIL.TiffImagePlugin import IFDRational

from lightning_dtool._version import __version__
from lightning_dtool.store.locking import locked
from lightning_dtool.store.private import make_private, new_file_mode, open_private

logger = logging.getLogger(__name__)

# Increase this number if older files would be read wrongly.
_FORMAT = b"decoded1"
# The header: the format, the offset of the index, its length and its SHA-256. The pixels follow, then the index.
_HEADER = struct.Struct("<8sQQ32s")
_NOT_KEPT = -1

# Modes of images that can be rebuilt from their bytes; an image with a palette cannot.
_MODES = frozenset({"1", "L", "LA", "RGB", "RGBA", "F", "I", "I;16", "I;16B", "I;16L"})
_CHANNELS = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}


def decoder_versions() -> list[Any]:
    """Return the versions of all software that decodes images."""
    libraries = ("jpg", "jpg_2000", "libtiff", "webp", "zlib")
    return [__version__, PIL.__version__, *(features.version(library) for library in libraries)]


class _Kind(NamedTuple):
    """The properties of an image other than its pixels. They are often the same for all images of a dataset."""

    mode: str
    width: int
    height: int
    size: int
    format: str | None
    info: Any


class DecodedImages:
    """The decoded images of some items in one file.

    The file is written under another name and then renamed, so that readers never see an incomplete file. Damage is
    detected by the digest of the index when the file is opened, and by the checksum of each image when it is first
    used; the file is then removed. Items that are not images, images with a palette, and images whose metadata is not
    plain values are not in the file and must be decoded.

    Instances can be pickled; a copy opens the file again.

    Args:
        path: The file.
        count: The number of items.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self._count = count
        self._opened: _Opened | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map would hold the whole file.
        return {**vars(self), "_opened": None}

    def open(self) -> bool:
        """Open the file, unless it is open, and tell whether there is a complete one."""
        if self._opened is None:
            self._opened = _open(self.path, self._count)
        return self._opened is not None

    def fill(self, decode: Callable[[int], Any], advance: Callable[[int], object] = lambda position: None) -> None:
        """Write the file, unless there is a complete one.

        If several processes need the same file, one writes it while the others wait.

        Args:
            decode: A function from a position to the item's value. If it raises an error, the item is left out.
            advance: A function that is called with each finished position.

        Raises:
            OSError: If the file cannot be written.
        """
        if self.open():
            return
        make_private(self.path.parent)
        # The lock only saves duplicate work: each process writes a temporary file of its own.
        with locked(self.path.with_suffix(".lock")):
            if self.open():
                return
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}-{secrets.token_hex(4)}")
            try:
                _write(temporary, self._count, decode, advance)
                temporary.replace(self.path)
            finally:
                temporary.unlink(missing_ok=True)
        if not self.open():
            raise OSError(f"{self.path} was written but cannot be read")

    def image(self, position: int) -> Image.Image | None:
        """Return the decoded image of an item, with its mode, size, pixels, `format` and `info`.

        Args:
            position: The position of the item.

        Returns:
            The image; None if the file does not hold it.
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
        """Return the pixels of an image with 8 bits per channel.

        Args:
            position: The position of the item.

        Returns:
            A read-only array of shape (height, width) or (height, width, channels); None if the file does not hold such
            an image.
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
                logger.warning("%s is damaged. It is removed, and the next run writes it again.", self.path)
                self.path.unlink(missing_ok=True)
                opened.kind_of[position] = _NOT_KEPT
                return None
            opened.checked[position] = True
        return kind, data


class _Opened(NamedTuple):
    """A memory-mapped file and its index."""

    data: "np.ndarray[Any, Any]"
    kinds: list[_Kind]
    kind_of: "np.ndarray[Any, Any]"
    starts: "np.ndarray[Any, Any]"
    checksums: "np.ndarray[Any, Any]"
    checked: "np.ndarray[Any, Any]"


def _open(path: Path, count: int) -> _Opened | None:
    """Memory-map a file; None if there is no complete file."""
    try:
        # A file that only the user may change. Not a `np.memmap`, which takes several times as long to slice.
        with open(open_private(path), "rb") as file:
            data = np.asarray(np.memmap(file, np.uint8, "r"))
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
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        if (mode := new_file_mode()) != 0o600:
            os.fchmod(file.fileno(), mode)
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
        # A copy, because `frombuffer` returns a read-only array.
        arrays.append(np.frombuffer(index, dtype, count, place).copy())
        place += arrays[-1].nbytes
    kinds = [_Kind(**{**entry, "info": _restored(entry["info"])}) for entry in json.loads(index[place:])]
    return count, arrays[0], arrays[1], arrays[2], kinds


def _kept(decode: Callable[[int], Any], position: int) -> tuple[str, bytes] | None:
    """Return the kind of an image as JSON, and its pixels; None if the image cannot be rebuilt from them."""
    try:
        image = decode(position)
        if not isinstance(image, Image.Image) or image.mode not in _MODES:
            return None
        pixels = image.tobytes()
        kind = _Kind(image.mode, image.width, image.height, len(pixels), image.format, _plain(image.info))
        return json.dumps(kind._asdict()), pixels
    except Exception:
        # Decoding the item when it is used raises the error again.
        return None


def _plain(value: Any) -> Any:
    """Return a value as JSON; a value of a type that JSON lacks becomes an object with one key.

    Raises:
        TypeError: If the value is not a plain value.
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
