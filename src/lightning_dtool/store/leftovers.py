"""What an unfinished operation leaves behind in a store."""

from dataclasses import dataclass
from typing import Literal

from lightning_dtool.store.ownership import Owner

LeftoverKind = Literal["writing", "removing", "upload"]


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that was begun in a store and is not finished. Its owner may still be at work.

    Attributes:
        kind: `"writing"` for a dataset that is being written, `"removing"` for one that is being removed, `"upload"`
            for an upload of an item in parts.
        name: The dataset's name; empty if it is not known.
        uri: The URI that the dataset will have, or had. The base URI if it is not known.
        place: Where it lies: a folder, or a key of the store.
        owner: The process that began it; None if that is not known.
        since: When it was begun or last changed, in seconds since the epoch.
        whole: The URI under which what is there can be opened and verified as a frozen dataset; None if it is known
            to be incomplete.
    """

    kind: LeftoverKind
    name: str
    uri: str
    place: str
    owner: Owner | None
    since: float
    whole: str | None = None
