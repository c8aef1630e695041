"""A storage broker that this package knows nothing about: dtool's interface is all it needs."""

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import dtoolcore.storagebroker
import pytest
from dtoolcore.filehasher import FileHasher, sha256sum_hexdigest

from lightning_dtool.errors import NotFrozenError, StoreError, VerificationError
from lightning_dtool.store import (
    DatasetWriter,
    FrozenDataset,
    brokers,
    cache,
    delete_dataset,
    ensure_writable,
    generate_identifier,
    is_dataset_uri,
    iter_datasets,
    local_path,
)

IDENTIFIER = generate_identifier("d/a.txt")


class BoxStorageBroker(dtoolcore.storagebroker.DiskStorageBroker):
    """A remote store, for all that its users can see; it lies in a directory."""

    key = "box"

    def item_at(self, identifier: str) -> str:
        return super().get_item_abspath(identifier)

    def get_utc_timestamp(self, handle: str) -> float:
        return 0.0


@pytest.fixture
def box(base_uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a base URI of such a store."""
    point = EntryPoint("BoxStorageBroker", "not.there:x", "dtool.storage_brokers")
    known = {**brokers._entry_points(), "box": point}
    monkeypatch.setattr(brokers, "_entry_points", lambda: known)
    monkeypatch.setattr(EntryPoint, "load", lambda self: BoxStorageBroker)
    monkeypatch.setattr(brokers.BrokerExtras, "data_directory", lambda _: None)
    brokers.broker_class.cache_clear()
    yield base_uri.replace("file://", "box://")
    brokers.broker_class.cache_clear()


def write(box: str, name: str = "x") -> FrozenDataset:
    with DatasetWriter(name, box) as writer:
        writer.put_bytes(b"text", "d/a.txt")
        writer.put_tag("best")
        return writer.commit()


def test_there_and_back(box: str) -> None:
    assert ensure_writable(box) == box
    dataset = write(box)
    assert is_dataset_uri(dataset.uri)
    assert local_path(dataset.uri) is None
    dataset.fetch()
    path = dataset.path(IDENTIFIER)
    assert path.read_bytes() == b"text"
    assert path.is_relative_to(cache.cache_directory())
    dataset.verify()
    assert [found.uri for found in iter_datasets(box)] == [dataset.uri]
    assert FrozenDataset.from_uri(dataset.uri).tags() == ["best"]


def test_hashes_are_those_of_the_broker(box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = FileHasher(sha256sum_hexdigest)
    monkeypatch.setattr(BoxStorageBroker, "hasher", hasher)
    monkeypatch.setattr(BoxStorageBroker, "get_hash", lambda self, handle: hasher(self._fpath_from_handle(handle)))
    dataset = write(box)
    assert dataset.hash_function == "sha256sum_hexdigest"
    assert len(dataset.item("d/a.txt").hash) == 64
    dataset.verify()


def test_a_wrong_copy_in_dtools_own_cache_is_dropped(box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers keep a cache that nobody verifies."""
    dataset = write(box)
    kept = brokers.dtool_cache_directory() / "kept"
    kept.write_bytes(b"TEXT")

    def cached(self: Any, identifier: str) -> str:
        if not kept.exists():
            kept.write_bytes(Path(self.item_at(identifier)).read_bytes())
        return str(kept)

    monkeypatch.setattr(BoxStorageBroker, "get_item_abspath", cached)
    assert dataset.read_bytes(IDENTIFIER) == b"text"


def test_damage_is_reported_and_left_as_it_is(box: str) -> None:
    dataset = write(box)
    body = Path(BoxStorageBroker(dataset.uri).item_at(IDENTIFIER))
    body.write_bytes(b"TEXT")
    with pytest.raises(VerificationError, match="expected item"):
        dataset.path(IDENTIFIER)
    assert body.read_bytes() == b"TEXT"


def test_a_store_that_forgets(box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoxStorageBroker, "put_item", lambda *_: None)
    with pytest.raises(StoreError, match=r"d/a.txt: missing"):
        write(box)
    with pytest.raises(NotFrozenError):
        FrozenDataset.from_uri(f"{box}/x")


def test_a_store_that_cannot_delete(box: str) -> None:
    dataset = write(box)
    with pytest.raises(StoreError, match="its storage broker offers no way to"):
        delete_dataset(dataset.uri)
    dataset.verify()
