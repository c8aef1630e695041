"""What a rerun wanted to write or to connect to, and was not allowed to."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from lightning_dtool.reproduction.process import Outcome
from lightning_dtool.sandbox.protection import is_below

_LINES = re.compile(
    r"['\u2018\"]?(?P<path>/[^'\u2019\":\n]+)['\u2019\"]?: "
    r"(?:Permission denied|Read-only file system|Operation not permitted|Invalid cross-device link)"
    r"|(?:Permission denied|Read-only file system): '(?P<python>/[^'\n]+)'"
)
"""Messages of commands and of Python about a file that could not be written."""

_WITHOUT_PATH = re.compile(r"strerror: (?:Permission denied|Read-only file system)")
"""The message of `torch.save`."""


def refused_writes(outcome: Outcome) -> list[str]:
    """Return the paths that a rerun reported it wanted to write and could not, the first ones first."""
    found = [str(event.get("path")) for event in outcome.events if event["event"] == "refused"]
    # Libraries do without a cache that they cannot write. If one does not, its error says so.
    return list(dict.fromkeys(path for path in found if not is_below(path, _caches())))


def named_paths(messages: Iterable[str], writable: list[str] | None) -> list[str]:
    """Return the paths that messages say could not be written, the first ones first.

    Args:
        messages: Messages of errors, or lines of output, which may be those of subprocesses.
        writable: What the rerun may write; None if nothing was refused.
    """
    if writable is None:
        return []
    found = []
    for line in messages:
        for match in _LINES.finditer(line):
            path = os.path.abspath(match["path"] or match["python"])
            if not is_below(path, [*writable, "/dev", "/proc", "/sys"]):
                found.append(path)
    return list(dict.fromkeys(found))


def refused_hosts(outcome: Outcome) -> list[str]:
    """Return the machines that a rerun wanted to connect to and could not, the first ones first."""
    found = [str(event.get("host")) for event in outcome.events if event["event"] == "disconnected"]
    return list(dict.fromkeys(found))


def _caches() -> list[str]:
    home = os.path.expanduser("~")
    named = {"XDG_CACHE_HOME": f"{home}/.cache", "XDG_CONFIG_HOME": f"{home}/.config"}
    return [os.environ.get(name) or place for name, place in named.items()]


def write_reason(path: str, held: Iterable[str]) -> str:
    """Return the reason for a rerun that could not write, with the option that allows it.

    Args:
        path: The path.
        held: Local paths of datasets that should not be changed.
    """
    folder = Path(path).parent
    while not folder.is_dir():
        folder = folder.parent
    inside = [place for place in held if is_below(place, [str(folder)])]
    warning = f" That folder also holds {inside[0]}, which could then be deleted: copy it first." if inside else ""
    return f"it wants to write to {path}. To allow it: --allow-write {folder}.{warning}"


def reason_without_path(messages: Iterable[str]) -> str | None:
    """Return the reason for a rerun that could not write to a path that its error does not name; None for others."""
    if not any(_WITHOUT_PATH.search(message) for message in messages):
        return None
    return (
        "it wants to write outside its own folders, to a path that the error does not name; the output shows where. "
        "To allow it: --allow-write and the folder"
    )


def network_reason(hosts: Iterable[str]) -> str:
    """Return the reason for a rerun that could not use the network, with the option that allows it.

    Args:
        hosts: The machines that it wanted to connect to, if they are known.
    """
    named = ", ".join(list(hosts)[:3]) or "the network"
    return f"it wants to connect to {named}. To allow it: --allow-network"


def is_related(path: str, others: Iterable[str]) -> bool:
    """Return whether a path is above, below or the same as one of others."""
    return any(is_below(path, [other]) or is_below(other, [path]) for other in others)
