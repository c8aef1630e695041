"""Does a dataset hold what it says it holds?"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_dtool.errors import LightningDtoolError, MissingItemError, UnsafeDatasetError, VerificationError
from lightning_dtool.store.cache import Advance, Cache, in_parallel
from lightning_dtool.store.digest import algorithm_of, hash_file, same_hash
from lightning_dtool.store.disk import files_below
from lightning_dtool.store.faults import store_errors
from lightning_dtool.store.manifest import Item

if TYPE_CHECKING:
    from lightning_dtool.store.dataset import FrozenDataset


def verify(
    dataset: "FrozenDataset",
    items: list[Item],
    *,
    sha256: Mapping[str, Any],
    data_directory: Path | None,
    cache: Cache | None,
    whole: bool,
    progress: bool,
) -> None:
    """Read items and compare them with what is recorded.

    Args:
        dataset: The dataset.
        items: The items to read.
        sha256: Their SHA-256 by identifier, as far as recorded.
        data_directory: Where they lie, if that is on disk.
        cache: Where remote ones go; they are fetched again, because a copy says nothing about the store.
        whole: Whether the items are all there are, so that other files are too many.
        progress: Whether to show a progress bar on a terminal.

    Raises:
        VerificationError: If anything differs; the message names every such item.
    """

    def fault(item: Item, advance: Advance) -> str | None:
        try:
            path = cache.download(item, advance) if cache else dataset.path(item.identifier)
        except MissingItemError:
            return f"{item.relpath}: missing"
        except (VerificationError, UnsafeDatasetError) as exc:
            return f"{item.relpath}: {str(exc).removeprefix(dataset.uri + ': ')}"
        with store_errors(dataset.uri, f"read item {item.relpath!r}"):
            if cache is None:
                advance(item.size_in_bytes)
            return _difference(path, item, sha256.get(item.identifier), dataset.hash_function)

    faults = [found for found in in_parallel(fault, items, label="Verifying", progress=progress) if found]
    if whole and data_directory is not None:
        faults += _unlisted(dataset, data_directory)
    if faults:
        raise VerificationError(
            f"{dataset.uri}: expected {len(items)} items as recorded, found {len(faults)} differences:\n  "
            + "\n  ".join(faults)
            + "\nRestore the dataset from a copy."
        )


def _difference(path: Path, item: Item, sha256: object, hash_function: str) -> str | None:
    """Say how a file differs from what is recorded, or None."""
    size = path.stat().st_size
    if size != item.size_in_bytes:
        return f"{item.relpath}: expected {item.size_in_bytes} bytes, found {size}"
    if isinstance(sha256, str):
        algorithm, recorded = "sha256", sha256
    else:
        known = algorithm_of(hash_function)
        if known is None:
            return f"{item.relpath}: cannot be checked, the hash function {hash_function!r} is unknown"
        algorithm, recorded = known, item.hash
    found = hash_file(path, algorithm)
    if not same_hash(found, recorded):
        return f"{item.relpath}: expected {algorithm} {recorded}, found {found}"
    return None


def _unlisted(dataset: "FrozenDataset", data_directory: Path) -> list[str]:
    listed = set(dataset.relpaths.values())
    try:
        with store_errors(dataset.uri, "list the files of the dataset"):
            present = sorted(relpath for relpath, _ in files_below(data_directory))
    except LightningDtoolError as exc:
        # Without a data directory the items are reported as missing already.
        return [] if isinstance(exc.__cause__, FileNotFoundError) else [str(exc)]
    return [f"{relpath}: not listed in the manifest" for relpath in present if relpath not in listed]
