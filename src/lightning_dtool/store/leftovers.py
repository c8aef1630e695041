"""What an unfinished operation leaves behind in a store."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightning_dtool.store.ownership import Owner, current_owner, is_alive, owner_from_json, owner_to_json
from lightning_dtool.store.temporaries import is_being_written, is_temporary

LeftoverKind = Literal["writing", "removing", "proto", "upload", "objects", "note"]

_SECONDS_TO_BE_NAMED = 600
"""The age in seconds at which what names no owner is nobody's: an owner is named at once."""
_SECONDS_TO_BE_REGISTERED = 24 * 3600
"""The age in seconds at which objects without a registration are nobody's. A program that copies a bucket object by
object may copy the registration last."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that was begun in a store and is not finished. Its owner may still be at work.

    Attributes:
        kind: `"writing"` for a dataset that is being written, `"removing"` for one that is being removed, `"proto"` for
            one that another program may be writing, which says nothing about its owner, `"upload"` for an upload of
            an item in parts, `"objects"` for those of a dataset that is not registered, so that nobody lists it, and
            `"note"` for the note of a process that writes to the store.
        name: The dataset's name; empty if it is not known.
        uri: The URI that the dataset will have, or had. The base URI if it is not known.
        place: Where it lies: a folder, or a key of the store.
        owner: The process that began it; None if that is not known.
        since: When it was begun or last changed, in seconds since the epoch.
        whole: The URI under which what is there can be opened and verified; None if it is known to be incomplete.
    """

    kind: LeftoverKind
    name: str
    uri: str
    place: str
    owner: Owner | None
    since: float
    whole: str | None = None

    @property
    def is_owned(self) -> bool | None:
        """Whether its owner still runs; None if this cannot be known here."""
        if self.owner is not None:
            return is_alive(self.owner)
        name = os.path.basename(self.place)
        if is_temporary(name):
            return is_being_written(name)
        bound = _SECONDS_TO_BE_REGISTERED if self.kind == "objects" else _SECONDS_TO_BE_NAMED
        return None if self.kind == "proto" or time.time() - self.since < bound else False


# -- stores other than a disk -------------------------------------------------------------------------

_OWNER = "owner"
_PURPOSE = "unfinished"


def with_owner(
    admin_metadata: Mapping[str, Any], purpose: Literal["writing", "removing"] = "writing"
) -> dict[str, Any]:
    """Return the administrative metadata of an unfinished dataset with this process as its owner.

    Two keys are added, which a frozen dataset does not have.

    Args:
        admin_metadata: The administrative metadata without an owner.
        purpose: What this process does with the dataset. Default: it writes it.
    """
    return {**admin_metadata, _PURPOSE: purpose, _OWNER: owner_to_json(current_owner())}


def without_owner(admin_metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the administrative metadata of an unfinished dataset without what `with_owner` has added.

    Args:
        admin_metadata: The administrative metadata.
    """
    return {name: value for name, value in admin_metadata.items() if name not in {_OWNER, _PURPOSE}}


def leftover_of(uri: str, place: str, admin_metadata: Mapping[str, Any]) -> Leftover | None:
    """Return what is left of a dataset; None if it is frozen.

    Args:
        uri: The dataset's URI.
        place: Where it lies.
        admin_metadata: Its administrative metadata, which may come from another program.
    """
    if admin_metadata.get("type") == "dataset":
        return None
    owner = owner_from_json(str(admin_metadata.get(_OWNER, "")))
    purpose = admin_metadata.get(_PURPOSE)
    created = admin_metadata.get("created_at")
    return Leftover(
        kind="proto" if owner is None else "removing" if purpose == "removing" else "writing",
        name=str(admin_metadata.get("name", "")),
        uri=uri,
        place=place,
        owner=owner,
        since=owner.since if owner else float(created) if isinstance(created, int | float) else 0.0,
    )
