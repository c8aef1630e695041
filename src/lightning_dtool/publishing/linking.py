"""Links and files at Lightning's checkpoint paths."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Literal

from lightning_dtool.store.temporaries import temporary_beside

Links = Literal["auto", "copy"]
"""How a path leads to an item: by whatever the file system has, or always by a copy."""

_FICLONE = 0x40049409
"""Linux's request for a copy that shares its blocks with the original until one of them changes."""

_ALWAYS = nullcontext(True)


def links_at(path: Path, links: Links) -> Links:
    """Return how a path may lead to an item: by a copy alone, if a later run may try to write into what is there.

    Lightning writes a checkpoint to the folder of temporary files and moves it to its path. Across file systems, moving
    is copying into the file at the path. If this is a read-only item, fsspec ignores the error, and a run without this
    package would go on without its new checkpoints. Only the latest checkpoint has the same name in every run.

    Args:
        path: The path.
        links: How paths lead to items otherwise.
    """
    if "last" not in path.name:
        return links
    try:
        moves_by_copying = os.stat(tempfile.gettempdir()).st_dev != os.stat(path.parent).st_dev
    except OSError:
        return links
    return "copy" if moves_by_copying else links


def link(target: Path, path: Path, links: Links = "auto") -> None:
    """Make a path lead to an item. Anything at the path is replaced atomically.

    The first way that the file system allows is used: a copy that shares its blocks with the item (Btrfs, XFS), a hard
    link, a symbolic link where the item lies on another file system, or a copy.

    Args:
        target: The item, by an absolute path.
        path: Where it should appear.
        links: `"copy"` allows only a copy.

    Raises:
        OSError: If none is possible. What was at the path stays.
    """
    _replace(target, path, (_clone, os.link, os.symlink, shutil.copyfile) if links == "auto" else _COPIES)


def exchange(target: Path, path: Path) -> None:
    """Replace a file by a link to an item that holds the same, so that there is one copy. The exchange is atomic.

    Args:
        target: The item, by an absolute path.
        path: The file.

    Raises:
        OSError: If there are no links. The file stays.
    """
    _replace(target, path, (os.link, os.symlink))


def duplicate(source: Path, path: Path, links: Links = "auto") -> None:
    """Make a file appear at a second path, by a hard link or else a copy. Either path can be removed alone.

    Args:
        source: The file.
        path: Where it should appear. Anything there is replaced atomically.
        links: `"copy"` allows only a copy.

    Raises:
        OSError: If neither is possible. What was at the path stays.
    """
    _replace(source, path, (_clone, os.link, shutil.copyfile) if links == "auto" else _COPIES)


def write(save: Callable[[BinaryIO], object], path: Path, held: AbstractContextManager[bool] = _ALWAYS) -> bool:
    """Write a file that appears at its path only when it is complete.

    Args:
        save: Writes the content to an open file.
        path: Where it goes. Anything there is replaced. If it is a link, the file that it leads to stays.
        held: Entered for the moment at which the file appears. Gives whether it may. Default: it may.

    Returns:
        Whether the file is there.
    """
    with _temporary(path) as temporary:
        _write(save, temporary)
        with held as may_appear:
            if may_appear:
                temporary.replace(path)
    return may_appear


def write_and_open(save: Callable[[BinaryIO], object], path: Path) -> BinaryIO:
    """Write a file as `write` does, and return it open for reading, even if its path is removed meanwhile.

    Args:
        save: Writes the content to an open file.
        path: Where it goes.
    """
    with _replacing(path) as temporary:
        _write(save, temporary)
        return temporary.open("rb")


def _write(save: Callable[[BinaryIO], object], path: Path) -> None:
    # Buffered: torch ignores how many bytes a write has taken, and an unbuffered file takes at most 2 GiB at once.
    with path.open("xb") as file:
        save(file)


def _clone(source: Path, path: Path) -> None:
    """Copy a file without copying its blocks. Raises an OSError where the system or the file system cannot do that."""
    try:
        import fcntl  # not on every system
    except ImportError as error:
        raise OSError("no clones on this system") from error
    with source.open("rb") as original, path.open("xb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
        except OSError:
            path.unlink()
            raise


_COPIES = (_clone, shutil.copyfile)


def _replace(source: Path, path: Path, ways: Sequence[Callable[..., Any]]) -> None:
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
    with _temporary(path) as temporary:
        yield temporary
        temporary.replace(path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def detach(path: str | os.PathLike[str]) -> None:
    """Replace a symbolic or hard link by a copy of its file, so that writing to its path does not change that file.

    Args:
        path: A path, which need not exist, or a remote address, which is left alone.
    """
    place = Path(path)
    if "://" in os.fspath(path) or not (place.is_symlink() or (place.is_file() and place.stat().st_nlink > 1)):
        return
    try:
        _replace(Path(os.path.realpath(place)), place, _COPIES)
    except OSError:  # it leads to nothing or to a folder, or there is no room; a dataset still holds what it leads to
        place.unlink()
