"""Landlock: a Linux process gives up rights to write, for itself and for all processes that it will start.

It needs no privileges. The kernel's documentation describes the system calls, the rights, and the versions of the
interface: https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import stat
from collections.abc import Iterable

from lightning_dtool.sandbox.system_calls import call

# The numbers are those of every architecture that Python's builds of Linux support.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_FOR_VERSION = 1
_PATH_BENEATH = 1
_NO_NEW_PRIVILEGES = 38

_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_IN_FOLDERS = sum(1 << bit for bit in range(4, 13))
"""The rights to remove and to make files and folders of every kind."""
_REFER = 1 << 13
"""The right to rename or link from one folder to another."""
_CONNECT_TCP = 1 << 1
_SCOPES = 0b11
"""No connections to abstract sockets of processes outside, and no signals to them."""

OLDEST = 1
"""The first version of the interface, from Linux 5.13."""
NETWORK = 4
"""The first version that restricts TCP connections, from Linux 6.7."""
RENAMING = 2
"""The first version under which files can be renamed from one folder to another, from Linux 5.19."""
_WITH_TRUNCATE, _WITH_SCOPES = 3, 6


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64)]


class _Rule(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("rights", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def version() -> int:
    """Return the version of the kernel's interface; 0 if there is none, or if it is turned off."""
    try:
        return call("syscall", _CREATE_RULESET, None, 0, _ASK_FOR_VERSION)
    except (OSError, AttributeError, TypeError):  # another system, or a C library without `syscall`
        return 0


def restrict(writable: Iterable[str], *, connections: bool = True, as_version: int | None = None) -> None:
    """Restrict this thread, and all threads and processes that it will start. It cannot be undone.

    Reading, running programs, and what is open already are not restricted. Neither are the permissions, owners and
    times of files, which Landlock does not know.

    Args:
        writable: Existing files and folders that may be written. A folder stands for all that is below it.
        connections: Whether TCP connections stay possible. Restricted from `NETWORK` on.
        as_version: The version of the interface to use. Default: the kernel's.

    Raises:
        OSError: If the kernel refuses.
    """
    found = version() if as_version is None else as_version
    files = _WRITE_FILE | _IN_FOLDERS
    files |= _REFER if found >= RENAMING else 0
    files |= _TRUNCATE if found >= _WITH_TRUNCATE else 0
    ruleset = _Ruleset(
        files, 0 if connections or found < NETWORK else _CONNECT_TCP, _SCOPES if found >= _WITH_SCOPES else 0
    )
    # An older kernel knows a shorter structure.
    size = 24 if found >= _WITH_SCOPES else 16 if found >= NETWORK else 8
    descriptor = call("syscall", _CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    try:
        for path in writable:
            _allow(descriptor, path, files)
        call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        call("syscall", _RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)


def _allow(ruleset: int, path: str, files: int) -> None:
    target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        is_folder = stat.S_ISDIR(os.fstat(target).st_mode)
        rights = files if is_folder else files & (_WRITE_FILE | _TRUNCATE)
        call("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(_Rule(rights, target)), 0)
    finally:
        os.close(target)
