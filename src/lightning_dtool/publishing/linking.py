"""Placeholders, links and files at Lightning's checkpoint paths."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def reserve(path: Path) -> None:
    """Put an empty file, the placeholder, at a path where nothing exists.

    ModelCheckpoint looks for existing files when it chooses a name. Without a placeholder it would choose the name of a
    checkpoint that is still being written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(path):
        path.touch()


def free(path: Path) -> None:
    """Remove the placeholder at a path. Anything else stays."""
    if path.is_file() and not path.is_symlink() and not path.stat().st_size:
        path.unlink()


def link(target: Path, path: Path) -> None:
    """Make a path lead to an item: by a symbolic link, or else a hard link, or else a copy.

    Anything at the path is replaced atomically.

    Args:
        target: The item, by an absolute path.
        path: Where it should appear.
    """
    _replace(target, path, (os.symlink, os.link, shutil.copyfile))


def duplicate(source: Path, path: Path) -> None:
    """Make a plain file appear at a second path, by a hard link or else a copy. Either path can be removed alone."""
    _replace(source, path, (os.link, shutil.copyfile))


def write(state: Mapping[str, Any], path: Path) -> None:
    """Write a plain checkpoint file that Lightning can read. It appears at its path only when it is complete.

    Lightning builds the file in memory first. This function does not.

    Args:
        state: The checkpoint.
        path: Where it goes. Anything there is replaced. If it is a link, the file that it leads to stays.
    """
    # Buffered: torch ignores how many bytes a write has taken, and an unbuffered file takes at most 2 GiB at once.
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
            except OSError:  # the file system or the user's rights do not allow this kind of link
                if way is ways[-1]:
                    raise


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path. The file that the block puts there atomically replaces anything at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not derived from the path's own name, which may already be as long as the file system allows.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def forget_link(path: str | os.PathLike[str]) -> None:
    """Remove a symbolic or hard link, so that writing to its path does not change the file that it leads to.

    Args:
        path: A path, which need not exist, or a remote address, which is left alone.
    """
    place = os.fspath(path)
    if "://" not in place and (os.path.islink(place) or (os.path.isfile(place) and os.stat(place).st_nlink > 1)):
        os.unlink(place)
