"""The content of checkpoint files, read without running code from them."""

import contextlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_dtool.errors import LightningDtoolError, NotACheckpointError, UnsafeCheckpointError
from lightning_dtool.loading.archive import Archive, is_compressed
from lightning_dtool.loading.bounds import check_bounds
from lightning_dtool.loading.unpickler import MapLocation, Reader
from lightning_dtool.loading.unread import Unread


def load_safely(path: Path, *, map_location: MapLocation = "cpu", mmap: bool = True, uri: str | None = None) -> Any:
    """Load a checkpoint file without running code from it: as torch does, or if torch refuses the file, with `Unread`.

    Args:
        path: The file.
        map_location: Where tensors are loaded, as in `torch.load`. Default: the CPU.
        mmap: Memory-map the tensors, so that they are read when they are used. Default: True.
        uri: The dataset's URI, for errors.

    Raises:
        UnsafeCheckpointError: If neither can read the file, or it stands for much more than it can hold.
    """
    if is_compressed(path):  # torch would unpack any size
        return read_checkpoint(path, map_location=map_location, mmap=mmap, uri=uri)
    try:
        loaded = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except Exception:  # the content may be anything
        return read_checkpoint(path, map_location=map_location, mmap=mmap, uri=uri)
    with _refusing(path, uri):
        check_bounds(loaded, path.stat().st_size)
    return loaded


def state_dict_of(checkpoint: Any, uri: str) -> Mapping[str, Any]:
    """Return the weights in a Lightning checkpoint.

    Args:
        checkpoint: The content of the file.
        uri: The dataset's URI, for errors.

    Raises:
        NotACheckpointError: If it holds none.
    """
    found = checkpoint.get("state_dict") if isinstance(checkpoint, Mapping) else None
    if not isinstance(found, Mapping) or isinstance(found, Unread):
        held = ", ".join(map(str, checkpoint)) if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise NotACheckpointError(
            f"expected a Lightning checkpoint with a 'state_dict', found {held or 'nothing'}. Only a checkpoint that a"
            " Trainer saved has weights under that name.",
            uri=uri,
        )
    return found


def read_checkpoint(
    path: Path,
    *,
    map_location: MapLocation = "cpu",
    mmap: bool = True,
    known: Mapping[str, Any] | None = None,
    uri: str | None = None,
) -> Any:
    """Read a checkpoint file without running code from it.

    Args:
        path: The file, in the zip format that `torch.save` writes since PyTorch 1.6.
        map_location: Where tensors are loaded, as in `torch.load`. Default: the CPU.
        mmap: Memory-map the tensors, so that they are read when they are used. Default: True.
        known: Classes and functions to use, by the full names that the file may give them, such as `train.Config`.
            They are called with what the file says. Default: none. Those of `torch.serialization.add_safe_globals`
            are used, too.
        uri: The dataset's URI, for errors.

    Returns:
        What was saved, with an `Unread` in place of each object that is neither a tensor nor a plain value.

    Raises:
        UnsafeCheckpointError: If the file cannot be read in this way: it is damaged, compressed, or has the older
            format, or its tensors do not fit their storages.
    """
    with _refusing(path, uri), Archive(path, mmap) as archive:
        content = Reader(archive, map_location, known or {}, uri).load()
        check_bounds(content, path.stat().st_size)
        return content


def unknown_names(path: Path, uri: str | None = None) -> set[str]:
    """Return the full names of the classes and functions in a checkpoint file that a safe load does not know.

    Args:
        path: The file.
        uri: The dataset's URI, for errors.

    Raises:
        UnsafeCheckpointError: As for `read_checkpoint`.
    """
    with _refusing(path, uri), Archive(path) as archive:
        reader = Reader(archive, "cpu", {}, uri)
        reader.load()
        return reader.unknown


@contextlib.contextmanager
def _refusing(path: Path, uri: str | None) -> Iterator[None]:
    try:
        yield
    except LightningDtoolError:
        raise
    except Exception as error:  # the content may be anything
        raise UnsafeCheckpointError(
            f"{path.name} cannot be read safely: {error or type(error).__name__}. It is not a file as torch.save writes"
            " it, or it is damaged. Load it with weights_only=False only if you trust its origin.",
            uri=uri,
            path=path,
        ) from error


def check_objects(content: Any, path: Path, uri: str) -> None:
    """Raise an error if objects that were not made say so much that it cannot be compared.

    Args:
        content: The result of `load_safely`, or parts of it.
        path: The file.
        uri: The dataset's URI, for errors.

    Raises:
        UnsafeCheckpointError: If they do.
    """
    with _refusing(path, uri):
        check_bounds(content, path.stat().st_size, (Mapping, list, tuple), _DEPTH_OF_OBJECTS)


_DEPTH_OF_OBJECTS = 20
"""The depth to which objects are compared. Their parts often refer back to them, so there is no end."""
