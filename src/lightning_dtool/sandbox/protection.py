"""The choice of how a rerun is kept from writing outside its folders and from using the network."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from lightning_dtool.sandbox import landlock

Means = Literal["landlock", "bubblewrap"]

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "dri", "infiniband", "kfd", "dxg")
_ACCELERATORS = ("nvidia*", "accel*", "davinci*", "hisi_hdc", "devmm_svm")
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  # where processes of one training share tensors


@dataclass(frozen=True)
class Limits:
    """What a rerun may do.

    Attributes:
        means: How its files are protected.
        writable: Existing files and folders that it may write.
        network: Whether it may use the network.
        local_only: Whether it needs no connections at all, not even those between processes of one training.
        report: The file to which it reports the protection that is in force.
        canary: A file that it must not be able to write; None if the user allows that.
    """

    means: Means
    writable: tuple[str, ...]
    network: bool
    local_only: bool
    report: str
    canary: str | None

    def to_json(self) -> str:
        """Return the limits as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Limits":
        """Read what `to_json` has written."""
        given = json.loads(text)
        return cls(**{**given, "writable": tuple(given["writable"])})

    @property
    def folders(self) -> tuple[str, ...]:
        """What it may write, with the memory that processes share."""
        return (*self.writable, *([_SHARED_MEMORY] if os.path.isdir(_SHARED_MEMORY) else []))


def means() -> Means | None:
    """Return how files can be protected on this machine; None if they cannot."""
    if landlock.version() >= landlock.OLDEST:
        return "landlock"
    return "bubblewrap" if _bubblewrap() is not None else None


def protected(command: Sequence[str], limits: Limits) -> list[str]:
    """Return the command that runs another one within limits.

    Args:
        command: A command of Python's.
        limits: The limits.
    """
    program = Path(__file__).with_name("enter.py")
    # Without the code that an environment, or a folder in PYTHONPATH, runs when Python starts.
    inner = [command[0], "-I", "-S", str(program), limits.to_json(), *command]
    return inner if limits.means == "landlock" else [*_in_bubblewrap(limits), *inner]


def devices() -> list[str]:
    """Return the devices and folders of devices that a training may write to."""
    folder = Path("/dev")
    named = [folder / name for name in _DEVICES]
    named += [path for pattern in _ACCELERATORS for path in folder.glob(pattern)]
    return [str(path) for path in named if path.exists()]


def is_below(path: str, places: Sequence[str]) -> bool:
    """Return whether a path is one of some places, or below one."""
    return any(path == place or path.startswith(f"{place.rstrip('/')}/") for place in places)


def _in_bubblewrap(limits: Limits) -> list[str]:
    bound = [argument for path in limits.writable for argument in ("--bind", path, path)]
    network = [] if limits.network else ["--unshare-net"]
    tool = _bubblewrap() or "bwrap"
    return [tool, "--die-with-parent", "--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", *bound, *network, "--"]


@cache
def _bubblewrap() -> str | None:
    """Return the path of bubblewrap if it works here: some systems have it, but do not allow it."""
    tool = shutil.which("bwrap")
    if tool is None:
        return None
    command = [tool, "--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--unshare-net", "--", "true"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return tool if done.returncode == 0 else None
