"""Operations on base URIs: a check that they can be written, listing, and deletion."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from lightning_dtool._public import public
from lightning_dtool.errors import (
    DatasetNotFoundError,
    InvalidURIError,
    LightningDtoolError,
    NotFrozenError,
    StoreError,
)
from lightning_dtool.store.brokers import broker_class, open_broker
from lightning_dtool.store.dataset import FrozenDataset
from lightning_dtool.store.faults import store_errors
from lightning_dtool.store.leftovers import Leftover
from lightning_dtool.store.metadata import read_admin_metadata
from lightning_dtool.store.parallel import run_all
from lightning_dtool.store.uris import local_path, normalize_uri, scheme_of

logger = logging.getLogger(__name__)


def ensure_writable(base_uri: str | os.PathLike[str]) -> str:
    """Check that datasets can be written to a base URI, before work depends on it.

    On disk a temporary file is created and removed. On S3 an upload is begun and aborted.

    Args:
        base_uri: A directory, or for instance `s3://bucket`.

    Returns:
        The normalized base URI.

    Raises:
        InvalidURIError: If the base URI is malformed or no installed storage broker reads it.
        StoreError: If it does not exist or cannot be written.
    """
    normal = normalize_uri(base_uri)
    require_directory(normal)
    broker = open_broker(normal)
    with store_errors(normal, "write to this base URI"):
        broker.check_writable()
    return normal


def require_directory(base_uri: str) -> None:
    """Raise unless a base URI on disk is a directory outside of datasets. Other base URIs are not checked.

    Args:
        base_uri: A normalized base URI.

    Raises:
        StoreError: If there is no directory.
        InvalidURIError: If it is a dataset, or a folder in one.
    """
    path = local_path(base_uri)
    if path is None:
        return
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise StoreError(
            f"expected a directory at {path}, found {found}. Create it: mkdir -p {path}", uri=base_uri, kind="absent"
        )
    real = path.resolve()
    dataset = next((folder for folder in (real, *real.parents) if (folder / ".dtool" / "dtool").is_file()), None)
    if dataset is not None:
        found = "a dataset" if dataset == real else f"a folder in the dataset {dataset}"
        raise InvalidURIError(
            f"expected a directory for datasets, found {found}. Choose one outside of it, such as {dataset.parent}.",
            uri=base_uri,
        )


@public
def iter_datasets(
    base_uri: str | os.PathLike[str], on_error: Callable[[str, LightningDtoolError], None] | None = None
) -> Iterator[FrozenDataset]:
    """Yield every frozen dataset below a base URI, without those that are still being built.

    Args:
        base_uri: A directory, or for instance `s3://bucket`.
        on_error: Called with the URI and the error of each dataset that cannot be opened. By default the error is
            logged as a warning.

    Yields:
        The datasets, in order of their URIs.

    Raises:
        InvalidURIError: If the base URI is malformed or no installed storage broker reads it.
        StoreError: If it does not exist or cannot be read.
    """
    normal = normalize_uri(base_uri)
    uris = sorted(_dataset_uris(normal))
    at_once = broker_class(scheme_of(normal)).at_once
    for start in range(0, len(uris), at_once):
        batch = uris[start : start + at_once]
        for uri, found in zip(batch, run_all([partial(_opened, uri) for uri in batch], at_once), strict=True):
            if isinstance(found, FrozenDataset):
                yield found
            elif isinstance(found, (NotFrozenError, DatasetNotFoundError)):
                # It is being built, or was removed after the listing.
                continue
            elif on_error is None:
                logger.warning("left out of the listing: %s", found)
            else:
                on_error(uri, found)


@public
def delete_dataset(uri: str | os.PathLike[str]) -> None:
    """Remove a dataset, frozen or unfinished. Readers never see a partly removed dataset as frozen.

    Args:
        uri: The dataset's URI.

    Raises:
        InvalidURIError: If the URI is malformed or no installed storage broker reads it.
        DatasetNotFoundError: If there is no dataset. Nothing is removed then.
        CorruptDatasetError: If the administrative metadata is damaged. Nothing is removed then.
        StoreError: If the dataset cannot be removed.
    """
    normal = normalize_uri(uri)
    path = local_path(normal)
    if path is not None and path.is_symlink():
        raise StoreError(
            f"expected a dataset, found a link to {os.path.realpath(path)}. Delete the dataset itself: "
            f"file://{os.path.realpath(path)}",
            uri=normal,
        )
    broker = open_broker(normal)
    read_admin_metadata(normal, broker)
    with store_errors(normal, "delete the dataset"):
        broker.remove()


def leftovers(base_uri: str | os.PathLike[str], *, quick: bool = False) -> list[Leftover]:
    """Return what was begun below a base URI and is not finished. Its owners may still be at work.

    Args:
        base_uri: A directory, or for instance `s3://bucket`.
        quick: Whether to return only what is found without opening each dataset. False by default.

    Raises:
        InvalidURIError: If the base URI is malformed or no installed storage broker reads it.
        StoreError: If it does not exist or cannot be read.
    """
    normal = normalize_uri(base_uri)
    with store_errors(normal, "look for unfinished datasets"):
        return list(broker_class(scheme_of(normal)).leftovers(normal, quick=quick))


def open_left(leftover: Leftover) -> FrozenDataset:
    """Open what was left of a dataset as if it was frozen, to verify it.

    Args:
        leftover: What is left, with a URI in `whole`.

    Raises:
        DatasetNotFoundError, CorruptDatasetError, StoreError: As for a frozen dataset.
    """
    uri = normalize_uri(str(leftover.whole))
    return FrozenDataset(uri, {**read_admin_metadata(uri, open_broker(uri)), "type": "dataset"})


def leave_note(base_uri: str) -> str:
    """Say in a store that this process writes datasets to it, if that finds unfinished ones faster.

    Args:
        base_uri: The normalized base URI.

    Returns:
        Where it is said, for `take_note`. Empty if it is not said.
    """
    with contextlib.suppress(StoreError), store_errors(base_uri, "write to this base URI"):
        return open_broker(base_uri).leave_note()
    return ""


def take_note(base_uri: str, note: str) -> None:
    """Take back what `leave_note` has said. A store that fails is not an error.

    Args:
        base_uri: The normalized base URI.
        note: What `leave_note` returned.
    """
    with contextlib.suppress(StoreError), store_errors(base_uri, "write to this base URI"):
        open_broker(base_uri).take_note(note)


def restore(base_uri: str, leftover: Leftover) -> bool:
    """Make a dataset visible that was left whole, and verified, by a process that ended.

    Args:
        base_uri: The normalized base URI.
        leftover: What is left.

    Returns:
        Whether it was done; False if another dataset has its name now.

    Raises:
        StoreError: If the store cannot be written.
    """
    with store_errors(leftover.uri, "finish the dataset"):
        try:
            open_broker(base_uri).restore(leftover)
        except FileExistsError:
            return False
    return True


def discard(base_uri: str, leftover: Leftover) -> None:
    """Remove what was left by a process that ended.

    Args:
        base_uri: The normalized base URI.
        leftover: What is left.

    Raises:
        StoreError: If it cannot be removed.
    """
    with store_errors(leftover.uri, "remove what is left of the dataset"):
        open_broker(base_uri).discard(leftover)


def _opened(uri: str) -> FrozenDataset | LightningDtoolError:
    try:
        return FrozenDataset.from_uri(uri)
    except LightningDtoolError as exc:
        return exc


def _dataset_uris(base_uri: str) -> Iterable[str]:
    """Return the URIs of everything that looks like a dataset. Opening one of them may still fail."""
    path = local_path(base_uri)
    with store_errors(base_uri, "list the datasets"):
        if path is None:
            return broker_class(scheme_of(base_uri)).list_dataset_uris(base_uri, None)
        # Not normalized: a folder whose name cannot be in a URI must not make the listing fail.
        return [f"{base_uri}/{child.name}" for child in path.iterdir() if _looks_like_a_dataset(child)]


def _looks_like_a_dataset(folder: Path) -> bool:
    """Tell whether there is anything in the place of administrative metadata. What it is, is seen when it is opened."""
    return os.path.lexists(folder / ".dtool" / "dtool")
