"""What an operation does to the rest of the machine, as Python's audit events tell it, and the memory it takes."""

import os
import sys
from pathlib import Path
from typing import Any

_STARTS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "os.forkpty", "pty.spawn"}
_CONNECTS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
_CHANGES = {
    "os.rename": (0, 1),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.remove": (0,),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.truncate": (0,),
    "os.utime": (0,),
    "os.setxattr": (0,),
}

PROGRAM, NETWORK, OUTSIDE, RAN = "program", "network", "outside", "ran code"

_RERUNS = "/tmp/rerun-"
"""Where a rerun makes its folder, whatever `TMPDIR` says, because a sandbox begins there."""


class Watch:
    """Notes what the operations of this process do, from its first use to its end: a hook cannot be removed."""

    def __init__(self) -> None:
        self._allowed: tuple[str, ...] = ()
        self._data = ""
        self._noted: list[tuple[str, str]] | None = None
        sys.addaudithook(self._hook)

    def begin(self, data: Path, *writable: Path) -> None:
        """Begin to note events.

        Args:
            data: Where no code may come from.
            *writable: Where files may be written.
        """
        self._data = str(data)
        self._allowed = (*(str(folder) for folder in writable), "/dev/null", "/proc/self/", _RERUNS)
        self._noted = []

    def end(self) -> list[tuple[str, str]]:
        """Return what was noted: its kind, and a text."""
        noted, self._noted = self._noted or [], None
        return noted

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        noted = self._noted
        if noted is None:
            return
        if event == "open":
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) and isinstance(path, str | bytes):
                self._note_outside(noted, event, path)
        elif event in _CHANGES:
            for position in _CHANGES[event]:
                if isinstance(arguments[position], str | bytes) and not _is_relative_to_descriptor(event, arguments):
                    self._note_outside(noted, event, arguments[position])
        elif event in _STARTS:
            noted.append((PROGRAM, f"{event} {arguments[:2]}"))
        elif event in _CONNECTS:
            noted.append((NETWORK, f"{event} {arguments[1:]}"))
        elif event == "exec" and getattr(arguments[0], "co_filename", "").startswith(self._data):
            noted.append((RAN, arguments[0].co_filename))

    def _note_outside(self, noted: list[tuple[str, str]], event: str, path: str | bytes) -> None:
        place = os.path.abspath(os.fsdecode(path))
        if not place.startswith(self._allowed):
            noted.append((OUTSIDE, f"{event} {place}"))


def _is_relative_to_descriptor(event: str, arguments: tuple[Any, ...]) -> bool:
    return event in ("os.remove", "os.rmdir", "os.mkdir", "os.chmod") and arguments[-1] not in (-1, None)


def reset_peak() -> int:
    """Forget the largest amount of memory that this process has had, and return the present amount in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Return the largest amount of memory since the last reset, in bytes."""
    lines = Path("/proc/self/status").read_text().split("\n")
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def limit_memory(more: int) -> None:
    """Let this process take no more than a number of bytes in addition to what it has."""
    import resource

    lines = Path("/proc/self/status").read_text().split("\n")
    size = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (size + more, resource.RLIM_INFINITY))
