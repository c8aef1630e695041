"""The interface of a storage broker, as far as this package uses one."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from lightning_dtool.errors import StoreError
from lightning_dtool.store.item import Item
from lightning_dtool.store.leftovers import Leftover


class Hasher(Protocol):
    """dtool's hash function of a store: callable with a path, and named as manifests name it."""

    name: str

    def __call__(self, filename: str) -> str:
        """Return the hash of a file."""
        ...


class Broker(ABC):
    """Access to one dataset, or to one base URI, in one kind of store.

    Methods that dtool's own brokers have keep dtool's names and signatures, so that a class may inherit from one of
    them first and from this class second: dtool's methods then implement the abstract ones. `DtoolBroker` wraps any
    other broker.

    Methods raise whatever their store raises. Callers wrap them in `faults.store_errors`.

    Attributes:
        uri: The normalized URI that the broker was opened with.
        at_once: How many requests the store takes at a time. More than 1 only for a `ParallelBroker`.
        compares_metadata: Whether `held_items` raises if metadata is not what was written.
    """

    uri: str
    at_once: int = 1
    compares_metadata: bool = False

    # -- places -------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def connect(cls, uri: str, *, new: bool = False) -> "Broker":
        """Return a broker for a dataset or a base URI.

        Args:
            uri: A normalized URI.
            new: Whether it is known that there is no dataset yet, so that the store need not be asked.
        """

    @classmethod
    @abstractmethod
    def generate_uri(cls, name: str, uuid: str, base_uri: str) -> str:
        """Return the URI of a new dataset.

        Args:
            name: The dataset's name.
            uuid: The dataset's UUID.
            base_uri: Where it goes.
        """

    @classmethod
    @abstractmethod
    def list_dataset_uris(cls, base_uri: str, config_path: str | None) -> list[str]:
        """Return the URIs of everything that looks like a dataset below a base URI.

        Args:
            base_uri: A normalized base URI.
            config_path: dtool's configuration file; None for the default one.
        """

    @abstractmethod
    def check_writable(self) -> None:
        """Raise if the base URI that this broker was opened with cannot take a dataset."""

    # -- metadata, read -----------------------------------------------------------------------

    @abstractmethod
    def get_admin_metadata(self) -> object:
        """Return the administrative metadata as parsed, unchecked JSON."""

    @abstractmethod
    def get_manifest(self) -> object:
        """Return the manifest as parsed, unchecked JSON."""

    @abstractmethod
    def get_readme_content(self) -> str:
        """Return the README."""

    @abstractmethod
    def list_overlay_names(self) -> Iterable[str]:
        """Return the names of the overlays."""

    @abstractmethod
    def get_overlay(self, overlay_name: str) -> object:
        """Return an overlay as parsed, unchecked JSON."""

    @abstractmethod
    def list_annotation_names(self) -> Iterable[str]:
        """Return the names of the annotations."""

    @abstractmethod
    def get_annotation(self, annotation_name: str) -> Any:
        """Return an annotation as parsed JSON."""

    @abstractmethod
    def list_tags(self) -> Iterable[str]:
        """Return the tags."""

    # -- metadata, written --------------------------------------------------------------------

    @abstractmethod
    def put_admin_metadata(self, admin_metadata: dict[str, Any]) -> None:
        """Write the administrative metadata, which also says whether the dataset is frozen."""

    @abstractmethod
    def put_manifest(self, manifest: dict[str, Any]) -> None:
        """Write the manifest."""

    @abstractmethod
    def put_readme(self, content: str) -> None:
        """Write the README."""

    @abstractmethod
    def put_overlay(self, overlay_name: str, overlay: dict[str, Any]) -> None:
        """Write an overlay: values by the items' identifiers."""

    @abstractmethod
    def put_annotation(self, annotation_name: str, annotation: Any) -> None:
        """Write an annotation, or replace it."""

    @abstractmethod
    def put_tag(self, tag: str) -> None:
        """Write a tag. An existing tag is not an error."""

    @abstractmethod
    def delete_tag(self, tag: str) -> None:
        """Remove a tag. A missing tag is not an error."""

    # -- items --------------------------------------------------------------------------------

    @property
    @abstractmethod
    def hasher(self) -> Hasher:
        """The hash function of this store's manifests."""

    def data_directory(self) -> Path | None:
        """Return the local directory that holds the items by their paths; None if the store is remote.

        Where there is one, items are read and written in it directly: `put_item`, `download` and `forget` are not
        called.
        """
        return None

    @abstractmethod
    def put_item(self, fpath: str, relpath: str) -> str:
        """Store a copy of a file as an item.

        Args:
            fpath: The file.
            relpath: The item's path in the dataset.

        Returns:
            The store's handle of the item.
        """

    def download(self, item: Item, destination: BinaryIO) -> None:
        """Write an item's content to a file object. The caller verifies what arrives.

        Args:
            item: The item.
            destination: A file object, of which only `write` may be used.
        """
        raise NotImplementedError

    def forget(self, item: Item) -> None:  # noqa: B027 - most brokers keep no copy
        """Drop the copy of an item that the broker itself may keep, because the copy is wrong.

        Args:
            item: The item.
        """

    @abstractmethod
    def held_items(self) -> Mapping[str, tuple[int, str]]:
        """Return what the store holds before the dataset is frozen.

        Returns:
            Each item's size in bytes and hash by relative path. An empty hash means that it need not be compared.

        Raises:
            StoreError: If `compares_metadata` is set and the metadata is not what was written.
        """

    # -- the dataset as a whole ---------------------------------------------------------------

    @abstractmethod
    def create_structure(self) -> None:
        """Claim the place for a new dataset.

        Raises:
            FileExistsError: If something is there already. This cannot happen in a store whose URIs contain the UUID.
        """

    @abstractmethod
    def pre_freeze_hook(self) -> None:
        """Do what the layout needs before the metadata of a complete dataset is written."""

    def sync(self) -> None:  # noqa: B027 - a server's answer means that it is durable
        """Make everything that was written durable."""

    def freeze(self, admin_metadata: dict[str, Any]) -> None:
        """Make a complete dataset durable, and then visible as frozen.

        Args:
            admin_metadata: The administrative metadata of the frozen dataset. To write it is the last step.
        """
        self.sync()
        self.put_admin_metadata(admin_metadata)

    def unfreeze(self, admin_metadata: dict[str, Any]) -> None:
        """Undo `freeze`, which may have failed at any of its steps.

        Args:
            admin_metadata: The administrative metadata of the unfinished dataset.
        """
        self.put_admin_metadata(admin_metadata)

    @abstractmethod
    def post_freeze_hook(self) -> None:
        """Clean up after a dataset was frozen."""

    def remove(self) -> None:
        """Remove the whole dataset, frozen or not."""
        raise StoreError(
            "cannot delete: its storage broker offers no way to. Remove it by other means.",
            uri=self.uri,
            kind="unsupported",
        )

    # -- what unfinished operations leave behind -----------------------------------------------

    @classmethod
    def leftovers(cls, base_uri: str, *, quick: bool = False) -> Iterable[Leftover]:
        """Return what was begun below a base URI, and is not finished.

        By default nothing: a store of which only dtool's interface is known does not say who writes a dataset.

        Args:
            base_uri: A normalized base URI.
            quick: Whether to return only what is found without opening each dataset. False by default.
        """
        return ()

    def leave_note(self) -> str:
        """Say in the store that this process writes datasets to it, if that finds unfinished ones faster.

        Returns:
            Where it is said, for `take_note`. By default nothing is said.
        """
        return ""

    def take_note(self, note: str) -> None:  # noqa: B027 - by default nothing is said
        """Take back what `leave_note` has said.

        Args:
            note: What it returned.
        """

    def restore(self, leftover: Leftover) -> None:
        """Make a dataset visible whose `whole` was verified. Called on the broker of the base URI.

        Args:
            leftover: What is left of it.

        Raises:
            FileExistsError: If another dataset has its name now.
        """
        raise NotImplementedError

    def discard(self, leftover: Leftover) -> None:
        """Remove what is left of an unfinished operation. Called on the broker of the base URI.

        Args:
            leftover: What is left of it.
        """
        raise NotImplementedError


class ParallelBroker(Broker):
    """A broker of a remote store that takes several requests at a time, from several threads."""

    @abstractmethod
    def send(self, content: Path | bytes, relpath: str, md5: str) -> None:
        """Upload an item.

        Args:
            content: A file, or its content.
            relpath: The item's path in the dataset.
            md5: The MD5 of the content, in hexadecimal digits.
        """
