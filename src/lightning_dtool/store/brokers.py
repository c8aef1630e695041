"""dtool's storage brokers, found once per process and extended by what this package needs of them."""

import shutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from lightning_dtool.errors import StoreError
from lightning_dtool.store.digest import CHUNK
from lightning_dtool.store.faults import store_errors

if TYPE_CHECKING:
    from lightning_dtool.store.manifest import Item

# dtoolcore has no type hints, and brokers that only read share no base class with it.
Broker: TypeAlias = Any

_SUFFIX = "storagebroker"


def dtool_cache_directory() -> Path:
    """Return where dtool keeps copies of remote items: `DTOOL_CACHE_DIRECTORY`, or dtool's default."""
    from dtoolcore.utils import DEFAULT_CACHE_PATH, get_config_value

    return Path(get_config_value("DTOOL_CACHE_DIRECTORY", default=DEFAULT_CACHE_PATH))


class BrokerExtras:
    """What this package asks of any broker; a broker of a kind that can do better overrides it.

    Attributes:
        at_once: How many requests it takes at a time. With more than 1 it has `send`, too.
        compares_metadata: Whether `held_items` raises if metadata is not what was written.
    """

    uri: str
    at_once = 1
    compares_metadata = False

    @classmethod
    def for_new_dataset(cls, uri: str) -> "Broker":
        """Return a broker for a dataset that does not exist yet.

        Args:
            uri: The URI that it will have.
        """
        return cls(uri, None)  # type: ignore[call-arg]

    def data_directory(self) -> Path | None:
        """Return the local directory that holds the items by their paths, or None if they are remote."""
        # The disk broker and those derived from it.
        path = getattr(self, "_data_abspath", None)
        return None if path is None else Path(path)

    def download(self, item: "Item", destination: BinaryIO) -> None:
        """Write an item's content to a file object.

        Args:
            item: The item.
            destination: Where it goes; it has `write` and nothing else.
        """
        # dtool's own cache may hold a wrong copy; the caller verifies what arrives here.
        with open(self.get_item_abspath(item.identifier), "rb") as source:  # type: ignore[attr-defined]
            shutil.copyfileobj(source, destination, CHUNK)

    def forget(self, item: "Item") -> None:
        """Drop the copy that dtool itself may hold of an item, because it is wrong.

        Args:
            item: The item.
        """
        source = Path(self.get_item_abspath(item.identifier)).resolve()  # type: ignore[attr-defined]
        # Some brokers answer with the item itself: that is not ours to remove.
        if source.is_relative_to(dtool_cache_directory().resolve()):
            source.unlink(missing_ok=True)

    def held_items(self) -> dict[str, tuple[int, str]]:
        """Return what the store holds before the dataset is frozen: size and hash by relative path."""
        return {
            handle: (self.get_size_in_bytes(handle), self.get_hash(handle))  # type: ignore[attr-defined]
            for handle in self.iter_item_handles()  # type: ignore[attr-defined]
        }

    def remove(self) -> None:
        """Remove the whole dataset."""
        raise StoreError("cannot delete: its storage broker offers no way to. Remove it by other means.", uri=self.uri)

    def check_writable(self) -> None:
        """Raise if the base URI that this broker was opened on cannot take a dataset."""
        if not hasattr(self, "put_item"):
            raise NotImplementedError

    def begin(self) -> None:
        """Note that a dataset is being built: nothing has to be durable before `sync`."""

    def sync(self) -> None:
        """Make everything that was written durable."""


@cache
def _entry_points() -> dict[str, EntryPoint]:
    """Return the installed brokers by the scheme they serve, most of them not yet imported.

    Entry points are scanned once per process: a scan takes tens of milliseconds. A broker's scheme is an
    attribute of its class, but importing every broker to read it takes far longer, so the conventional
    names ("S3StorageBroker") are trusted.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group="dtool.storage_brokers"):
        name = point.name.lower()
        if name == "diskstoragebroker":
            found["file"] = point
        elif name.endswith(_SUFFIX):
            found[name.removesuffix(_SUFFIX)] = point
        else:
            try:
                found[point.load().key] = point
            except Exception:  # noqa: S112 - a broken plug-in must not break the others
                continue
    return found


def installed_schemes() -> list[str]:
    """Return the schemes of URIs that can be read here, sorted."""
    return sorted({"file", *_entry_points()})


def is_installed(scheme: str) -> bool:
    """Tell whether a storage broker for a scheme is installed.

    Args:
        scheme: Such as "s3", in lower case.
    """
    return scheme == "file" or scheme in _entry_points()


@cache
def broker_class(scheme: str) -> Any:
    """Return the class of the brokers that serve a scheme.

    Args:
        scheme: An installed scheme.

    Returns:
        dtool's own class, extended by `BrokerExtras`.
    """
    if scheme == "file":
        from lightning_dtool.store.disk import DiskBroker

        return DiskBroker
    if scheme == "s3":
        from lightning_dtool.store.s3 import S3Broker

        return S3Broker
    found = _entry_points()[scheme].load()
    return type(found.__name__, (BrokerExtras, found), {})


def open_broker(uri: str, *, new: bool = False) -> Broker:
    """Return a broker for a dataset's URI or a base URI.

    Args:
        uri: A normalized URI.
        new: Whether it is known that no dataset is there yet, so that the store need not be asked.

    Raises:
        StoreError: If the broker cannot be loaded or cannot reach its store.
    """
    with store_errors(uri, "reach the store"):
        cls = broker_class(uri.split("://", 1)[0])
        broker = cls.for_new_dataset(uri) if new else cls(uri, None)
        broker.uri = uri
        return broker
