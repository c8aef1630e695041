"""Processes of this machine, from `/proc`."""

import os
import time
from pathlib import Path

_PROC = Path("/proc")


def children(parent: int) -> list[int]:
    """Return the living children of a process."""
    return [pid for pid, fields in _living() if int(fields[1]) == parent]


def of_session(session: int) -> list[int]:
    """Return the living processes of a session."""
    return [pid for pid, fields in _living() if int(fields[3]) == session]


def wait_until_gone(session: int, seconds: float) -> list[int]:
    """Wait until no process of a session lives, and return those that do after some seconds."""
    deadline = time.monotonic() + seconds
    while (left := of_session(session)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def shared_memory_of(session: int) -> list[str]:
    """Return the names in `/dev/shm` that contain the number of a process."""
    folder = Path("/dev/shm")
    return sorted(name for name in os.listdir(folder) if str(session) in name) if folder.is_dir() else []


def _living() -> list[tuple[int, list[str]]]:
    """Return the number of each process, and the fields of its `stat` from the state on. Zombies are left out."""
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            if fields[0] != "Z":
                found.append((int(entry.name), fields))
    return found
