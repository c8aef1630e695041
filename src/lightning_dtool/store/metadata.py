"""What a dataset says about itself: identity, manifest, README, annotations, overlays and tags."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

from lightning_dtool.errors import (
    CorruptDatasetError,
    DatasetNotFoundError,
    MetadataKeyError,
    MissingItemError,
    StoreError,
)
from lightning_dtool.store import digest
from lightning_dtool.store.broker import Broker
from lightning_dtool.store.brokers import open_broker
from lightning_dtool.store.faults import store_errors
from lightning_dtool.store.item import Item
from lightning_dtool.store.manifest import Manifest, parse_admin_metadata, parse_manifest, parse_timestamp
from lightning_dtool.store.names import check_name, check_value
from lightning_dtool.store.parallel import run_all

_SIMPLE_NAME = re.compile(r"[\w-]+")


class DatasetMetadata:
    """The metadata of a frozen dataset. Only its annotations and tags can change. No item is read.

    Args:
        uri: The dataset's normalized URI.
        admin_metadata: Its administrative metadata.
    """

    def __init__(self, uri: str, admin_metadata: Mapping[str, Any]) -> None:
        self._uri = uri
        self._admin_metadata = dict(admin_metadata)
        self._opened: tuple[int, Broker] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._uri!r})"

    def __getstate__(self) -> dict[str, Any]:
        # Brokers hold connections, which cannot be pickled. Manifests may be large, so they are read again.
        return {"uri": self._uri, "admin_metadata": self._admin_metadata}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["uri"], state["admin_metadata"])  # type: ignore[misc]

    # -- identity -----------------------------------------------------------------------------

    @property
    def uri(self) -> str:
        """Its URI, normalized."""
        return self._uri

    @property
    def uuid(self) -> str:
        """Its UUID, which copies share."""
        return str(self._admin_metadata["uuid"])

    @property
    def name(self) -> str:
        """Its name."""
        return str(self._admin_metadata["name"])

    @property
    def admin_metadata(self) -> Mapping[str, Any]:
        """Its administrative metadata, unchanged."""
        return MappingProxyType(self._admin_metadata)

    @property
    def created_at(self) -> datetime:
        """When its building began, in UTC (old datasets record only when they were frozen)."""
        key = "created_at" if "created_at" in self._admin_metadata else "frozen_at"
        return parse_timestamp(self._uri, key, self._admin_metadata.get(key))

    @property
    def frozen_at(self) -> datetime:
        """When it was frozen, in UTC."""
        return parse_timestamp(self._uri, "frozen_at", self._admin_metadata.get("frozen_at"))

    @cached_property
    def content_digest(self) -> str:
        """The identity of its data: "sha256:…" over paths, sizes and hashes, independent of URI and UUID."""
        return digest.content_digest(self.items.values())

    # -- the manifest -------------------------------------------------------------------------

    @property
    def items(self) -> Mapping[str, Item]:
        """Its items by identifier, in order of their paths.

        Raises:
            CorruptDatasetError: If the manifest is damaged.
            UnsafeDatasetError: If the manifest names paths outside the dataset.
        """
        return self._manifest.items

    @property
    def relpaths(self) -> Mapping[str, str]:
        """The paths of its items by identifier, in order. For many items this is much faster than `items`.

        Raises:
            CorruptDatasetError, UnsafeDatasetError: As for `items`.
        """
        return self._manifest.relpaths

    @property
    def hash_function(self) -> str:
        """The function that made the items' hashes, by dtool's name, such as "md5sum_hexdigest"."""
        return self._manifest.hash_function

    @property
    def is_hash_known(self) -> bool:
        """Whether items can be compared with the manifest's hashes: whether their function is known."""
        return digest.algorithm_of(self.hash_function) is not None

    def item(self, relpath: str) -> Item:
        """Return an item by its path.

        Args:
            relpath: The Unix-like path below the dataset's data.

        Raises:
            MissingItemError: If no such item is listed.
        """
        return self._item(digest.generate_identifier(relpath), shown=relpath)

    def content_digest_of(self, identifiers: Iterable[str]) -> str:
        """Return the identity of some items' data; see `content_digest`.

        Args:
            identifiers: The items' identifiers.
        """
        return digest.content_digest(self._select(identifiers))

    # -- README, annotations, overlays and tags -------------------------------------------------

    def readme(self) -> str:
        """Return the README, YAML by dtool's convention.

        Raises:
            StoreError: If it cannot be read.
        """
        with store_errors(self._uri, "read the README"):
            return self._broker.get_readme_content()

    def annotation_names(self) -> list[str]:
        """Return the names of the annotations, sorted."""
        with store_errors(self._uri, "list the annotations"):
            return sorted(self._broker.list_annotation_names())

    def annotation(self, name: str) -> Any:
        """Return an annotation's value.

        Args:
            name: The annotation's name.

        Raises:
            MetadataKeyError: If there is no annotation of this name.
            CorruptDatasetError: If the annotation is damaged.
        """
        return self._named("annotation", name, self._annotation, self.annotation_names)

    def annotations(self) -> dict[str, Any]:
        """Return all annotations by name."""
        names = self.annotation_names()
        values = run_all([partial(self._annotation, name) for name in names], self._broker.at_once)
        return dict(zip(names, values, strict=True))

    def overlay_names(self) -> list[str]:
        """Return the names of the overlays, sorted."""
        with store_errors(self._uri, "list the overlays"):
            return sorted(self._broker.list_overlay_names())

    def overlay(self, name: str) -> dict[str, Any]:
        """Return an overlay: one value per item.

        Args:
            name: The overlay's name.

        Returns:
            The values by identifier, in order of the items' paths.

        Raises:
            MetadataKeyError: If there is no overlay of this name, or if it lacks items.
            CorruptDatasetError: If the overlay is damaged.
        """
        values: dict[str, Any] = self._named("overlay", name, self._overlay_as_written, self.overlay_names)
        relpaths = self._manifest.relpaths
        if values.keys() == relpaths.keys() and list(values) == list(relpaths):
            return values
        lacking = [relpath for identifier, relpath in relpaths.items() if identifier not in values]
        if lacking:
            raise MetadataKeyError(
                f"expected overlay {name!r} to have a value for each of {len(relpaths)} items, "
                f"found none for {len(lacking)}: {_some(lacking)}. Write the overlay again, for every item.",
                uri=self._uri,
            )
        return {identifier: values[identifier] for identifier in relpaths}

    def tags(self) -> list[str]:
        """Return the tags, sorted."""
        with store_errors(self._uri, "list the tags"):
            return sorted(self._broker.list_tags())

    def put_annotation(self, name: str, value: Any) -> None:
        """Write an annotation, or replace it.

        Args:
            name: Up to 80 letters, digits, `-` and `_`; no dots.
            value: Strict JSON: no NaN, no integer beyond 8 bytes.

        Raises:
            InvalidNameError: If dtool does not allow the name.
            MetadataValueError: If the value is not strict JSON.
            StoreError: If it cannot be written.
        """
        check_name("annotation", name, dots=False)
        check_value("annotation", name, value)
        with store_errors(self._uri, f"write annotation {name!r}"):
            self._broker.put_annotation(name, value)

    def put_tag(self, tag: str) -> None:
        """Tag the dataset. An existing tag is left as it is.

        Args:
            tag: Up to 80 letters, digits, `-`, `_` and `.`.

        Raises:
            InvalidNameError: If dtool does not allow the tag.
            StoreError: If it cannot be written.
        """
        check_name("tag", tag)
        with store_errors(self._uri, f"write tag {tag!r}"):
            self._broker.put_tag(tag)

    def delete_tag(self, tag: str) -> None:
        """Remove a tag. Does nothing if the dataset does not have it.

        Args:
            tag: The tag.

        Raises:
            InvalidNameError: If dtool does not allow the tag.
            StoreError: If it cannot be removed.
        """
        check_name("tag", tag)
        with store_errors(self._uri, f"remove tag {tag!r}"):
            self._broker.delete_tag(tag)

    # -- internals ----------------------------------------------------------------------------

    @property
    def _broker(self) -> Broker:
        # A forked process (a worker of a DataLoader) must not use its parent's connections.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), open_broker(self._uri))
        return self._opened[1]

    @cached_property
    def _manifest(self) -> Manifest:
        broker = self._broker  # a store that is gone is no manifest that is missing
        try:
            with store_errors(self._uri, "read the manifest"):
                content = broker.get_manifest()
        except StoreError as exc:
            if exc.kind == "absent":
                raise CorruptDatasetError(
                    "expected a manifest, found none. Restore the dataset from a copy.", uri=self._uri
                ) from exc
            raise
        return parse_manifest(self._uri, content)

    def _item(self, identifier: str, *, shown: str | None = None) -> Item:
        try:
            return self.items[identifier]
        except KeyError:
            raise MissingItemError(
                f"expected an item {shown or identifier!r}, found none among {len(self.items)} items. "
                "Check the name; `items` lists them all.",
                uri=self._uri,
                item=shown,
            ) from None

    def _select(self, identifiers: Iterable[str] | None) -> list[Item]:
        if identifiers is None:
            return list(self.items.values())
        return [self._item(identifier) for identifier in identifiers]

    def _overlay_as_written(self, name: str) -> dict[str, Any]:
        with store_errors(self._uri, f"read overlay {name!r}"):
            values = self._broker.get_overlay(name)
        if not isinstance(values, dict):
            raise CorruptDatasetError(
                f"expected overlay {name!r} to be an object, found {type(values).__name__}. "
                "Restore the dataset from a copy.",
                uri=self._uri,
            )
        return values

    def _annotation(self, name: str) -> Any:
        with store_errors(self._uri, f"read annotation {name!r}"):
            return self._broker.get_annotation(name)

    def _named(self, kind: str, name: str, read: Callable[[str], Any], names: Callable[[], list[str]]) -> Any:
        """Return an annotation or an overlay. Names are listed only if it cannot be read, or may lead elsewhere."""
        failure = None
        if _SIMPLE_NAME.fullmatch(name):
            try:
                return read(name)
            except StoreError as exc:
                failure = exc
        found = names()
        if name not in found:
            raise MetadataKeyError(
                f"expected the {kind} {name!r}, found {', '.join(found) or 'none'}. Use one of these or write the "
                f"{kind}.",
                uri=self._uri,
            ) from failure
        if failure is not None:
            raise failure
        return read(name)


def read_admin_metadata(uri: str, broker: Broker) -> dict[str, Any]:
    """Return the administrative metadata of a dataset, frozen or not.

    Args:
        uri: The dataset's normalized URI.
        broker: Its broker.

    Raises:
        DatasetNotFoundError: If there is no dataset.
        CorruptDatasetError: If the metadata is damaged.
        StoreError: If the store cannot be read.
    """
    try:
        with store_errors(uri, "open the dataset"):
            content = broker.get_admin_metadata()
    except StoreError as exc:
        if exc.kind == "absent":
            raise DatasetNotFoundError(
                "expected a dtool dataset, found none. Check the URI; "
                "`dtool ls BASE_URI` lists the datasets below a base URI, `lightning-dtool ls BASE_URI` checkpoints.",
                uri=uri,
            ) from exc
        raise
    return parse_admin_metadata(uri, content)


def _some(names: list[str]) -> str:
    """Show the first few of many names."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
