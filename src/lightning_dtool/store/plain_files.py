"""Files of a dataset that a stranger may have made, opened without following a link and without waiting.

A link may lead to any file of the reader's, a named pipe may never answer, and a device may never end.
"""

import os
import stat
from collections.abc import Callable

from lightning_dtool import limits
from lightning_dtool.errors import UnsafeDatasetError

_CHUNK = 2**20
_FLAGS = ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_BINARY")
_READ = os.O_RDONLY | sum(getattr(os, name, 0) for name in _FLAGS)  # Windows has only the last one
_FOLLOWS = not hasattr(os, "O_NOFOLLOW")

_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_plain(uri: str, root: str, relpath: str, most: int) -> bytes:
    """Return the content of a file in a dataset.

    Args:
        uri: The dataset, for errors.
        root: Its folder. Links on the way to it are followed: they are the reader's own.
        relpath: The path of the file below that folder.
        most: The largest size in bytes.

    Raises:
        UnsafeDatasetError: If the file, or a folder on the way to it, is a link or anything else that is not plain, or
            if the file is larger.
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
    """
    _refuse_linked_folders(uri, root, relpath)
    path = f"{root}{os.sep}{relpath}"
    if _FOLLOWS and os.path.islink(path):
        raise _not_plain(uri, root, relpath, stat.S_IFLNK, "a plain file")
    try:
        descriptor = os.open(path, _READ)
    except OSError as exc:
        # A link, or a socket. Other systems than Linux have other numbers for it.
        if not isinstance(exc, (FileNotFoundError, PermissionError)) and not _is_plain(mode := os.lstat(path).st_mode):
            raise _not_plain(uri, root, relpath, mode, "a plain file") from exc
        raise
    try:
        status = os.fstat(descriptor)
        if not _is_plain(status.st_mode):
            raise _not_plain(uri, root, relpath, status.st_mode, "a plain file")
        size = status.st_size
        if size > most:
            raise _too_large(uri, root, relpath, most, f"{size} bytes")
        content = os.read(descriptor, size + 1)
        if len(content) == size > 0:
            return content
        # Changing, or made by the system, which gives no size.
        while len(content) <= most and (more := os.read(descriptor, _CHUNK)):
            content += more
        if len(content) > most:
            raise _too_large(uri, root, relpath, most, "more")
        return content
    finally:
        os.close(descriptor)


def plain_names(uri: str, root: str, relpath: str, wanted: Callable[[str], bool]) -> list[str]:
    """Return the names of the files in a folder of a dataset, none if there is no such folder.

    Args:
        uri: The dataset, for errors.
        root: Its folder.
        relpath: The path of the folder below that folder.
        wanted: Tells whether a name is of interest. Others are left out, whatever they name.

    Raises:
        UnsafeDatasetError: If the folder, or one on the way to it, is a link, if one of the names is that of a link or
            of anything else that is not a plain file, or if there are too many.
        OSError: If it cannot be read.
    """
    try:
        _refuse_linked_folders(uri, root, os.path.join(relpath, ""))
        with os.scandir(os.path.join(root, relpath)) as entries:
            names = []
            for entry in entries:
                if not wanted(entry.name):
                    continue
                if not entry.is_file(follow_symlinks=False):
                    mode = entry.stat(follow_symlinks=False).st_mode
                    raise _not_plain(uri, root, os.path.join(relpath, entry.name), mode, "a plain file")
                names.append(entry.name)
                if len(names) > limits.MAX_NAMES:
                    raise _too_large(uri, root, relpath, limits.MAX_NAMES, "more", "files")
            return names
    except FileNotFoundError:
        return []


def _refuse_linked_folders(uri: str, root: str, relpath: str) -> None:
    """Raise an error if a folder on the way to a file is a link.

    It may be exchanged for one afterwards. What is then opened elsewhere is no link, has the same name, and is plain
    and small.
    """
    folder = relpath.rpartition(os.sep)[0]
    while folder:
        mode = os.lstat(f"{root}{os.sep}{folder}").st_mode
        if stat.S_ISLNK(mode):
            raise _not_plain(uri, root, folder, mode, "a folder")
        folder = folder.rpartition(os.sep)[0]


def _is_plain(mode: int) -> bool:
    return stat.S_ISREG(mode)


def _not_plain(uri: str, root: str, relpath: str, mode: int, expected: str) -> UnsafeDatasetError:
    found = next((name for fits, name in _KINDS if fits(mode)), "something else")
    return UnsafeDatasetError(
        f"expected {expected} at {_shown(relpath)}, found {found}. Do not use this dataset; ask its author.",
        uri=uri,
        path=os.path.join(root, relpath),
    )


def _too_large(uri: str, root: str, relpath: str, most: int, found: str, unit: str = "bytes") -> UnsafeDatasetError:
    return UnsafeDatasetError(
        f"expected at most {most} {unit} in {_shown(relpath)}, found {found}. Do not use this dataset; ask its author.",
        uri=uri,
        path=os.path.join(root, relpath),
    )


def _shown(relpath: str) -> str:
    return relpath.replace(os.sep, "/")
