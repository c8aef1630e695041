"""One item of a dataset."""

from dataclasses import dataclass

from lightning_dtool._public import public


@public
@dataclass(frozen=True, slots=True)
class Item:
    """One item of a dataset, as the manifest lists it.

    Attributes:
        identifier: dtool's identifier, the SHA-1 of `relpath`.
        relpath: The Unix-like path below the dataset's data.
        size_in_bytes: Its size.
        hash: Its hash, by the manifest's `hash_function` (an MD5 in hexadecimal digits for most stores).
    """

    identifier: str
    relpath: str
    size_in_bytes: int
    hash: str
