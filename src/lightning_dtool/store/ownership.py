"""The process that writes something, and whether it still runs."""

import json
import os
import platform
import socket
import subprocess
import time
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that writes something, identified across reuse of its number and restarts of its machine.

    Attributes:
        host: The name of its machine.
        machine: The identifier of its machine; empty if there is none.
        boot: The identifier of the machine's present run; empty if there is none.
        namespace: The name space of its number, which a container has of its own; empty if there is none.
        pid: Its number.
        started: When it started, as the system names it; empty if the system does not.
        since: When it began to write, in seconds since the epoch.
    """

    host: str
    machine: str
    boot: str
    namespace: str
    pid: int
    started: str
    since: float


def current_owner() -> Owner:
    """Return this process as the owner of what it begins to write now."""
    # Asked for the process each time: a forked child is another one.
    return Owner(*_place(), pid=os.getpid(), started=_own_start(os.getpid()), since=time.time())


def is_alive(owner: Owner) -> bool | None:
    """Tell whether an owner still runs.

    Args:
        owner: The owner.

    Returns:
        None if this cannot be known here: the owner runs on another machine or in another container, or the system
        does not tell.
    """
    host, machine, boot, namespace = _place()
    if (owner.host, owner.machine) != (host, machine):
        return None
    if owner.boot != boot:
        return False
    if owner.namespace != namespace or os.name == "nt":  # Windows has no signal that only asks
        return None
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it belongs to another user
    except (OSError, OverflowError):
        return None
    started = _start_of(owner.pid)
    if started is None:
        return False
    return started == owner.started if started and owner.started else None


def owner_to_json(owner: Owner) -> str:
    """Return an owner as JSON."""
    return json.dumps(asdict(owner))


def owner_from_json(text: str) -> Owner | None:
    """Return an owner from JSON; None if the text is something else.

    Args:
        text: What `owner_to_json` returned, or anything else.
    """
    try:
        values = json.loads(text)
        found = {field.name: values[field.name] for field in fields(Owner)}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    texts = (value for name, value in found.items() if name not in {"pid", "since"})
    known = isinstance(found["pid"], int) and found["pid"] > 0 and isinstance(found["since"], (int, float))
    return Owner(**found) if known and all(isinstance(text, str) for text in texts) else None


def describe(owner: Owner | None) -> str:
    """Return a text that names an owner."""
    if owner is None:
        return "an unknown process"
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.since))
    return f"process {owner.pid} on {owner.host}, since {began}"


@cache
def _place() -> tuple[str, str, str, str]:
    """Return the machine's name and identifier, its run, and the name space of process numbers."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return socket.gethostname(), _text("/etc/machine-id"), _text("/proc/sys/kernel/random/boot_id"), namespace


@cache
def _own_start(pid: int) -> str:
    return _start_of(pid) or ""


def _start_of(pid: int) -> str | None:
    """Return when a process started: None if it has ended, "" if the system does not tell."""
    if platform.system() == "Linux":
        # The name, in parentheses, may contain anything.
        fields_after_name = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if not fields_after_name:  # hidden from other users, or it has just ended
            return ""
        return None if fields_after_name[0] in "ZX" else fields_after_name[19]
    try:
        asked = subprocess.run(  # noqa: S603 - a number is all that is passed
            ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
