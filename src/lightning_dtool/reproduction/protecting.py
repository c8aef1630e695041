"""The protection of everything that is not a rerun's own: what it may write, and whether it may use the network."""

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning_dtool.errors import ConfigurationError, ReproductionError
from lightning_dtool.record import Provenance
from lightning_dtool.reproduction.outputs import outputs_at_risk
from lightning_dtool.reproduction.process import Outcome
from lightning_dtool.reproduction.refusals import refused_hosts, refused_writes
from lightning_dtool.sandbox.protection import Limits, is_below, means, protected
from lightning_dtool.store.private import cache_directory, dtool_cache_directory, make_private

_LONGEST_TEMPORARY = 70
"""The longest path of a folder for temporary files: sockets below it may have 107 characters."""

_SHOWN = 3


@dataclass(frozen=True)
class Protection:
    """The protection of one rerun.

    Attributes:
        limits: What it may do; None if this machine cannot enforce limits.
        temporary: Its folder for temporary files; None for that of the system.
        variables: Environment variables that lead temporary files and compiled code into its own folders.
        notes: Remarks for the result.
    """

    limits: Limits | None
    temporary: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def writable(self) -> list[str] | None:
        """What it may write; None if nothing prevents it from writing elsewhere."""
        return list(self.limits.folders) if self.limits is not None else None

    @property
    def network(self) -> bool:
        """Whether it may use the network."""
        return self.limits is None or self.limits.network

    @property
    def ends_by_itself(self) -> bool:
        """Whether it ends with this process without watching it."""
        return self.limits is not None and self.limits.means == "bubblewrap"

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs another one with this protection."""
        return list(command) if self.limits is None else protected(command, self.limits)


def protect(
    record: Provenance,
    source: Path,
    folder: Path,
    uris: Iterable[str],
    original: str,
    *,
    report: str,
    allow_write: Sequence[str],
    allow_network: bool,
) -> Protection:
    """Choose the protection of a rerun.

    Args:
        record: The record of the training.
        source: The folder with its unpacked source.
        folder: The folder of the rerun.
        uris: The datasets and checkpoints that it reads.
        original: The URI of the recorded checkpoint.
        report: The file to which it reports.
        allow_write: Files and folders that it may write beside its own.
        allow_network: Whether it may use the network.

    Raises:
        ReproductionError: If it might write to the original's folders, and this machine cannot prevent it.
    """
    found = means()
    if found is None:
        at_risk = [path for path in outputs_at_risk(record, source, original) if not is_below(path, allow_write)]
        if at_risk:
            raise ReproductionError(
                f"the recorded training wrote below {', '.join(at_risk[:_SHOWN])}, and nothing on this system can keep "
                "a rerun from doing so, too (Landlock in Linux 5.13 and later, or bubblewrap). Move that away, or "
                f"allow it: {_options(at_risk[:_SHOWN])}",
                kind="unprotected",
            )
        return Protection(None, notes=("not protected: this system has neither Landlock nor bubblewrap",))
    remote = [uri for uri in uris if not uri.startswith("file:")]
    temporary = _temporary_folder(folder)
    writable = [str(folder), str(temporary), *allow_write, *_caches(remote=bool(remote))]
    canary = folder.with_name(f"{folder.name}.canary")
    canary.touch()
    notes = []
    if allow_write:
        notes.append(f"it was allowed to write to {', '.join(allow_write)}")
    if allow_network:
        notes.append("it was allowed to use the network")
    elif remote:
        notes.append(f"it was allowed to use the network, because it reads {remote[0]}")
    limits = Limits(
        found,
        tuple(dict.fromkeys(os.path.realpath(path) for path in writable)),
        network=allow_network or bool(remote),
        local_only=record.trainer.settings.get("world_size", 1) == 1,
        report=report,
        canary=None if is_below(str(canary), allow_write) else str(canary),
    )
    return Protection(limits, temporary, _variables(folder, temporary), tuple(notes))


def allowed_paths(given: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Return the absolute paths that a rerun is allowed to write.

    Raises:
        ConfigurationError: If one of them does not exist.
    """
    found = tuple(os.path.realpath(os.path.expanduser(path)) for path in given)
    for path in found:
        if not os.path.exists(path):
            raise ConfigurationError(
                "expected a file or folder that the rerun may write, found none. Create it first.", path=path
            )
    return found


def notes_of(outcome: Outcome, protection: Protection) -> list[str]:
    """Return which protection was in force, and what it prevented, as remarks for the result.

    Args:
        outcome: How the rerun ended.
        protection: The protection that was chosen.
    """
    notes = list(protection.notes)
    entered = outcome.last("protected")
    if entered is not None:
        by = [f"{name} ({what})" for what in ("files", "network") for name in entered.get(what, [])]
        notes.append(f"protected by: {', '.join(by)}")
        if not entered.get("network") and not protection.network:
            notes.append("the network was not restricted: this system does not allow it")
    kept = refused_writes(outcome)
    if kept:
        shown = ", ".join(kept[:_SHOWN]) + (f" and {len(kept) - _SHOWN} more" if kept[_SHOWN:] else "")
        notes.append(f"it was kept from writing to {shown}")
    hosts = refused_hosts(outcome)
    if hosts:
        notes.append(f"it was kept from connecting to {', '.join(hosts[:_SHOWN])}")
    return notes


def _options(paths: Iterable[str]) -> str:
    return " ".join(f"--allow-write {path}" for path in paths)


def _temporary_folder(folder: Path) -> Path:
    found = folder / "tmp"
    if len(str(found)) > _LONGEST_TEMPORARY and os.path.isdir("/tmp"):  # noqa: S108
        return Path(tempfile.mkdtemp(prefix="rerun-", dir="/tmp"))
    found.mkdir()
    return found


def _caches(*, remote: bool) -> list[str]:
    """Return the caches of verified and remote items, which lose nothing if they are lost."""
    own = cache_directory()
    try:
        make_private(own)
    except OSError:
        if remote:
            raise
        return []
    return [str(path) for path in (own, *([dtool_cache_directory()] if remote else []))]


def _variables(folder: Path, temporary: Path) -> dict[str, str]:
    """Return variables that lead into the folder what libraries must write. What they only read stays where it is."""
    cache = folder / "cache"
    cache.mkdir()
    return {
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary)),
        "NUMBA_CACHE_DIR": str(cache / "numba"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TORCH_EXTENSIONS_DIR": str(cache / "extensions"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        **{f"WANDB_{name}_DIR": str(cache / "wandb") for name in ("CACHE", "CONFIG", "DATA")},
    }
