"""Linux namespaces: a process gets a network of its own, and a view of the file system that is read-only.

The mounts also protect what Landlock does not know: permissions, owners and times of files. The manual describes them:
https://man7.org/linux/man-pages/man7/namespaces.7.html
"""

import os
import socket
import struct
import sys
from collections.abc import Iterable

from lightning_dtool.sandbox.system_calls import call

_NEW_MOUNTS, _NEW_USER, _NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000
_BIND, _RECURSIVE, _SLAVE = 4096, 16384, 1 << 19
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _READ_ONLY = 442, -100, 0x8000, 1
_SET_FLAGS, _GET_FLAGS, _UP = 0x8914, 0x8913, 1


def enter(writable: Iterable[str], *, files: bool, network: bool) -> None:
    """Move this process, which must have a single thread, into new namespaces.

    Args:
        writable: Existing files and folders that stay writable.
        files: Whether everything else becomes read-only.
        network: Whether only the loopback interface remains.

    Raises:
        OSError: If the system does not allow it. The process may then be in some of the namespaces.
    """
    user, group = os.getuid(), os.getgid()
    wanted = (_NEW_MOUNTS if files else 0) | (_NEW_NETWORK if network else 0)
    # In a user namespace, root would lose the right to read what others own.
    call("unshare", wanted if user == 0 else wanted | _NEW_USER)
    if user != 0:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    if network:
        _turn_on_loopback()
    if files:
        _make_read_only(list(writable))


def allows(writable: Iterable[str], *, files: bool, network: bool) -> bool:
    """Tell whether `enter` would succeed, by the attempt of another process."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            enter(writable, files=files, network=network)
            code = 0
        except OSError:
            pass
        finally:
            os._exit(code)
    return os.waitpid(process, 0)[1] == 0


def _make_read_only(writable: list[str]) -> None:
    # What is mounted here is not seen outside.
    _mount(None, "/", _RECURSIVE | _SLAVE)
    for path in writable:
        _mount(path, path, _BIND | _RECURSIVE)
    _set_attributes("/", read_only=True)
    for path in writable:
        _set_attributes(path, read_only=False)
    os.chdir(os.getcwd())  # the folder was opened before its mount


def _mount(source: str | None, target: str, flags: int) -> None:
    given = os.fsencode(source) if source is not None else None
    call("mount", given, os.fsencode(target), None, flags, None)


def _set_attributes(path: str, *, read_only: bool) -> None:
    attributes = struct.pack("=QQQQ", _READ_ONLY if read_only else 0, 0 if read_only else _READ_ONLY, 0, 0)
    path_and_flags = (os.fsencode(path), _AT_RECURSIVE)
    call("syscall", _MOUNT_SETATTR, _AT_FDCWD, *path_and_flags, attributes, len(attributes))


def _turn_on_loopback() -> None:
    if sys.platform != "linux":
        raise OSError("expected Linux")
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack("16xh14x", fcntl.ioctl(any_socket, _GET_FLAGS, request))
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
