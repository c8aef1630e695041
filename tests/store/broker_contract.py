"""The behaviour that this package expects of every storage broker.

A test class for a broker inherits from `BrokerContract`, in a module whose name pytest collects, and defines what the
contract cannot know: see the methods without a body.
"""

import pickle
import uuid
from pathlib import Path

import pytest

from lightning_dtool.errors import (
    DatasetNotFoundError,
    MissingItemError,
    NotFrozenError,
    StoreError,
    VerificationError,
)
from lightning_dtool.store import (
    DatasetWriter,
    FrozenDataset,
    delete_dataset,
    ensure_writable,
    generate_identifier,
    iter_datasets,
    local_path,
    normalize_uri,
)
from lightning_dtool.store.broker import Broker
from lightning_dtool.store.brokers import broker_class, open_broker
from lightning_dtool.store.uris import scheme_of

FILES = {"oak/ü.txt": b"one", "elm/2.bin": b"\0two", "empty": b""}
OAK = generate_identifier("oak/ü.txt")


class BrokerContract:
    """The contract. `removes` is False for a broker that cannot delete a dataset."""

    removes = True

    @pytest.fixture
    def base(self) -> str:
        """Return the normalized URI of an empty place for datasets."""
        raise NotImplementedError

    def replace_item(self, dataset: FrozenDataset, relpath: str, content: bytes | None) -> None:
        """Change an item behind the dataset's back, or remove it, as damage to the store would."""
        raise NotImplementedError

    @pytest.fixture
    def dataset(self, base: str) -> FrozenDataset:
        """Return a dataset with a bit of everything."""
        return self.write(base)

    def write(self, base: str, name: str = "leaves") -> FrozenDataset:
        with DatasetWriter(name, base, creator_username="tester") as writer:
            for relpath, content in FILES.items():
                writer.put_bytes(content, relpath)
            writer.put_overlay("category", {relpath: relpath[:3] for relpath in FILES})
            writer.put_annotation("numbers", {"a": [1, 2.5, None, "ü"]})
            writer.put_tag("best")
            writer.put_readme("---\ndescription: Bäume\n")
            return writer.commit()

    # -- the class ----------------------------------------------------------------------------

    def test_the_broker_of_the_scheme(self, base: str, dataset: FrozenDataset) -> None:
        broker = open_broker(dataset.uri)
        assert isinstance(broker, Broker)
        assert type(broker) is broker_class(scheme_of(base))
        assert broker.uri == dataset.uri

    def test_the_uri_of_a_new_dataset_is_normalized_and_below_the_base(self, base: str) -> None:
        uri = normalize_uri(broker_class(scheme_of(base)).generate_uri("x", str(uuid.uuid4()), base))
        assert uri.startswith(f"{base}/")

    # -- there and back -----------------------------------------------------------------------

    def test_what_was_written_is_read(self, dataset: FrozenDataset) -> None:
        found = FrozenDataset.from_uri(dataset.uri)
        assert (found.uuid, found.name, found.admin_metadata["creator_username"]) == (dataset.uuid, "leaves", "tester")
        assert {item.relpath: found.read_bytes(item.identifier) for item in found.items.values()} == FILES
        assert found.overlay("category") == {generate_identifier(relpath): relpath[:3] for relpath in FILES}
        assert found.overlay_names() == ["category", "sha256"]
        assert found.annotations() == {"numbers": {"a": [1, 2.5, None, "ü"]}}
        assert found.tags() == ["best"]
        assert found.readme() == "---\ndescription: Bäume\n"
        assert found.created_at <= found.frozen_at

    def test_a_file_is_an_item_like_any_other(self, base: str, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"1")
        with DatasetWriter("x", base) as writer:
            writer.put_file(tmp_path / "a", "one")
            writer.put_files({"two": tmp_path / "a"})
            with writer.open("three") as file:
                file.write(b"3")
            dataset = writer.commit()
        contents = {item.relpath: dataset.read_bytes(item.identifier) for item in dataset.items.values()}
        assert contents == {"one": b"1", "two": b"1", "three": b"3"}

    def test_items_are_files_with_their_own_suffix(self, dataset: FrozenDataset) -> None:
        dataset.fetch()
        assert dataset.path(OAK).suffix == ".txt"
        assert dataset.path(OAK).read_bytes() == b"one"

    def test_a_pickled_dataset_is_opened_again(self, dataset: FrozenDataset) -> None:
        assert pickle.loads(pickle.dumps(dataset)).read_bytes(OAK) == b"one"

    def test_hashes_are_those_of_the_broker(self, dataset: FrozenDataset) -> None:
        hasher = open_broker(dataset.uri).hasher
        assert dataset.hash_function == hasher.name
        assert dataset.item("oak/ü.txt").hash == hasher(str(dataset.path(OAK)))

    # -- what may change ----------------------------------------------------------------------

    def test_annotations_and_tags_of_a_frozen_dataset_can_change(self, dataset: FrozenDataset) -> None:
        dataset.put_annotation("numbers", 3)
        dataset.put_annotation("more", "text")
        dataset.put_tag("last")
        dataset.put_tag("last")
        dataset.delete_tag("best")
        dataset.delete_tag("best")
        found = FrozenDataset.from_uri(dataset.uri)
        assert found.annotations() == {"numbers": 3, "more": "text"}
        assert found.tags() == ["last"]
        found.verify()

    # -- places -------------------------------------------------------------------------------

    def test_a_place_that_can_be_written(self, base: str) -> None:
        assert ensure_writable(base) == base
        assert list(iter_datasets(base)) == []

    def test_frozen_datasets_are_listed(self, base: str, dataset: FrozenDataset) -> None:
        DatasetWriter("unfinished", base).put_bytes(b"1", "a")
        assert [found.uri for found in iter_datasets(base)] == [dataset.uri]

    def test_no_dataset(self, dataset: FrozenDataset) -> None:
        uri = f"{dataset.uri.rpartition('/')[0]}/{uuid.uuid4()}"
        with pytest.raises(DatasetNotFoundError) as caught:
            FrozenDataset.from_uri(uri)
        assert caught.value.uri == uri

    def test_a_dataset_that_is_removed(self, base: str, dataset: FrozenDataset) -> None:
        if not self.removes:
            with pytest.raises(StoreError) as caught:
                delete_dataset(dataset.uri)
            assert caught.value.kind == "unsupported"
            dataset.verify()
            return
        delete_dataset(dataset.uri)
        with pytest.raises(DatasetNotFoundError):
            FrozenDataset.from_uri(dataset.uri)
        assert list(iter_datasets(base)) == []

    # -- never half frozen --------------------------------------------------------------------

    def test_no_reader_sees_a_dataset_before_it_is_committed(self, base: str) -> None:
        writer = DatasetWriter("x", base)
        writer.put_bytes(b"1", "a")
        with pytest.raises(NotFrozenError):
            FrozenDataset.from_uri(writer.uri)
        writer.commit()
        FrozenDataset.from_uri(writer.uri).verify()

    @pytest.mark.parametrize("step", ["pre_freeze_hook", "put_manifest", "put_overlay", "put_tag", "held_items"])
    def test_a_step_that_fails_leaves_nothing_frozen(
        self, base: str, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        def fails(*_: object) -> None:
            raise OSError("I/O error")

        writer = DatasetWriter("x", base)
        writer.put_bytes(b"1", "a")
        writer.put_tag("t")
        monkeypatch.setattr(broker_class(scheme_of(base)), step, fails)
        with pytest.raises(StoreError, match="I/O error"):
            writer.commit()
        with pytest.raises(NotFrozenError):
            FrozenDataset.from_uri(writer.uri)
        if self.removes:
            writer.abort()
            with pytest.raises(DatasetNotFoundError):
                FrozenDataset.from_uri(writer.uri)

    def test_an_item_that_the_store_lost_is_noticed_before_freezing(
        self, base: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kind = broker_class(scheme_of(base))
        held_items = kind.held_items

        def without_one(broker: Broker) -> dict[str, tuple[int, str]]:
            return {relpath: found for relpath, found in held_items(broker).items() if relpath != "a"}

        monkeypatch.setattr(kind, "held_items", without_one)
        writer = DatasetWriter("x", base)
        writer.put_bytes(b"1", "a")
        writer.put_bytes(b"2", "b")
        with pytest.raises(StoreError, match="1 differences: a: missing"):
            writer.commit()

    # -- damage -------------------------------------------------------------------------------

    def test_a_sound_dataset_passes(self, dataset: FrozenDataset) -> None:
        dataset.verify()
        dataset.verify([OAK])

    def test_changed_content_is_found(self, dataset: FrozenDataset) -> None:
        self.replace_item(dataset, "oak/ü.txt", b"ONE")
        with pytest.raises(VerificationError, match=r"1 differences:\n  oak/ü.txt: expected") as caught:
            dataset.verify()
        assert (caught.value.uri, caught.value.item) == (dataset.uri, "oak/ü.txt")
        if local_path(dataset.uri) is None and open_broker(dataset.uri).data_directory() is None:
            with pytest.raises(VerificationError) as caught:
                dataset.path(OAK)
            assert caught.value.item == "oak/ü.txt"

    def test_a_lost_item_is_found(self, dataset: FrozenDataset) -> None:
        self.replace_item(dataset, "oak/ü.txt", None)
        with pytest.raises(VerificationError, match=r"1 differences:\n  oak/ü.txt: missing"):
            dataset.verify()
        with pytest.raises(MissingItemError) as caught:
            dataset.path(OAK)
        assert (caught.value.uri, caught.value.item) == (dataset.uri, "oak/ü.txt")
