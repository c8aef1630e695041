"""Reading of frozen datasets, and the errors if that fails."""

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dtoolcore
import pytest

from lightning_dtool.errors import (
    CorruptDatasetError,
    DatasetNotFoundError,
    InvalidNameError,
    InvalidURIError,
    LightningDtoolError,
    MetadataKeyError,
    MetadataValueError,
    MissingItemError,
    NotFrozenError,
    StoreError,
    UnsafeDatasetError,
    VerificationError,
)
from lightning_dtool.store import DatasetWriter, FrozenDataset, generate_identifier, local_path

OAK = generate_identifier("oak/1.txt")


def root_of(dataset: FrozenDataset) -> Path:
    path = local_path(dataset.uri)
    assert path is not None
    return path


def edit_manifest(dataset: FrozenDataset, edit: Callable[[dict[str, Any]], object]) -> FrozenDataset:
    path = root_of(dataset) / ".dtool" / "manifest.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return FrozenDataset.from_uri(dataset.uri)


def test_the_facts_about_a_dataset(make_dataset, base_uri: str) -> None:
    dataset = make_dataset(readme="---\ndescription: Bäume\n", annotations={"a": {"b": 1}}, tags=("best", "v1.0"))
    assert dataset.uri == f"{base_uri}/leaves"
    assert dataset.name == "leaves"
    assert dataset.admin_metadata["creator_username"] == "tester"
    assert dataset.admin_metadata["uuid"] == dataset.uuid
    now = datetime.now(timezone.utc)
    assert now - timedelta(minutes=1) < dataset.created_at <= dataset.frozen_at <= now
    assert [item.relpath for item in dataset.items.values()] == ["elm/1.txt", "oak/1.txt", "oak/2.txt"]
    assert dataset.hash_function == "md5sum_hexdigest"
    assert dataset.readme() == "---\ndescription: Bäume\n"
    assert dataset.annotation_names() == ["a"]
    assert dataset.annotation("a") == {"b": 1}
    assert dataset.annotations() == {"a": {"b": 1}}
    assert dataset.tags() == ["best", "v1.0"]
    assert dataset.overlay_names() == ["sha256"]
    assert "leaves" in repr(dataset)


def test_items_by_path_and_by_identifier(make_dataset) -> None:
    dataset = make_dataset()
    item = dataset.item("oak/1.txt")
    assert (item.identifier, item.size_in_bytes, item.hash) == (OAK, 3, "f97c5d29941bfb1b2fdab0874906ab82")
    assert dataset.path(OAK) == root_of(dataset) / "data/oak/1.txt"
    assert dataset.read_bytes(OAK) == b"one"
    with dataset.open(OAK) as file:
        assert file.read(2) == b"on"
    dataset.fetch()
    for ask in (dataset.path, dataset.item, dataset.read_bytes, lambda name: dataset.fetch([name])):
        with pytest.raises(MissingItemError, match=r"expected an item 'pine'.*found none among 3"):
            ask("pine")


def test_a_dataset_made_by_dtool_itself_reads_the_same(base_uri: str) -> None:
    with warnings.catch_warnings():
        # dtoolcore asks for the time in a way that Python 3.12 deprecates; this package does not.
        warnings.simplefilter("ignore", DeprecationWarning)
        with dtoolcore.DataSetCreator("plain", base_uri, creator_username="x") as creator:
            path = Path(creator.staging_directory, "f")
            path.write_text("text")
            creator.put_item(str(path), "sub/f.txt")
            creator.put_annotation("x", 1)
    dataset = FrozenDataset.from_uri(f"{base_uri}/plain")
    assert dataset.read_bytes(generate_identifier("sub/f.txt")) == b"text"
    assert dataset.annotations() == {"x": 1}
    dataset.verify()


def test_reading_every_item_parses_the_manifest_once(make_dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = FrozenDataset.from_uri(make_dataset({f"d/{n}": b"x" for n in range(50)}).uri)
    parsed, looked = [], []
    loads, lstat = json.loads, os.lstat
    monkeypatch.setattr(json, "loads", lambda *args, **kwargs: parsed.append(1) or loads(*args, **kwargs))
    monkeypatch.setattr(os, "lstat", lambda path, **kwargs: looked.append(str(path)) or lstat(path, **kwargs))
    for _ in range(3):
        for identifier in dataset.items:
            dataset.path(identifier)
    assert len(parsed) == 1
    # One look at each item and one at the directory, ever.
    assert len([path for path in looked if "/data/" in path]) == 51


def test_a_pickled_dataset_opens_again_where_it_arrives(make_dataset) -> None:
    dataset = make_dataset()
    assert dataset.items
    small = pickle.dumps(dataset)
    assert b"oak" not in small
    copy = pickle.loads(small)
    assert (copy.uri, copy.uuid, copy.content_digest) == (dataset.uri, dataset.uuid, dataset.content_digest)
    assert copy.read_bytes(OAK) == b"one"


# -- there is no dataset ------------------------------------------------------------------------


def test_no_dataset(tmp_path: Path, base_uri: str) -> None:
    (tmp_path / "file").touch()
    for uri in (tmp_path, tmp_path / "nothing", tmp_path / "file", base_uri):
        with pytest.raises(DatasetNotFoundError, match="expected a dtool dataset, found none"):
            FrozenDataset.from_uri(uri)
    for uri in ("", None, "foo://x/y", Path("s3://x/y")):
        with pytest.raises(InvalidURIError):
            FrozenDataset.from_uri(uri)  # type: ignore[arg-type]


def test_a_dataset_that_is_still_being_built(base_uri: str) -> None:
    with DatasetWriter("x", base_uri) as writer, pytest.raises(NotFrozenError, match="still being built"):
        FrozenDataset.from_uri(writer.uri)


def test_errors_are_standard_types_too(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FrozenDataset.from_uri(tmp_path)
    with pytest.raises(ValueError):
        FrozenDataset.from_uri("")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"{}", b'{"uuid": 3}', b"[" * 100_000])
def test_damaged_administrative_metadata(make_dataset, content: bytes) -> None:
    dataset = make_dataset()
    (root_of(dataset) / ".dtool" / "dtool").write_bytes(content)
    with pytest.raises(CorruptDatasetError, match=f"{dataset.uri}.*expected"):
        FrozenDataset.from_uri(dataset.uri)


def test_a_dataset_of_an_unknown_type(make_dataset) -> None:
    dataset = make_dataset()
    path = root_of(dataset) / ".dtool" / "dtool"
    path.write_text(path.read_text().replace('"dataset"', '"other"'))
    with pytest.raises(CorruptDatasetError, match="found 'other'"):
        FrozenDataset.from_uri(dataset.uri)


# -- a damaged or hostile manifest --------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b'{"items": {', b"\xff\xfe", b"[]", b'{"items": []}', b'{"items": {"a": 1}}', b"nul"]
)
def test_a_damaged_manifest(make_dataset, content: bytes) -> None:
    dataset = make_dataset()
    (root_of(dataset) / ".dtool" / "manifest.json").write_bytes(content)
    reader = FrozenDataset.from_uri(dataset.uri)
    for use in (lambda: reader.items, lambda: reader.path(OAK), lambda: reader.content_digest, reader.verify):
        with pytest.raises(CorruptDatasetError, match=f"{dataset.uri}.*expected"):
            use()


def test_a_manifest_that_is_gone(make_dataset) -> None:
    dataset = make_dataset()
    (root_of(dataset) / ".dtool" / "manifest.json").unlink()
    with pytest.raises(CorruptDatasetError, match="expected a manifest, found none"):
        assert FrozenDataset.from_uri(dataset.uri).items


@pytest.mark.parametrize("relpath", ["/etc/passwd", "../../x", "a//b", "..\\x", "a\0b"])
def test_an_item_outside_the_dataset(make_dataset, relpath: str) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        entry = manifest["items"].pop(OAK)
        manifest["items"][generate_identifier(relpath)] = {**entry, "relpath": relpath}

    dataset = edit_manifest(make_dataset(), edit)
    with pytest.raises(UnsafeDatasetError, match="expected item paths below"):
        dataset.path(generate_identifier(relpath))


def test_an_item_that_is_a_link_to_elsewhere(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset()
    secret = tmp_path / "secret"
    secret.write_text("one")
    item = root_of(dataset) / "data/oak/1.txt"
    item.unlink()
    item.symlink_to(secret)
    for use in (lambda: dataset.path(OAK), lambda: dataset.read_bytes(OAK), dataset.fetch):
        with pytest.raises(UnsafeDatasetError, match="found a link to"):
            use()


def test_a_directory_that_is_a_link_to_elsewhere(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset()
    data = root_of(dataset) / "data"
    shutil.move(data / "oak", tmp_path / "oak")
    (data / "oak").symlink_to(tmp_path / "oak")
    with pytest.raises(UnsafeDatasetError, match="found a link to"):
        dataset.path(OAK)
    shutil.move(data, tmp_path / "data")
    data.symlink_to(tmp_path / "data")
    with pytest.raises(UnsafeDatasetError, match="expected a directory"):
        FrozenDataset.from_uri(dataset.uri).path(OAK)


def test_a_link_within_the_dataset_and_a_link_to_it_are_fine(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset()
    item = root_of(dataset) / "data/oak/1.txt"
    item.rename(item.with_name("real"))
    item.symlink_to("real")
    assert dataset.read_bytes(OAK) == b"one"
    (tmp_path / "link").symlink_to(root_of(dataset))
    assert FrozenDataset.from_uri(tmp_path / "link").read_bytes(OAK) == b"one"


def test_an_item_that_is_no_file(make_dataset) -> None:
    dataset = make_dataset()
    item = root_of(dataset) / "data/oak/1.txt"
    item.unlink()
    os.mkfifo(item)
    with pytest.raises(UnsafeDatasetError, match="expected a plain file"):
        dataset.path(OAK)


def test_an_item_that_is_gone(make_dataset) -> None:
    dataset = make_dataset()
    known = FrozenDataset.from_uri(dataset.uri)
    assert known.path(OAK).exists()
    shutil.rmtree(root_of(dataset) / "data/oak")
    for use in (lambda: dataset.path(OAK), lambda: known.read_bytes(OAK), dataset.fetch):
        with pytest.raises(MissingItemError, match=r"expected item 'oak/\d.txt' \(3 bytes\), found nothing"):
            use()


def test_an_item_that_cannot_be_read(make_dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset()

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(StoreError, match="cannot read"):
        dataset.open(OAK)
    monkeypatch.undo()
    fresh = FrozenDataset.from_uri(dataset.uri)
    assert fresh.items
    monkeypatch.setattr(os, "lstat", denied)
    with pytest.raises(StoreError, match="cannot read item"):
        fresh.path(OAK)


# -- metadata -----------------------------------------------------------------------------------


def test_overlays(make_dataset) -> None:
    values = {"oak/1.txt": "oak", "oak/2.txt": "oak", "elm/1.txt": "elm"}
    dataset = make_dataset(overlays={"category": values})
    assert dataset.overlay_names() == ["category", "sha256"]
    overlay = dataset.overlay("category")
    assert list(overlay) == list(dataset.items)
    assert overlay[OAK] == "oak"
    with pytest.raises(MetadataKeyError, match="expected the overlay 'usetype', found category, sha256"):
        dataset.overlay("usetype")


def test_an_overlay_that_lacks_items(make_dataset) -> None:
    dataset = make_dataset()
    path = root_of(dataset) / ".dtool/overlays/category.json"
    path.write_text(json.dumps({OAK: "oak"}))
    with pytest.raises(MetadataKeyError, match=r"each of 3 items, found none for 2: elm/1.txt, oak/2.txt"):
        dataset.overlay("category")
    for content in (b"[]", b"{", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(CorruptDatasetError, match="expected"):
            dataset.overlay("category")


def test_annotations_and_tags_of_a_frozen_dataset(make_dataset) -> None:
    dataset = make_dataset()
    dataset.put_annotation("status", "running")
    dataset.put_annotation("status", {"done": True})
    dataset.put_tag("best")
    dataset.put_tag("best")
    again = FrozenDataset.from_uri(dataset.uri)
    assert again.annotation("status") == {"done": True}
    assert again.tags() == ["best"]
    dataset.delete_tag("best")
    dataset.delete_tag("best")
    assert again.tags() == []
    with pytest.raises(MetadataKeyError, match="expected the annotation 'x', found status"):
        dataset.annotation("x")
    dataset.verify()


def test_names_and_values_are_checked(make_dataset) -> None:
    dataset = make_dataset()
    for name in ("a.b", "..", "x\n", "epoch=3", ""):
        with pytest.raises(InvalidNameError):
            dataset.put_annotation(name, 1)
    for tag in ("..", "x\n", "../../x", ""):
        for use in (dataset.put_tag, dataset.delete_tag):
            with pytest.raises(InvalidNameError):
                use(tag)
    for value in (float("nan"), 2**64):
        with pytest.raises(MetadataValueError):
            dataset.put_annotation("a", value)
    assert (dataset.annotations(), dataset.tags()) == ({}, [])


def test_a_stray_file_among_the_metadata_is_no_annotation(make_dataset) -> None:
    dataset = make_dataset()
    (root_of(dataset) / ".dtool/annotations/.DS_Store").touch()
    assert dataset.annotations() == {}


def test_metadata_that_cannot_be_read_or_written(make_dataset) -> None:
    dataset = make_dataset()
    (root_of(dataset) / "README.yml").unlink()
    with pytest.raises(StoreError, match="cannot read the README"):
        dataset.readme()
    shutil.rmtree(root_of(dataset))
    for use in (lambda: dataset.put_tag("x"), lambda: dataset.put_annotation("x", 1)):
        with pytest.raises(LightningDtoolError, match=dataset.uri):
            use()
    assert not root_of(dataset).exists()


def test_the_bytes_that_are_read_are_those_that_are_compared(make_dataset, monkeypatch) -> None:
    dataset = make_dataset({"a.txt": b"text"})
    (identifier,) = dataset.items
    assert dataset.read_verified(identifier) == b"text"
    path = local_path(dataset.uri) / "data" / "a.txt"
    for content in (b"TEXT", b"text and more"):
        path.write_bytes(content)
        with pytest.raises(VerificationError, match=r"item 'a\.txt' is not as recorded"):
            dataset.read_verified(identifier)
