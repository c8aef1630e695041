"""The addresses that a record names, and which of them are opened."""

import json
import os
import re
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

from lightning_dtool.errors import InvalidURIError, StoreError
from lightning_dtool.store.dataset import FrozenDataset
from lightning_dtool.store.faults import store_errors
from lightning_dtool.store.hosts import addresses_of, is_link_local, is_loopback
from lightning_dtool.store.uris import normalize_uri, scheme_of
from lightning_dtool.store.waiting import limited, patience

STORES = "LIGHTNING_DTOOL_STORES"
"""The environment variable that lists base URIs, separated by spaces, that any record may name."""
MAX_ADDRESSES = 32
"""The largest number of datasets that are opened only because the user allowed all addresses."""

_ON_DISK = frozenset({"file", "symlink"})
"""The schemes of dtool's brokers for disks."""
_WEB = frozenset({"http", "https"})

T = TypeVar("T")


class Addresses:
    """Decides for each address that a record names whether it is opened, and limits the time that all of them take.

    An address is opened if it is in the same store as the dataset that the user asked for, on disk if that dataset is
    on disk or in a store of the user's, or in a store that the user has configured. With `online` any other one is
    opened as well, except loopback and link-local addresses.

    Args:
        asked: The URI of the dataset with the record. None if there is none.
        given: Other URIs and base URIs that the user has given. Those that are no URIs are ignored.
        online: Whether any store may be asked. By default only those above.
    """

    def __init__(self, asked: str | None = None, *, given: Iterable[object] = (), online: bool = False) -> None:
        record = None if asked is None else normalize_uri(asked)
        uris = [uri for uri in (record, *map(_normal, given)) if uri is not None]
        self._stores = {_store_of(uri) for uri in uris if scheme_of(uri) not in _ON_DISK}
        self._folders = [uri for uri in uris if scheme_of(uri) in _ON_DISK]
        self._is_local = record is not None and scheme_of(record) in _ON_DISK
        self._reads_disk = record is not None and (self._is_local or _is_configured(record))
        self._online = online
        self._opened: set[str] = set()
        self._seconds = 0.0

    def read(self, uri: str, reading: Callable[[FrozenDataset], T]) -> T:
        """Open a dataset and read from it, within the time that is left for all addresses of the record.

        Args:
            uri: The address in the record.
            reading: What to read.

        Raises:
            StoreError: If the address is not opened (its `kind` is `"offline"`, or `"denied"` for an address of this
                machine), or if the time is over.
            LightningDtoolError: As for `FrozenDataset.from_uri`, and what `reading` raises.
        """
        normal = normalize_uri(uri)
        self.permit(normal)
        if scheme_of(normal) in _ON_DISK:
            return reading(FrozenDataset.from_uri(normal))
        return self._bounded(normal, lambda: reading(self._open(normal)))

    def open(self, uri: str) -> FrozenDataset:
        """Open a dataset and read its manifest; see `read`.

        Args:
            uri: The address in the record.
        """

        def opened(dataset: FrozenDataset) -> FrozenDataset:
            _ = dataset.content_digest  # within the time
            return dataset

        return self.read(uri, opened)

    def permit(self, uri: str) -> None:
        """Check that an address is opened.

        Args:
            uri: The address in the record.

        Raises:
            StoreError: If it is not; see `read`.
        """
        normal = normalize_uri(uri)
        if self._is_users(normal):
            return
        if not self._online:
            raise StoreError(
                "not looked at (offline): only a record names this address. If you trust it, allow it with --online"
                f" (in Python: online=True), or name its base URI in the environment variable {STORES}.",
                uri=normal,
                kind="offline",
            )
        if normal not in self._opened and len(self._opened) >= MAX_ADDRESSES:
            raise StoreError(
                f"not looked at: {MAX_ADDRESSES} other addresses of the same record were. Name the base URIs that you"
                f" trust in the environment variable {STORES}.",
                uri=normal,
                kind="offline",
            )
        self._opened.add(normal)
        host = urlsplit(normal).hostname
        if scheme_of(normal) in _WEB and host is not None:
            self._bounded(normal, partial(self._check_host, normal, host))

    # -- internals ----------------------------------------------------------------------------

    def _is_users(self, uri: str) -> bool:
        if scheme_of(uri) in _ON_DISK and (self._reads_disk or _is_below(uri, self._folders)):
            return True
        return _store_of(uri) in self._stores or _is_configured(uri)

    def _open(self, uri: str) -> FrozenDataset:
        if self._is_local or self._is_users(uri) or scheme_of(uri) not in _WEB:
            return FrozenDataset.from_uri(uri)
        from lightning_dtool.store.http import elsewhere_only

        with elsewhere_only():
            return FrozenDataset.from_uri(uri)

    def _check_host(self, uri: str, host: str) -> None:
        found = addresses_of(host)
        refused = [each for each in found if is_link_local(each) or (is_loopback(each) and not self._is_local)]
        if refused:
            raise StoreError(
                f"not looked at: {host} is {refused[0]}, a loopback or link-local address, which no"
                f" record may name. If it is yours, name its base URI in the environment variable {STORES}.",
                uri=uri,
                kind="denied",
            )

    def _bounded(self, uri: str, call: Callable[[], T]) -> T:
        left = patience() - self._seconds
        begun = time.monotonic()
        with store_errors(uri, "read an address of the record in the time for all of them"):
            if left <= 0:
                raise TimeoutError(f"{patience():g} s are over")
            try:
                return limited(call, left)
            finally:
                self._seconds += time.monotonic() - begun


def _normal(uri: object) -> str | None:
    try:
        return normalize_uri(uri)  # type: ignore[arg-type]  # it refuses what is no text
    except InvalidURIError:
        return None


def _store_of(uri: str) -> tuple[str, str]:
    """Return what the datasets of one store have in common: the scheme, and the bucket or the server."""
    scheme = scheme_of(uri)
    if scheme in _WEB:
        try:
            parts = urlsplit(uri)
            return scheme, f"{parts.hostname}:{parts.port or (443 if scheme == 'https' else 80)}"
        except ValueError as error:
            raise InvalidURIError(f"expected the address of a web server: {error}. Correct it.", uri=uri) from error
    return scheme, _authority(uri)


def _authority(uri: str) -> str:
    return uri.split("://", 1)[1].partition("/")[0]


def _is_below(uri: str, bases: Iterable[str]) -> bool:
    return any(uri == base or uri.startswith(f"{base}/") for base in bases)


def _is_configured(uri: str) -> bool:
    """Tell whether the user has settings for the store of a URI, or lists its base URI."""
    bases = [base for text in os.environ.get(STORES, "").split() if (base := _normal(text))]
    if _is_below(uri, bases):
        return True
    scheme = scheme_of(uri)
    if scheme in _ON_DISK | _WEB:
        return False
    wanted = re.compile(rf"DTOOL_{re.escape(scheme.upper())}_[A-Z_]+_{re.escape(_authority(uri))}")
    return any(wanted.fullmatch(name) for name in (*os.environ, *_dtool_settings()))


def _dtool_settings() -> list[str]:
    from dtoolcore.utils import DEFAULT_CONFIG_PATH

    try:
        with open(DEFAULT_CONFIG_PATH, encoding="utf-8") as file:
            return list(json.load(file))
    except (OSError, ValueError, TypeError):
        return []
