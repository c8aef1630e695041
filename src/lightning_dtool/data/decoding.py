"""Decoders of items into tensors, images and text, by the item's suffix."""

import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image

from lightning_dtool import limits
from lightning_dtool.loading.archive import is_compressed
from lightning_dtool.loading.bounds import check_bounds
from lightning_dtool.zip_entries import compression_fault

# Pillow would open any format, whatever the suffix: for PostScript it starts a program. These may stand in for one
# another, because files with the wrong one of these suffixes are common, also in well-known data sets.
_USUAL = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
_FORMATS = {
    **dict.fromkeys([".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"], _USUAL),
    **dict.fromkeys([".tif", ".tiff"], ("TIFF",)),
    **dict.fromkeys([".pbm", ".pgm", ".pnm", ".ppm"], ("PPM",)),
}
IMAGE_SUFFIXES = frozenset(_FORMATS)
TEXT_SUFFIXES = frozenset([".csv", ".json", ".md", ".text", ".tsv", ".txt", ".xml", ".yaml", ".yml"])

_KEPT_MODES = frozenset({"1", "L", "LA", "RGB", "RGBA", "F", "I", "I;16", "I;16B", "I;16L"})


def decoder_for(relpath: str) -> Callable[[Any], Any]:
    """Return the decoder for an item's suffix, in upper or lower case.

    Args:
        relpath: The item's path in its dataset. The local file may have another name.

    Returns:
        A function from the path of a local file to a PIL image (`IMAGE_SUFFIXES`), a tensor (`.npy`), a dict of tensors
        by name (`.npz`), the object that was saved (`.pt`, `.pth`), a str (`TEXT_SUFFIXES`), or else bytes. The
        decoders in `FROM_FILES` also take an open file.

    Example:
        >>> decoder_for("notes/README.TXT").__name__
        'read_text'
    """
    # Not `PurePosixPath`, which would take most of the time of this function, and it is called for each sample.
    stem, dot, suffix = relpath.rpartition("/")[2].rpartition(".")
    return _decoders().get(suffix.lower(), read_bytes) if stem and dot else read_bytes


@cache
def _decoders() -> dict[str, Callable[[Any], Any]]:
    """Return the decoders by suffix, without the dot."""
    decoders: dict[str, Callable[[Any], Any]] = {suffix[1:]: reader for suffix, reader in _READERS.items()}
    decoders |= {suffix[1:]: read_text for suffix in TEXT_SUFFIXES}
    return decoders | {"npy": read_array, "npz": read_arrays, "pt": read_torch, "pth": read_torch}


def read_image(source: str | Path | BinaryIO, formats: tuple[str, ...] = _USUAL) -> Image.Image:
    """Read an image; if it has several frames, the first one.

    An image of another format is not identified. Pillow's limit of pixels, `PIL.Image.MAX_IMAGE_PIXELS`, applies.

    Grey (8 and 16 bits), grey with alpha, RGB and RGBA images keep their mode. Images with a palette or another colour
    space (CMYK, YCbCr, …) are converted to RGB, as in torchvision's `ImageFolder`.
    """
    image: Image.Image
    with Image.open(source, formats=formats) as image:
        image.load()
        if image.mode in _KEPT_MODES:
            return image.copy() if getattr(image, "n_frames", 1) > 1 else image
        return image.convert("RGB")


_READERS = {suffix: partial(read_image, formats=formats) for suffix, formats in _FORMATS.items()}


def image_to_tensor(image: Image.Image) -> torch.Tensor:
    """Convert an image to a float32 tensor of shape (channels, height, width) with values from 0 to 1.

    Args:
        image: The image. 8-bit values are divided by 255 and 16-bit values by 65535; 1-bit values become 0 or 1. A
            32-bit float image keeps its values.

    Returns:
        A float32 tensor with 1 channel for grey, 2 for grey with alpha, 3 for RGB, and 4 for RGBA.

    Raises:
        ValueError: If the image has 32-bit integer pixels, which have no largest value to scale by.

    Example:
        >>> image_to_tensor(Image.new("RGB", (4, 3), (255, 0, 0)))[:, 0, 0].tolist()
        [1.0, 0.0, 0.0]
    """
    if image.mode == "1":
        image = image.convert("L")
    # Pillow before 11 opens 16-bit grey PNG and PGM files as 32-bit integers.
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode == "I" and not sixteen_bits:
        raise ValueError("32-bit integer pixels have no largest value to scale by; pass decoder=... to scale them")
    return pixels_to_tensor(np.asarray(image), 65535 if sixteen_bits else None if image.mode == "F" else 255)


def pixels_to_tensor(pixels: np.ndarray[Any, Any], largest: int | None) -> torch.Tensor:
    """Convert pixels to a float32 tensor of shape (channels, height, width).

    Args:
        pixels: An array of shape (height, width) or (height, width, channels). It is copied.
        largest: The value that becomes 1; None to keep the values.

    Example:
        >>> pixels_to_tensor(np.array([[0, 255]], dtype=np.uint8), 255).tolist()
        [[[0.0, 1.0]]]
    """
    channels_first = pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    tensor = torch.from_numpy(channels_first.astype(np.float32, order="C"))
    return tensor if largest is None else tensor.div_(largest)


def after_to_tensor(transform: Any) -> Sequence[Callable[[Any], Any]] | None:
    """Return the transforms that follow torchvision's `ToTensor` in a transform that begins with it.

    For an image with 8 bits per channel, `ToTensor` and `pixels_to_tensor` return bitwise equal tensors.

    Args:
        transform: A transform, or a `Compose` of several.

    Returns:
        The rest of the transforms; None if the transform does not begin with `ToTensor`.
    """
    torchvision = sys.modules.get("torchvision.transforms")  # None: nothing has imported it
    if torchvision is None or torch.get_default_dtype() is not torch.float32:
        return None
    chain: list[Any] = transform.transforms if type(transform) is torchvision.Compose else [transform]
    return chain[1:] if chain and type(chain[0]) is torchvision.ToTensor else None


def read_array(path: str | Path) -> torch.Tensor:
    """Read a `.npy` file as a tensor of the same dtype. The file is memory-mapped."""
    return array_to_tensor(open_array(path))


def open_array(path: str | Path) -> np.ndarray[Any, Any]:
    """Memory-map a `.npy` file. Writing to the array does not change the file."""
    # Copy-on-write instead of read-only, because torch warns about read-only arrays. Not `np.load`, which opens other
    # formats as well.
    return np.lib.format.open_memmap(path, mode="c")


def read_arrays(source: str | Path | BinaryIO) -> dict[str, torch.Tensor]:
    """Read a `.npz` file as a dict of tensors by name, each with the dtype of its array.

    Raises:
        ValueError: If it holds something else, or unpacks to more than `limits` allows.
    """
    with zipfile.ZipFile(source) as archive:
        entries = archive.infolist()
        _refuse_bomb(archive, entries)
        return {entry.filename.removesuffix(".npy"): array_to_tensor(_array(archive, entry)) for entry in entries}


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    with archive.open(entry) as file:  # numpy reads it in pieces
        return np.lib.format.read_array(file, allow_pickle=False)


def _refuse_bomb(archive: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo]) -> None:
    fault = compression_fault(entries)
    if fault is not None:
        raise ValueError(fault)
    assert archive.fp is not None  # noqa: S101 - it is open
    size, unpacked = archive.fp.seek(0, os.SEEK_END), sum(entry.file_size for entry in entries)
    if unpacked > max(limits.MAX_ARRAYS_BYTES, limits.MAX_ARRAYS_RATIO * size):
        raise ValueError(
            f"its arrays have {unpacked} bytes, and the file {size}; expected at most {limits.MAX_ARRAYS_BYTES} bytes,"
            f" or {limits.MAX_ARRAYS_RATIO} times the size of the file"
        )


def array_to_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """Convert an array to a tensor of the same dtype, which shares memory with the array if possible.

    Args:
        array: Numbers or bools in any byte order.

    Returns:
        A tensor in the machine's byte order.

    Raises:
        TypeError: If torch has no such dtype (strings, dates, records, long doubles).
    """
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    try:
        # np.asarray unwraps a np.memmap without a copy, and turns a scalar into an array.
        return torch.from_numpy(np.asarray(array))
    except TypeError as error:
        raise TypeError(f"torch has no dtype for NumPy's {array.dtype}; pass decoder=... to convert it") from error


def read_torch(path: str | Path) -> Any:
    """Load a file that `torch.save` wrote onto the CPU. The load is safe: it accepts only tensors and plain values."""
    if is_compressed(Path(path)):
        raise ValueError("its entries are compressed, which torch never does, and may unpack to any size")
    # Only zip archives can be memory-mapped; before torch 1.6, files had another format.
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    check_bounds(content, os.path.getsize(path))
    return content


def read_text(source: str | Path | BinaryIO) -> str:
    """Read UTF-8 text without converting line endings."""
    return read_bytes(source).decode("utf-8")


def read_bytes(source: str | Path | BinaryIO) -> bytes:
    """Read the bytes of a file."""
    return Path(source).read_bytes() if isinstance(source, (str, Path)) else source.read()


FROM_FILES = frozenset({*_READERS.values(), read_arrays, read_text, read_bytes})
"""The decoders that take the path of a file, or the open file. The others memory-map the file."""
