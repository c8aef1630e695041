"""What a script tries to write or to connect to outside its limits, also if it ignores that this fails.

Python's audit events tell of it: https://docs.python.org/3/library/audit_events.html
"""

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lightning_dtool.sandbox.protection import is_below

MOST = 50
"""The largest number of attempts that are reported."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = {
    "os.chmod": 1, "os.chown": 1, "os.link": 2, "os.mkdir": 1, "os.remove": 1, "os.rename": 2, "os.rmdir": 1,
    "os.removexattr": 1, "os.setxattr": 1, "os.symlink": 2, "os.truncate": 1, "os.utime": 1, "shutil.rmtree": 1,
}  # fmt: skip
"""How many arguments of an event are paths, for events that change files."""
_FOLDERS = {
    "os.chmod": 2, "os.chown": 3, "os.link": 2, "os.mkdir": 2, "os.remove": 1, "os.rename": 2, "os.rmdir": 1,
    "os.symlink": 2, "os.utime": 3,
}  # fmt: skip
"""Which argument of an event is the descriptor of the folder that the first path is relative to."""
_ADDRESSES = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0}
"""Which argument of an event is an address."""
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV})
_UNREACHABLE = frozenset({errno.EACCES, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})
_SYSTEM = ("/dev", "/proc", "/sys")


class Attempts:
    """The attempts of one process.

    Args:
        writable: What it may write.
        network: Whether it may use the network.
        report: Called with an event's name and its facts, at most `MOST` times.
    """

    def __init__(self, writable: Sequence[str], network: bool, report: Callable[..., None]) -> None:
        self._writable = [os.path.realpath(path) for path in writable]
        self._network = network
        self._report = report
        self._seen: dict[str, None] = {}
        self._last: str | None = None
        self._inside = False
        self._database: str | None = None

    def watch(self) -> None:
        """Observe this process until it ends."""
        sys.addaudithook(self._observe)

    def refused(self, error: BaseException) -> str | None:
        """Return the path that an error says could not be written; None for another error.

        Args:
            error: An error of the script.
        """
        if type(error).__name__ == "OperationalError" and self._database is not None:  # of sqlite3
            return self._database if any(word in str(error) for word in ("readonly", "unable to open")) else None
        if not isinstance(error, OSError) or error.errno not in _REFUSED:
            return None
        for name in (error.filename, error.filename2):
            if isinstance(name, str | bytes):
                path = os.path.abspath(os.fsdecode(name))
                # A file that cannot be read may have failed to be read.
                if self._is_outside(path) and (os.access(path, os.R_OK) or not os.path.lexists(path)):
                    return path
        # The errors of some functions have no path, and those of `rmtree` only a name in the folder that is removed.
        if self._last is None or (isinstance(error.filename, str) and os.path.isabs(error.filename)):
            return None
        return next(path for path in self._seen if is_below(self._last, [path]))

    def disconnected(self, error: BaseException) -> bool:
        """Return whether an error says that the network could not be reached.

        Args:
            error: An error of the script.
        """
        if self._network or not isinstance(error, OSError) or error.filename is not None:
            return False
        return isinstance(error, socket.gaierror) or error.errno in _UNREACHABLE

    def _observe(self, event: str, arguments: tuple[Any, ...]) -> None:
        # This sees every event of the interpreter: an error here would be an error of the script.
        if self._inside or len(self._seen) >= MOST:
            return
        if event != "open" and event not in _PATHS and event not in _ADDRESSES and event != "sqlite3.connect":
            return
        self._inside = True
        try:
            for path in self._written(event, arguments):
                if not self._is_outside(path):
                    continue
                self._last = path
                if path not in self._seen:
                    self._seen[path] = None
                    self._report("refused", path=path)
            if not self._network and event in _ADDRESSES:
                host = _host(arguments[_ADDRESSES[event]])
                if host is not None and host not in self._seen:
                    self._seen[host] = None
                    self._report("disconnected", host=host)
        except Exception:  # noqa: S110
            pass
        finally:
            self._inside = False

    def _written(self, event: str, arguments: tuple[Any, ...]) -> Iterator[str]:
        if event == "open":
            path, _, flags = arguments
            if flags & _WRITES and not isinstance(path, int):
                yield os.path.abspath(os.fsdecode(path))
        elif event == "sqlite3.connect":
            path = os.path.abspath(os.fsdecode(arguments[0]).removeprefix("file:").partition("?")[0])
            self._database = path if self._is_outside(path) else self._database
        else:
            base = arguments[_FOLDERS[event]] if event in _FOLDERS else -1
            folder = os.readlink(f"/proc/self/fd/{base}") if isinstance(base, int) and base >= 0 else os.getcwd()
            given = arguments[: _PATHS.get(event, 0)]
            for path in given[1:] if event in ("os.link", "os.symlink") else given:
                if isinstance(path, int):
                    continue
                whole = os.path.abspath(os.path.join(folder, os.fsdecode(path)))
                # `makedirs` tries to make folders that exist, and `rmtree` and `unlink` may remove nothing.
                makes = event in ("os.link", "os.mkdir", "os.rename", "os.symlink")
                if os.path.isdir(whole) if event == "os.mkdir" else not makes and not os.path.lexists(whole):
                    continue
                yield whole

    def _is_outside(self, path: str) -> bool:
        # The links of the folder, but not that of a file which is itself removed.
        real = os.path.realpath(path)
        there = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if "/__pycache__" in path or is_below(real, _SYSTEM):
            return False
        return not (is_below(real, self._writable) and is_below(there, self._writable))


def _host(address: Any) -> str | None:
    """Return the host of an address; None for this machine, and for a socket that is a file."""
    host = address[0] if isinstance(address, tuple) and address else address
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if not isinstance(host, str) or host.startswith(("/", "\0")):
        return None
    own = ("", "localhost", "0.0.0.0", "::", "::1", socket.gethostname())  # noqa: S104
    return None if host in own or host.startswith("127.") else host
