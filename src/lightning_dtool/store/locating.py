"""The search for a dataset that may have moved, by URI, UUID and content."""

from collections.abc import Callable, Sequence
from importlib import import_module

from lightning_dtool._public import public
from lightning_dtool.errors import DatasetNotFoundError, LightningDtoolError, VerificationError
from lightning_dtool.store.addresses import Addresses
from lightning_dtool.store.dataset import FrozenDataset
from lightning_dtool.store.places import iter_datasets

LOOKUP_MODULE = "dtool_lookup_api"
"""The client of dserver: the extra `dserver`."""


@public
def locate(
    uri: str | None,
    uuid: str | None,
    *,
    content_digest: str | None = None,
    search: Sequence[str] = (),
    lookup: bool = True,
) -> FrozenDataset:
    """Find a dataset that may have moved.

    The search tries the old URI, then the base URIs in `search` (first by UUID, then by content), then dserver. Only
    metadata is read; items are compared with their hashes when they are used.

    Args:
        uri: The old URI. None if it is unknown.
        uuid: The UUID, which copies share. None if it is unknown.
        content_digest: The identity of the content. With it, a dataset that was packed again is found as well, and one
            with the UUID and other content is refused.
        search: Base URIs to search. None by default.
        lookup: Whether to ask dserver if `dtool_lookup_api` is installed. True by default.

    Returns:
        The dataset.

    Raises:
        VerificationError: If the only dataset with this UUID has other content.
        DatasetNotFoundError: If there is none. The message lists all places that were searched.

    Example:
        ```python
        dataset = locate("s3://old-bucket/6a1c…", "6a1c…", search=["s3://archive", "/data"])
        ```
    """
    return find(uri, uuid, content_digest=content_digest, search=search, lookup=lookup)


def find(
    uri: str | None,
    uuid: str | None,
    *,
    content_digest: str | None = None,
    search: Sequence[str] = (),
    lookup: bool = True,
    addresses: Addresses | None = None,
) -> FrozenDataset:
    """Find a dataset that may have moved; see `locate`.

    Args:
        uri: The old URI.
        uuid: The UUID.
        content_digest: The identity of the content.
        search: Base URIs to search.
        lookup: Whether to ask dserver.
        addresses: Decides whether the old URI is opened, because a record names it. By default it is.
    """
    finder = _Finder(uuid, content_digest, addresses)
    found = (
        (finder.at_recorded(uri) if uri else None)
        or finder.below(search)
        or (finder.by_dserver() if lookup and uuid else None)
    )
    if found is not None:
        return found
    wanted = " or ".join(
        [
            *([f"the UUID {uuid}"] if uuid else []),
            *([f"the content {content_digest}"] if content_digest else []),
        ]
    )
    looked = "".join(f"\n  {line}" for line in finder.notes) or " nowhere"
    if finder.changed is not None:
        raise VerificationError(
            f"expected the dataset {uuid} with the content {content_digest}, found other content "
            f"under that UUID: {finder.changed.content_digest}. It was changed after it was frozen, or is damaged. "
            f"Give a place with an unchanged copy: --search BASE_URI. Looked in:{looked}",
            uri=finder.changed.uri,
        )
    raise DatasetNotFoundError(
        f"expected a dataset with {wanted or 'this URI'}, found none. Give a place "
        f"to search, --search BASE_URI, or another dataset in its place, --data OLD=NEW. Looked in:{looked}",
        uri=uri,
    )


class _Finder:
    """The search for one dataset, with notes on what was found instead."""

    def __init__(self, uuid: str | None, content_digest: str | None, addresses: Addresses | None) -> None:
        self._uuid = uuid
        self._addresses = addresses
        self._content_digest = content_digest
        self.notes: list[str] = []
        self.changed: FrozenDataset | None = None

    def at_recorded(self, uri: str) -> FrozenDataset | None:
        """Return the dataset at the old URI if it is the wanted one."""
        addresses = self._addresses
        return self.at(uri, "where it was", FrozenDataset.from_uri if addresses is None else addresses.open)

    def at(
        self, uri: str, why: str, opening: Callable[[str], FrozenDataset] = FrozenDataset.from_uri
    ) -> FrozenDataset | None:
        """Return the dataset at a URI if it is the wanted one."""
        try:
            dataset = opening(uri)
            if self._is_it(dataset):
                return dataset
        except LightningDtoolError as error:
            self.notes.append(f"{uri} ({why}): {_reason(error)}")
            return None
        if dataset is not self.changed:
            self.notes.append(f"{uri} ({why}): another dataset, with the UUID {dataset.uuid}")
        return None

    def below(self, base_uris: Sequence[str]) -> FrozenDataset | None:
        """Return the first dataset below the base URIs with the UUID, else the first with the content."""
        others: list[FrozenDataset] = []
        for base_uri in base_uris:
            found = len(others)
            damaged: list[str] = []
            try:
                for dataset in iter_datasets(base_uri, _noting(damaged)):
                    if self._uuid is None or dataset.uuid != self._uuid:
                        others.append(dataset)
                    elif self._passes(dataset):
                        return dataset
            except LightningDtoolError as error:
                self.notes.append(f"{base_uri}: {_reason(error)}")
                continue
            self.notes.append(f"{base_uri}: {len(others) - found} other datasets")
            self.notes += [f"{line} (passed over)" for line in damaged]
        # Last, because the content of each is known only from its manifest.
        return next(filter(self._passes, others), None) if self._content_digest is not None else None

    def _passes(self, dataset: FrozenDataset) -> bool:
        """Tell whether a dataset is the wanted one. Note it and return False if its manifest cannot be read."""
        try:
            return self._is_it(dataset)
        except LightningDtoolError as error:
            self.notes.append(f"{dataset.uri}: {_reason(error)} (passed over)")
            return False

    def by_dserver(self) -> FrozenDataset | None:
        """Return the dataset from the URIs that dserver knows. Failures are noted."""
        try:
            client = import_module(LOOKUP_MODULE)
        except Exception as error:  # it may be installed and broken
            missing = isinstance(error, ModuleNotFoundError) and error.name == LOOKUP_MODULE
            self.notes.append(
                "dserver: not asked, its client is not installed (pip install 'lightning-dtool[dserver]')"
                if missing
                else f"dserver: not asked, {_reason(error)}"
            )
            return None
        try:
            answers = client.get_datasets_by_uuid(self._uuid)
            uris = [str(answer["uri"]) for answer in answers]
        except Exception as error:  # no settings, no token, no network, an answer of another version
            self.notes.append(f"dserver: {_reason(error)}")
            return None
        if not uris:
            self.notes.append("dserver: it does not know this UUID")
        for uri in uris:
            found = self.at(uri, "as dserver says")
            if found is not None:
                return found
        return None

    def _is_it(self, dataset: FrozenDataset) -> bool:
        """Tell whether a dataset is the wanted one, by UUID and content. Note one that was changed."""
        if self._uuid is None or dataset.uuid != self._uuid:
            # If only the URI is known, any dataset there is the wanted one.
            unknown = self._uuid is None and self._content_digest is None
            return unknown or self._has_content(dataset)
        if self._content_digest is None or self._has_content(dataset):
            return True
        self.changed = dataset
        self.notes.append(f"{dataset.uri}: the UUID is right, the content is not: {dataset.content_digest}")
        return False

    def _has_content(self, dataset: FrozenDataset) -> bool:
        return self._content_digest is not None and dataset.content_digest == self._content_digest


def _noting(notes: list[str]) -> Callable[[str, LightningDtoolError], None]:
    return lambda uri, error: notes.append(f"{uri}: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Return an error on one line, without the URI: the note already begins with it."""
    text = error.reason if isinstance(error, LightningDtoolError) else str(error)
    return " ".join(text.split()) or type(error).__name__
