"""What stands at Lightning's own checkpoint path: a link to the item of a dataset, or a file; before, a placeholder."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def reserve(path: Path) -> None:
    """Put an empty file at a path where nothing is, so that it counts as taken.

    ModelCheckpoint looks for existing files when it chooses a name. A checkpoint that is still being
    written must be one of them, or a second one would get its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(path):
        path.touch()


def free(path: Path) -> None:
    """Remove what `reserve` has put at a path; anything else stays.

    Args:
        path: The path.
    """
    if path.is_file() and not path.is_symlink() and not path.stat().st_size:
        path.unlink()


def link(target: Path, path: Path) -> None:
    """Let a path lead to an item: by a symbolic link, else a hard link, else a copy.

    What stood at the path is replaced in one step: nobody sees it missing or half written.

    Args:
        target: The item, by an absolute path.
        path: Where it should appear.
    """
    _replace(target, path, (os.symlink, os.link, shutil.copyfile))


def duplicate(source: Path, path: Path) -> None:
    """Let a plain file appear at a second path, so that either can be removed: by a hard link, else a copy."""
    _replace(source, path, (os.link, shutil.copyfile))


def write(state: Mapping[str, Any], path: Path) -> None:
    """Write a plain checkpoint file, as Lightning reads it; it is there as a whole or not at all.

    Unlike Lightning, which builds the file in memory first, this writes it as it is made.

    Args:
        state: The checkpoint.
        path: Where it goes. What stands there is replaced; a link is, and not what it leads to.
    """
    # Buffered, because torch does not look how much a file has taken: one without a buffer takes 2 GiB at most.
    with _replacing(path) as temporary, temporary.open("xb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def _replace(source: Path, path: Path, ways: tuple[Callable[..., Any], ...]) -> None:
    with _replacing(path) as temporary:
        for way in ways:
            try:
                way(source, temporary)
                break
            except OSError:  # a file system, or a user's rights, without this kind of link
                if way is ways[-1]:
                    raise


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a place beside a path; what the block puts there replaces in one step what stands at the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not made of the path's own name, which may be as long as a file system allows.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def forget_link(path: str | os.PathLike[str]) -> None:
    """Remove what leads to another file, so that writing there does not write into that one.

    Args:
        path: A path, also of a file that is not there, or a remote address.
    """
    place = os.fspath(path)
    if "://" not in place and (os.path.islink(place) or (os.path.isfile(place) and os.stat(place).st_nlink > 1)):
        os.unlink(place)
