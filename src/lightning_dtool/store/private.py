"""The folders and files of the cache, which only the user may change, or a group that the user trusts."""

import os
import stat
from functools import lru_cache
from pathlib import Path

from lightning_dtool.errors import ConfigurationError, StoreError

GROUP = "LIGHTNING_DTOOL_CACHE_GROUP"
"""The environment variable that names a group whose members may write the cache."""
# dtool's own entries, which are not verified, lie beside this folder.
_NAME = "lightning-dtool"
_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)


def dtool_cache_directory() -> Path:
    """Return where dtool keeps copies of remote items: `DTOOL_CACHE_DIRECTORY`, or dtool's default."""
    from dtoolcore.utils import DEFAULT_CACHE_PATH, get_config_value

    return Path(get_config_value("DTOOL_CACHE_DIRECTORY", default=DEFAULT_CACHE_PATH))


def cache_directory() -> Path:
    """Return the folder of this package's cache, below dtool's (`DTOOL_CACHE_DIRECTORY`).

    If somebody else has made a folder of that name, it is one with the number of the user at the end.
    """
    base = dtool_cache_directory()
    usual = base / _NAME
    try:
        is_usable = _is_folder_of_trusted(os.lstat(usual))
    except OSError:
        is_usable = True
    return usual if is_usable else base / f"{_NAME}-{user_number()}"


def user_number() -> int:
    """Return the number of the user, or 0 where users have none."""
    return os.getuid() if hasattr(os, "getuid") else 0


def is_trusted(status: os.stat_result) -> bool:
    """Tell whether nobody but the user, root and a trusted group can change a file or folder.

    Args:
        status: Its status.
    """
    user = user_number()
    if os.name != "posix" or (status.st_uid == user and not status.st_mode & _BY_OTHERS):
        return True
    group = _trusted_group()
    is_in_group = group is not None and status.st_gid == group
    if status.st_uid not in (user, 0) and not is_in_group:
        return False
    return not status.st_mode & stat.S_IWOTH and (
        not status.st_mode & stat.S_IWGRP or is_in_group or status.st_gid in _own_groups(user)
    )


def make_private(folder: Path) -> None:
    """Make a folder in the cache and the ones above it, unless they are there, and check who may change them.

    Args:
        folder: The folder: `cache_directory()`, one below it, or one elsewhere, which the user has named.

    Raises:
        StoreError: If somebody else may change what is in it.
        OSError: If it cannot be made.
        ConfigurationError: If there is no group as `LIGHTNING_DTOOL_CACHE_GROUP` says.
    """
    base = dtool_cache_directory()
    if not folder.is_relative_to(base):
        base = folder.parent
    base.mkdir(parents=True, exist_ok=True)
    real = os.path.realpath(base)
    open_to_others = _exchangeable(real, os.stat(real).st_mode, _trusted_group())
    if open_to_others is not None:
        raise _refused(Path(open_to_others), "others may rename what is in it")
    inside = folder.relative_to(base).parts
    for depth in range(1, len(inside) + 1):
        _make_one(base.joinpath(*inside[:depth]))


def open_private(path: str | os.PathLike[str]) -> int:
    """Open a file of the cache to read it.

    Args:
        path: The file.

    Returns:
        The descriptor, which the caller closes.

    Raises:
        OSError: If there is no such file, or if somebody else may change it.
    """
    descriptor = os.open(path, _OPEN)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and is_trusted(status):
        return descriptor
    os.close(descriptor)
    raise PermissionError(f"{os.fspath(path)} is not a plain file that only you may change")


def new_file_mode() -> int:
    """Return the permissions of a new file in the cache."""
    return 0o600 if _trusted_group() is None else 0o640


def _make_one(folder: Path) -> None:
    group = _trusted_group()
    try:
        os.mkdir(folder, 0o700)
        if group is not None:
            os.chown(folder, -1, group)
            os.chmod(folder, 0o2770)  # noqa: S103 - the members of a group that the user trusts
    except FileExistsError:
        status = os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode):
            raise
        if not is_trusted(status):
            raise _refused(
                folder, f"it belongs to user {status.st_uid} and has the mode {status.st_mode & 0o7777:o}"
            ) from None


def _refused(folder: Path, why: str) -> StoreError:
    return StoreError(
        f"the cache is not used, because others may change it: {why}. Set DTOOL_CACHE_DIRECTORY to a folder of your"
        f" own, take the permission from others (chmod go-w or chmod +t), or name a group that you trust in {GROUP}.",
        path=folder,
        kind="denied",
    )


def _is_folder_of_trusted(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and is_trusted(status)


@lru_cache(maxsize=8)
def _exchangeable(folder: str, mode: int, group: int | None) -> str | None:
    """Return a folder, this one or one above it, in which others may rename what is not theirs.

    Args:
        folder: A path without links.
        mode: The present mode of the folder, with which the answer may change.
        group: The trusted group.
    """
    if os.name != "posix":
        return None
    trusted = _own_groups(user_number()) | {group}
    for place in (Path(folder), *Path(folder).parents):
        status = os.stat(place)
        writers = status.st_mode & (stat.S_IWOTH if status.st_gid in trusted else stat.S_IWOTH | stat.S_IWGRP)
        if writers and not status.st_mode & stat.S_ISVTX:
            return str(place)
    return None


def _trusted_group() -> int | None:
    named = os.environ.get(GROUP)
    return _group_number(named) if named and os.name == "posix" else None


@lru_cache(maxsize=8)
def _group_number(named: str) -> int:
    import grp

    try:
        return int(named) if named.isdecimal() else grp.getgrnam(named).gr_gid
    except KeyError as error:
        raise ConfigurationError(
            f"{GROUP}={named!r}: expected a group of this machine. Correct it, or unset it."
        ) from error


@lru_cache(maxsize=8)
def _own_groups(user: int) -> frozenset[int | None]:
    """Return the groups that nobody but the user or root is in: root's, and the user's own of the same name."""
    import grp
    import pwd

    found: set[int | None] = {0}
    try:
        entry = pwd.getpwuid(user)
        group = grp.getgrgid(entry.pw_gid)
    except KeyError:  # a user without an entry, as in many containers
        return frozenset(found)
    if group.gr_name == entry.pw_name and set(group.gr_mem) <= {entry.pw_name}:
        found.add(group.gr_gid)
    return frozenset(found)
