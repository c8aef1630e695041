"""Recovery from what killed processes and failing stores have left behind."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lightning_dtool._public import public
from lightning_dtool.errors import (
    CorruptDatasetError,
    DatasetNotFoundError,
    LightningDtoolError,
    MissingItemError,
    NotFrozenError,
    StoreError,
)
from lightning_dtool.items import CHECKPOINT_TAG, RECORD_ITEM
from lightning_dtool.recovery.folders import Found, leads_into, look_through
from lightning_dtool.store import local_path, normalize_uri
from lightning_dtool.store.leftovers import Leftover
from lightning_dtool.store.ownership import Owner, describe, is_alive
from lightning_dtool.store.places import discard, ensure_writable, leftovers, open_left, restore
from lightning_dtool.store.temporaries import is_being_written

Outcome = Literal["finished", "published", "removed", "left", "failed"]

_NOT_WHOLE = (CorruptDatasetError, DatasetNotFoundError, MissingItemError, NotFrozenError)

_WHAT = {
    "writing": "a dataset that was being written",
    "removing": "a dataset that was being removed",
    "proto": "a proto dataset",
    "upload": "an upload",
    "objects": "objects of a dataset that is not registered",
    "note": "the note of a process that wrote datasets",
}


@public
@dataclass(frozen=True, slots=True)
class Recovered:
    """Something that was unfinished, and what `recover` did about it.

    Attributes:
        outcome: `"finished"` for a dataset that was whole and is now frozen at its URI, `"published"` for a checkpoint
            file whose dataset was written now, `"removed"` for what was incomplete or being removed, `"left"` for what
            may be in use, and `"failed"` for what could not be finished or removed.
        what: What was found.
        uri: The URI of its dataset, or the base URI if that is not known.
        place: Where it lay: a folder, a file or a key of the store.
        reason: Why it was left, or could not be finished or removed; empty otherwise.
    """

    outcome: Outcome
    what: str
    uri: str
    place: str
    reason: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return it as plain values."""
        return asdict(self)


@public
def recover(
    base_uri: str | os.PathLike[str],
    folders: Iterable[str | os.PathLike[str]] = (".",),
    *,
    dry_run: bool = False,
    other_hosts: bool = False,
) -> list[Recovered]:
    """Finish or remove what processes that were killed, and stores that failed, have left behind.

    A dataset that is whole becomes visible at its URI; one that is incomplete is removed. A checkpoint that could not
    be published is published from its file. Temporary files beside checkpoint files are removed. What a running process
    is working on is left alone, and so is a dataset to which a link in one of the folders leads.

    Args:
        base_uri: Where the datasets are: a directory, or for instance `s3://bucket`.
        folders: The folders of Lightning's checkpoint files. Default: the working directory.
        dry_run: Whether to change nothing, and to return what would be done. Default: False.
        other_hosts: Whether what processes on other machines or in other containers have begun is finished or removed,
            too. They cannot be asked from here: make sure that none of them is running. Default: False.

    Returns:
        What was found, and what was done about it. Nothing if nothing is unfinished.

    Raises:
        InvalidURIError: If the base URI is malformed, is a dataset, or no installed storage broker reads it.
        StoreError: If the store does not exist or cannot be read and written.

    Example:
        ```python
        for found in recover("models", ["lightning_logs"]):
            print(found.outcome, found.what, found.uri)
        ```
    """
    base = normalize_uri(base_uri) if dry_run else ensure_writable(base_uri)
    inside = look_through(Path(folder) for folder in folders)
    return [
        *(_recovered(base, leftover, inside, dry_run, other_hosts) for leftover in leftovers(base)),
        *(_published(base, path, dry_run, other_hosts) for path in inside.unpublished),
        *(_removed(base, path, dry_run, other_hosts) for path in inside.temporary),
    ]


def _recovered(base: str, leftover: Leftover, inside: Found, dry_run: bool, other_hosts: bool) -> Recovered:
    def done(outcome: Outcome, reason: str = "") -> Recovered:
        return Recovered(outcome, _WHAT[leftover.kind], leftover.uri, leftover.place, reason)

    obstacle = _obstacle(leftover, other_hosts)
    if obstacle is not None:
        return done("left", obstacle)
    place = local_path(leftover.uri)
    linked = place is not None and bool(leftover.name) and leads_into(inside.targets, place)
    try:
        if leftover.whole is not None and (leftover.kind != "removing" or linked) and _is_whole(leftover):
            if dry_run or restore(base, leftover):
                return done("finished")
            return done("left", "it is whole, but another dataset has its name now. Rename or remove the other one.")
        if not dry_run:
            discard(base, leftover)
    except LightningDtoolError as error:
        if error.kind == "absent":
            return done("left", "another process has finished or removed it meanwhile.")
        return done("failed", error.reason)
    return done("removed")


def _published(base: str, path: Path, dry_run: bool, other_hosts: bool) -> Recovered:
    """Publish a checkpoint file that could not be published, if its dataset was to be at this base URI."""
    from lightning_dtool.publishing import unpublished  # imports torch

    def done(outcome: Outcome, uri: str, reason: str = "") -> Recovered:
        return Recovered(outcome, "a checkpoint that was not published", uri, str(path), reason)

    try:
        owner = unpublished.owner_of(path)
        obstacle = None if owner is None else _in_use(owner, is_alive(owner), other_hosts)
        if obstacle is not None:
            return done("left", base, obstacle)
        if not path.is_file() or unpublished.is_overwritten(path):
            if not dry_run:
                unpublished.discard(path)
            return done("removed", base)
        there = normalize_uri(unpublished.base_uri_of(path))
        if there != base:
            return done("left", there, f"it belongs to another base URI: lightning-dtool recover {there}")
        if dry_run:
            return done("published", base)
        dataset = unpublished.publish(path)
    except LightningDtoolError as error:
        return done("failed", base, error.reason)
    if dataset is None:
        return done("left", base, "another process is publishing it, or has published it meanwhile.")
    return done("published", dataset.uri)


def _removed(base: str, path: Path, dry_run: bool, other_hosts: bool) -> Recovered:
    def done(outcome: Outcome, reason: str = "") -> Recovered:
        return Recovered(outcome, "a temporary file", base, str(path), reason)

    written = is_being_written(path.name)
    if written:
        return done("left", "a running process writes it.")
    if written is None and not other_hosts:
        return done("left", "its process cannot be asked from here. If it is not running: recover --other-hosts.")
    try:
        if not dry_run:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    except OSError as error:
        return done("failed", str(error))
    return done("removed")


def _obstacle(leftover: Leftover, other_hosts: bool) -> str | None:
    """Return why something that is unfinished is left alone; None if it is nobody's."""
    owned = leftover.is_owned
    if leftover.kind == "proto" and not owned:
        return "it does not say who writes it. If nobody does, delete it: lightning_dtool.delete_dataset(uri)."
    if leftover.kind == "objects" and owned is None and not other_hosts:
        return "a program may be copying it. They are removed when they are a day old, or by: recover --other-hosts."
    return _in_use(leftover.owner, owned, other_hosts)


def _in_use(owner: Owner | None, owned: bool | None, other_hosts: bool) -> str | None:
    if owned:
        return f"{describe(owner)}, is at work on it."
    if owned is None and not other_hosts:
        return f"{describe(owner)}, cannot be asked from here. If no such process is running: recover --other-hosts."
    return None


def _is_whole(leftover: Leftover) -> bool:
    """Tell whether all of a dataset is there, and is what was written.

    Raises:
        StoreError: If this cannot be told, because something cannot be read.
    """
    try:
        dataset = open_left(leftover)
        dataset.verify()
        dataset.readme()
        dataset.annotations()
        for name in dataset.overlay_names():
            dataset.overlay(name)
        recorded = {item.relpath for item in dataset.items.values()}
        return CHECKPOINT_TAG not in dataset.tags() or RECORD_ITEM in recorded
    except StoreError as error:
        if error.kind != "absent":
            raise
    except _NOT_WHOLE:
        pass
    return False
