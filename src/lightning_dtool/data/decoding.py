"""From the bytes of an item to a tensor, an image or text, chosen by the item's suffix."""

import sys
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

IMAGE_SUFFIXES = frozenset(
    [".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"]
)
TEXT_SUFFIXES = frozenset([".csv", ".json", ".md", ".text", ".tsv", ".txt", ".xml", ".yaml", ".yml"])

_KEPT_MODES = frozenset({"1", "L", "LA", "RGB", "RGBA", "F", "I", "I;16", "I;16B", "I;16L"})


def decoder_for(relpath: str) -> Callable[[str | Path], Any]:
    """Choose a decoder by an item's suffix; case does not matter.

    Args:
        relpath: The item's name in its dataset. The local file may be called otherwise.

    Returns:
        A function from a local path to: a PIL image (`IMAGE_SUFFIXES`), a tensor (`.npy`), a dict of
        tensors by name (`.npz`), what was saved (`.pt`, `.pth`), a str (`TEXT_SUFFIXES`), else bytes.

    Example:
        >>> decoder_for("notes/README.TXT").__name__
        'read_text'
    """
    # By hand: it happens for each sample, and a PurePosixPath takes longer than the rest.
    stem, dot, suffix = relpath.rpartition("/")[2].rpartition(".")
    return _decoders().get(suffix.lower(), read_bytes) if stem and dot else read_bytes


@cache
def _decoders() -> dict[str, Callable[[str | Path], Any]]:
    """Return the decoders by suffix, without its dot."""
    decoders: dict[str, Callable[[str | Path], Any]] = {suffix[1:]: read_image for suffix in IMAGE_SUFFIXES}
    decoders |= {suffix[1:]: read_text for suffix in TEXT_SUFFIXES}
    return decoders | {"npy": read_array, "npz": read_arrays, "pt": read_torch, "pth": read_torch}


def read_image(path: str | Path) -> Image.Image:
    """Read an image whole; of several frames, the first.

    Grey (8 and 16 bit), grey with alpha, RGB and RGBA images keep their mode. Palettes and colour
    spaces that no model expects (CMYK, YCbCr, …) become RGB, as in torchvision's `ImageFolder`.
    """
    image: Image.Image
    with Image.open(path) as image:
        image.load()
        if image.mode in _KEPT_MODES:
            return image.copy() if getattr(image, "n_frames", 1) > 1 else image
        return image.convert("RGB")


def image_to_tensor(image: Image.Image) -> torch.Tensor:
    """Turn an image into a float tensor of shape (channels, height, width) with values in [0, 1].

    Args:
        image: 8-bit values are divided by 255, 16-bit values by 65535, and black and white is 0 and 1.
            A 32-bit float image keeps its values, whatever their range.

    Returns:
        A float32 tensor; 1 channel for grey, 2 for grey with alpha, 3 for RGB, 4 for RGBA.

    Raises:
        ValueError: For 32-bit integers, which have no natural scale.

    Example:
        >>> image_to_tensor(Image.new("RGB", (4, 3), (255, 0, 0)))[:, 0, 0].tolist()
        [1.0, 0.0, 0.0]
    """
    if image.mode == "1":
        image = image.convert("L")
    # Pillow before 11 opens 16-bit grey PNG and PGM files as 32-bit integers.
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode == "I" and not sixteen_bits:
        raise ValueError(
            "it has 32-bit integer pixels, which have no natural scale to [0, 1]; pass decoder=... to scale them"
        )
    return pixels_to_tensor(np.asarray(image), 65535 if sixteen_bits else None if image.mode == "F" else 255)


def pixels_to_tensor(pixels: np.ndarray[Any, Any], largest: int | None) -> torch.Tensor:
    """Turn pixels into a float32 tensor of shape (channels, height, width).

    Args:
        pixels: Of shape (height, width) or (height, width, channels). They are copied.
        largest: What becomes 1. None leaves the values as they are.

    Example:
        >>> pixels_to_tensor(np.array([[0, 255]], dtype=np.uint8), 255).tolist()
        [[[0.0, 1.0]]]
    """
    channels_first = pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    tensor = torch.from_numpy(channels_first.astype(np.float32, order="C"))
    return tensor if largest is None else tensor.div_(largest)


def after_to_tensor(transform: Any) -> Sequence[Callable[[Any], Any]] | None:
    """Return what follows in a transform that begins with torchvision's `ToTensor`; None if it does not.

    Of an image of 8 bits per channel `ToTensor` makes what `pixels_to_tensor` makes, bit for bit.

    Args:
        transform: A transform, or a `Compose` of several.
    """
    torchvision = sys.modules.get("torchvision.transforms")  # else nobody can have made one
    if torchvision is None or torch.get_default_dtype() is not torch.float32:
        return None
    chain: list[Any] = transform.transforms if type(transform) is torchvision.Compose else [transform]
    return chain[1:] if chain and type(chain[0]) is torchvision.ToTensor else None


def read_array(path: str | Path) -> torch.Tensor:
    """Read a `.npy` file as a tensor of its own dtype; the file is memory-mapped, not read into memory."""
    return array_to_tensor(open_array(path))


def open_array(path: str | Path) -> np.ndarray[Any, Any]:
    """Memory-map a `.npy` file, copy-on-write: writing to the array never changes the file."""
    # Copy-on-write rather than read-only, because torch warns of arrays that it must not write to.
    array: np.ndarray[Any, Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    return array


def read_arrays(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a `.npz` file as a dict of tensors by name, each of its own dtype."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: array_to_tensor(archive[name]) for name in archive.files}


def array_to_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """Turn an array into a tensor of the same dtype; memory is shared where it can be.

    Args:
        array: Numbers or bools in any byte order.

    Returns:
        A tensor of the array's dtype, in the machine's byte order.

    Raises:
        TypeError: For a dtype that torch does not have (strings, dates, records, long doubles).
    """
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    try:
        # np.array(...) unwraps np.memmap and gives 0-d arrays a place of their own; it does not copy.
        return torch.from_numpy(np.asarray(array))
    except TypeError as error:
        raise TypeError(f"torch has no dtype for NumPy's {array.dtype}; pass decoder=... to convert it") from error


def read_torch(path: str | Path) -> Any:
    """Load what `torch.save` wrote, onto the CPU; safely, that is tensors and plain values only."""
    # Only zip archives can be memory-mapped, and files from before torch 1.6 are none.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def read_text(path: str | Path) -> str:
    """Read UTF-8 text; line ends stay as they are."""
    return read_bytes(path).decode("utf-8")


def read_bytes(path: str | Path) -> bytes:
    """Read a file as it is."""
    return Path(path).read_bytes()
