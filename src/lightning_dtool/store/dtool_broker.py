"""A broker that wraps any of dtool's storage brokers and uses only dtool's interface."""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypeVar

from lightning_dtool.store.bounded_metadata import PlainMetadata
from lightning_dtool.store.broker import Broker, Hasher
from lightning_dtool.store.digest import CHUNK
from lightning_dtool.store.item import Item
from lightning_dtool.store.leftovers import Leftover, leftover_of, with_owner
from lightning_dtool.store.locking import locked
from lightning_dtool.store.private import cache_directory, dtool_cache_directory, make_private
from lightning_dtool.store.waiting import limited, patience

_SECONDS_TO_WAIT = 600

Result = TypeVar("Result")


def wrapping(dtool_class: Any) -> type[Broker]:
    """Return a subclass of `DtoolBroker` that wraps the brokers of one of dtool's classes.

    Args:
        dtool_class: A storage broker as dtool finds it. Brokers that only read share no base class with the others.
    """
    name = f"{dtool_class.__name__.removesuffix('StorageBroker')}Broker"
    return type(name, (DtoolBroker,), {"dtool_class": _bounded(dtool_class), "__module__": __name__})


def _bounded(dtool_class: Any) -> Any:
    """Return a class that reads metadata within limits, if this class reads files of this machine as dtool's own does.

    What others read comes from a server, whose client reads it as a whole.
    """
    from dtoolcore.storagebroker import DiskStorageBroker

    if not (isinstance(dtool_class, type) and issubclass(dtool_class, DiskStorageBroker)):
        return dtool_class

    class Bounded(PlainMetadata, dtool_class):  # type: ignore[misc]
        def __init__(self, uri: str, config_path: str | None = None) -> None:
            super().__init__(uri, config_path)
            self.uri = uri

    return Bounded


class DtoolBroker(Broker):
    """A wrapper of one of dtool's storage brokers.

    A method that this broker lacks, such as those that write in a read-only broker, raises an `AttributeError`.

    These brokers have no time limits, and cannot be interrupted. Each call runs in a thread of its own, and is given up
    when it takes longer than a store is waited for, plus the time for its content. The thread waits on until the
    program ends. The time that a store takes for a listing, or for the sizes and hashes of many items, counts as
    silence.

    Args:
        uri: A normalized URI.

    Attributes:
        dtool_class: The class of the wrapped broker. It is `Any` because dtoolcore has no type hints.
    """

    dtool_class: ClassVar[Any]

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._broker = call(lambda: self.dtool_class(uri, None))

    @classmethod
    def connect(cls, uri: str, *, new: bool = False) -> "DtoolBroker":
        """Return a broker for a dataset or a base URI; `new` makes no difference."""
        return cls(uri)

    @classmethod
    def generate_uri(cls, name: str, uuid: str, base_uri: str) -> str:
        """Return the URI of a new dataset."""
        return str(call(lambda: cls.dtool_class.generate_uri(name, uuid, base_uri)))

    @classmethod
    def list_dataset_uris(cls, base_uri: str, config_path: str | None) -> list[str]:
        """Return the URIs of the datasets below a base URI."""
        return call(lambda: list(cls.dtool_class.list_dataset_uris(base_uri, config_path)))

    @classmethod
    def leftovers(cls, base_uri: str, *, quick: bool = False) -> Iterator[Leftover]:
        """Yield the unfinished datasets below a base URI. Nothing is found quickly: each dataset has to be opened."""
        for uri in () if quick else cls.list_dataset_uris(base_uri, None):
            admin_metadata = cls(uri).get_admin_metadata()
            found = leftover_of(uri, uri, admin_metadata) if isinstance(admin_metadata, dict) else None
            if found is not None:
                yield found

    def discard(self, leftover: Leftover) -> None:
        """Raise an error: dtool's interface has no way to remove a dataset."""
        type(self)(leftover.uri).remove()

    def check_writable(self) -> None:
        """Raise if the broker can only read; dtool's interface has no way to ask for more."""
        if not hasattr(self._broker, "put_item"):
            raise NotImplementedError

    # -- metadata, read -----------------------------------------------------------------------

    def get_admin_metadata(self) -> object:
        """Return the administrative metadata."""
        return call(lambda: self._broker.get_admin_metadata())

    def get_manifest(self) -> object:
        """Return the manifest."""
        return call(lambda: self._broker.get_manifest())

    def get_readme_content(self) -> str:
        """Return the README."""
        return str(call(lambda: self._broker.get_readme_content()))

    def list_overlay_names(self) -> Iterable[str]:
        """Return the names of the overlays."""
        return call(lambda: list(self._broker.list_overlay_names()))

    def get_overlay(self, overlay_name: str) -> object:
        """Return an overlay."""
        return call(lambda: self._broker.get_overlay(overlay_name))

    def list_annotation_names(self) -> Iterable[str]:
        """Return the names of the annotations."""
        return call(lambda: list(self._broker.list_annotation_names()))

    def get_annotation(self, annotation_name: str) -> Any:
        """Return an annotation."""
        return call(lambda: self._broker.get_annotation(annotation_name))

    def list_tags(self) -> Iterable[str]:
        """Return the tags."""
        return call(lambda: list(self._broker.list_tags()))

    # -- metadata, written --------------------------------------------------------------------

    def put_admin_metadata(self, admin_metadata: dict[str, Any]) -> None:
        """Write the administrative metadata. That of an unfinished dataset names its owner."""
        if admin_metadata["type"] != "dataset":
            admin_metadata = with_owner(admin_metadata)
        call(lambda: self._broker.put_admin_metadata(admin_metadata))

    def put_manifest(self, manifest: dict[str, Any]) -> None:
        """Write the manifest."""
        call(lambda: self._broker.put_manifest(manifest))

    def put_readme(self, content: str) -> None:
        """Write the README."""
        call(lambda: self._broker.put_readme(content))

    def put_overlay(self, overlay_name: str, overlay: dict[str, Any]) -> None:
        """Write an overlay."""
        call(lambda: self._broker.put_overlay(overlay_name, overlay))

    def put_annotation(self, annotation_name: str, annotation: Any) -> None:
        """Write an annotation, or replace it."""
        call(lambda: self._broker.put_annotation(annotation_name, annotation))

    def put_tag(self, tag: str) -> None:
        """Write a tag."""
        call(lambda: self._broker.put_tag(tag))

    def delete_tag(self, tag: str) -> None:
        """Remove a tag."""
        call(lambda: self._broker.delete_tag(tag))

    # -- items --------------------------------------------------------------------------------

    @property
    def hasher(self) -> Hasher:
        """The hash function of this store's manifests."""
        hasher: Hasher = self._broker.hasher
        return hasher

    def data_directory(self) -> Path | None:
        """Return the local directory that holds the items, for a broker that derives from dtool's disk broker."""
        path = getattr(self._broker, "_data_abspath", None)
        return None if path is None else Path(path)

    def put_item(self, fpath: str, relpath: str) -> str:
        """Store a copy of a file as an item."""
        return str(call(lambda: self._broker.put_item(fpath, relpath), size=Path(fpath).stat().st_size))

    def download(self, item: Item, destination: BinaryIO) -> None:
        """Write an item's content to a file object. It comes from dtool's own cache, which dtool does not verify."""
        with self._alone(item):
            path = call(lambda: self._broker.get_item_abspath(item.identifier), size=item.size_in_bytes)
        with open(path, "rb") as source:
            shutil.copyfileobj(source, destination, CHUNK)

    @staticmethod
    @contextlib.contextmanager
    def _alone(item: Item) -> Iterator[None]:
        """Keep other processes and threads from fetching the same item: dtool gives all of them one temporary file."""
        folder = cache_directory() / "locks"
        try:
            make_private(folder)
        except OSError:  # no lock: its file could be a link of somebody else
            yield
            return
        # A few files for all items, because they are not removed.
        with locked(folder / f"{item.identifier[:2]}.lock", timeout=_SECONDS_TO_WAIT):
            yield

    def forget(self, item: Item) -> None:
        """Drop the copy of an item in dtool's own cache."""
        source = Path(call(lambda: self._broker.get_item_abspath(item.identifier), size=item.size_in_bytes)).resolve()
        # Some brokers return the item itself, which must stay.
        if source.is_relative_to(dtool_cache_directory().resolve()):
            source.unlink(missing_ok=True)

    def held_items(self) -> Mapping[str, tuple[int, str]]:
        """Return the size and hash of each item that the store holds."""

        def of_item(handle: str) -> tuple[int, str]:
            return self._broker.get_size_in_bytes(handle), self._broker.get_hash(handle)

        handles = call(lambda: list(self._broker.iter_item_handles()))
        return {handle: call(partial(of_item, handle)) for handle in handles}

    # -- the dataset as a whole ---------------------------------------------------------------

    def create_structure(self) -> None:
        """Claim the place for a new dataset."""
        call(lambda: self._broker.create_structure())

    def pre_freeze_hook(self) -> None:
        """Do what the layout needs before the metadata of a complete dataset is written."""
        call(lambda: self._broker.pre_freeze_hook())

    def post_freeze_hook(self) -> None:
        """Clean up after a dataset was frozen."""
        call(lambda: self._broker.post_freeze_hook())


def call(function: Callable[[], Result], size: int = 0) -> Result:
    """Call one of dtool's functions, which may wait forever, and give up when it takes too long.

    Args:
        function: The function.
        size: The bytes that it transfers.
    """
    return limited(function, patience(), size)
