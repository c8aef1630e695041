"""The options of `reproduce` and `replicate`."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from lightning_dtool.errors import ConfigurationError
from lightning_dtool.reproduction.tolerance import MIN_VALUES, width_factor
from lightning_dtool.rerun import REPRODUCE
from lightning_dtool.store import Addresses

Environments = Literal["current", "create"]
Say = Callable[[str], None]

FIRST = "first"
PARENT = "parent"


def silent(text: str) -> None:
    """Ignore a message."""


@dataclass(frozen=True)
class Request:
    """The options of a reproduction. `reproduce` documents each of them.

    Raises:
        ConfigurationError: If an option is invalid.
    """

    kind: str
    env: Environments = "current"
    device: str | None = None
    runs: int = 0
    level: float = 0.95
    source: str | os.PathLike[str] | None = None
    data: dict[str, str] = field(default_factory=dict)
    search: tuple[str, ...] = ()
    threads: int | None = None
    from_: str | os.PathLike[str] = FIRST
    trace: bool = False
    timeout: float | None = None
    allow_write: tuple[str, ...] = ()
    """Absolute paths of existing files and folders."""
    allow_network: bool = False
    online: bool = False
    say: Say = silent
    stages: dict[str, str] = field(default_factory=dict)
    """For a replication, the new datasets by stage."""
    addresses: Addresses = field(default_factory=Addresses)
    """Decides which addresses of the record are opened; see `asking`."""

    def __post_init__(self) -> None:
        if self.runs and self.runs < MIN_VALUES:
            raise ConfigurationError(f"runs={self.runs}: expected 0 or at least {MIN_VALUES}, to derive an interval.")
        if not 0 < self.level < 1:
            raise ConfigurationError(f"level={self.level}: expected a probability between 0 and 1.")
        if self.runs:
            width_factor(MIN_VALUES, self.level)  # without SciPy, fails now and not after training
        if self.env not in ("current", "create"):
            raise ConfigurationError(f"env={self.env!r}: expected 'current' or 'create'.")
        if self.earlier is not None and self.kind != REPRODUCE:
            raise ConfigurationError(f"from_={self.from_!r}: expected 'first' or 'parent'.")
        if self.earlier is not None and self.runs:
            raise ConfigurationError(
                f"runs={self.runs}: a run with another seed cannot go on from a checkpoint. Leave out runs or from_."
            )
        if self.device not in (None, "cpu"):
            raise ConfigurationError(f"device={self.device!r}: expected 'cpu', or None for the script's own choice.")
        if self.threads is not None and self.threads < 1:
            raise ConfigurationError(f"threads={self.threads}: expected at least 1.")

    def asking(self, uri: str, into: str) -> "Request":
        """Return these options for a checkpoint, with the addresses of its record that may be opened.

        Args:
            uri: The URI of the checkpoint.
            into: The base URI of the result.
        """
        given = (into, self.earlier, *self.search, *self.data, *self.data.values(), *self.stages.values())
        return replace(self, addresses=Addresses(uri, given=given, online=self.online))

    @property
    def earlier(self) -> str | None:
        """The URI or folder of an earlier checkpoint of the run, from which to go on; None if none was given."""
        return None if self.from_ in (FIRST, PARENT) else os.fspath(self.from_)
