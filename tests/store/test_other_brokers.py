"""The wrapper around a storage broker of which only dtool's interface is known."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dtoolcore.filehasher import FileHasher, sha256sum_hexdigest

from lightning_dtool.errors import NotFrozenError, StoreError, VerificationError
from lightning_dtool.store import (
    DatasetWriter,
    FrozenDataset,
    ensure_writable,
    generate_identifier,
    is_dataset_uri,
    iter_datasets,
    local_path,
    private,
)
from lightning_dtool.store.brokers import broker_class
from lightning_dtool.store.places import discard, leftovers
from store.box import BoxStorageBroker, installed_box

IDENTIFIER = generate_identifier("d/a.txt")


@pytest.fixture
def box(base_uri: str) -> Iterator[str]:
    """Return a base URI of a store that is remote as far as this package can see."""
    with installed_box(remote=True):
        yield base_uri.replace("file://", "box://")


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
    assert path.is_relative_to(private.cache_directory())
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


def test_an_unfinished_dataset_names_its_owner(box: str) -> None:
    writer = DatasetWriter("x", box)
    writer.put_bytes(b"1", "a")
    (found,) = leftovers(box)
    assert (found.kind, found.name, found.uri, found.is_owned) == ("writing", "x", writer.uri, True)
    with pytest.raises(StoreError, match="Remove it by other means"):
        discard(box, found)
    dataset = writer.commit()
    assert leftovers(box) == []
    assert not {"owner", "unfinished"} & dataset.admin_metadata.keys()


def test_a_store_that_never_answers_is_given_up(box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write(box)
    released = threading.Event()
    monkeypatch.setenv("LIGHTNING_DTOOL_STORE_TIMEOUT", "0.2")
    for method in ("get_admin_metadata", "put_item", "get_item_abspath"):
        monkeypatch.setattr(broker_class("box").dtool_class, method, lambda *_: released.wait())
    uses = (lambda: FrozenDataset.from_uri(dataset.uri), lambda: write(box, "y"), lambda: dataset.path(IDENTIFIER))
    for use in uses:
        with pytest.raises(StoreError, match="does not answer") as caught:
            use()
        assert caught.value.kind == "no_answer"
    released.set()


def test_a_wrong_copy_in_dtools_own_cache_is_dropped(box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers have a cache of their own, which is not verified."""
    dataset = write(box)
    kept = private.dtool_cache_directory() / "kept"
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
