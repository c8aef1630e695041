"""Temporary files beside checkpoints, whose names say which process writes them."""

import hashlib
import re
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_dtool.store.ownership import Owner, current_owner, is_alive

_NAME = re.compile(
    r"\.lightning-dtool-(?P<machine>[0-9a-f]{8})-(?P<boot>[0-9a-f]{8})-(?P<namespace>[0-9a-f]{8})"
    r"-(?P<pid>[1-9][0-9]*)-(?P<started>(?:[0-9a-f]{2})*)-[0-9a-f]{8}\.tmp"
)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a process runs, short enough for the name of a file."""

    machine: str
    boot: str
    namespace: str

    @classmethod
    def of(cls, owner: Owner) -> "_Place":
        return cls(_short(owner.host, owner.machine), _short(owner.boot), _short(owner.namespace))


def temporary_beside(path: Path) -> Path:
    """Return a new name for a file, or a folder, that this process writes and then renames to a path.

    It is not derived from the path's own name, which may already be as long as the file system allows.

    Args:
        path: The path.
    """
    owner = current_owner()
    place, started = _Place.of(owner), owner.started.encode().hex()
    parts = (place.machine, place.boot, place.namespace, str(owner.pid), started, secrets.token_hex(4))
    return path.with_name(f".lightning-dtool-{'-'.join(parts)}.tmp")


def is_temporary(name: str) -> bool:
    """Tell whether a file's name is one that `temporary_beside` gives.

    Args:
        name: The name.
    """
    return _NAME.fullmatch(name) is not None


def is_being_written(name: str) -> bool | None:
    """Tell whether the process still runs that has given a file such a name.

    Args:
        name: The name.

    Returns:
        None if this cannot be known here, as for `is_alive`.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    here = current_owner()
    place = _Place.of(here)
    if found["machine"] != place.machine:
        return None
    if found["boot"] != place.boot:
        return False
    if found["namespace"] != place.namespace:
        return None
    started = bytes.fromhex(found["started"]).decode(errors="replace")
    return is_alive(replace(here, pid=int(found["pid"]), started=started))


def _short(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]
