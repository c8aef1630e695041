"""The local cache of remote items."""

import contextlib
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from lightning_dtool.errors import MissingItemError, StoreError, VerificationError
from lightning_dtool.store import Item, cache, generate_identifier, verified
from lightning_dtool.store.cache import Cache, in_parallel
from lightning_dtool.store.private import cache_directory


class Shelf:
    """A broker whose items lie in a dictionary."""

    def __init__(self, **contents: bytes) -> None:
        self.contents = contents
        self.downloads = 0
        self.forgotten = 0

    def download(self, item: Item, destination: BinaryIO) -> None:
        self.downloads += 1
        if item.relpath not in self.contents:
            raise FileNotFoundError(item.relpath)
        destination.write(self.contents[item.relpath])

    def forget(self, item: Item) -> None:
        self.forgotten += 1


def item_of(relpath: str, content: bytes) -> Item:
    return Item(generate_identifier(relpath), relpath, len(content), hashlib.md5(content).hexdigest())


def cache_of(shelf: Shelf) -> Cache:
    return Cache("s3://lab/x", "7bb1", shelf, "md5sum_hexdigest")


def test_an_item_is_fetched_once_and_keeps_its_suffix(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, item = Shelf(**{"a.txt": b"text"}), item_of("a.txt", b"text")
    path = cache_of(shelf).path(item)
    assert path.read_bytes() == b"text"
    assert path.suffix == ".txt"
    assert path.is_relative_to(cache_directory())
    assert cache_directory().parent == Path(os.environ["DTOOL_CACHE_DIRECTORY"])
    monkeypatch.setattr(cache, "hash_open_file", lambda *_: pytest.fail("hashed again"))
    assert cache_of(shelf).path(item) == path
    assert shelf.downloads == 1
    assert {name for name in os.listdir(path.parent) if not name.startswith(".verified-")} == {path.name}


@pytest.mark.parametrize("content", [b"TEXT", b"tex", b""])
def test_a_cached_copy_that_is_wrong_is_fetched_again(content: bytes) -> None:
    shelf, item = Shelf(**{"a.txt": b"text"}), item_of("a.txt", b"text")
    path = cache_of(shelf).path(item)
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    assert cache_of(shelf).path(item).read_bytes() == b"text"
    assert shelf.downloads == 2


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with each file that is hashed."""
    hashed, hash_file = [], cache.hash_open_file
    monkeypatch.setattr(cache, "hash_open_file", lambda *args: hashed.append(1) or hash_file(*args))
    return hashed


def test_a_copy_of_another_process_is_not_hashed(hashed: list[int]) -> None:
    shelf, item = Shelf(**{"a.txt": b"text"}), item_of("a.txt", b"text")
    for _ in range(3):
        cache_of(shelf).path(item)
    assert (len(hashed), shelf.downloads) == (0, 1)


def test_an_unknown_copy_is_hashed_once(hashed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "_SETTLED_NS", 0)
    shelf, item = Shelf(**{"a.txt": b"text"}), item_of("a.txt", b"text")
    (record,) = cache_of(shelf).path(item).parent.glob(".verified-*")
    record.unlink()
    for _ in range(3):
        cache_of(shelf).path(item)
    assert (len(hashed), shelf.downloads) == (1, 1)


def test_a_copy_of_another_dataset_with_the_same_uuid_is_not_trusted() -> None:
    cache_of(Shelf(**{"a.txt": b"text"})).path(item_of("a.txt", b"text"))
    other = cache_of(Shelf(**{"a.txt": b"TEXT"})).path(item_of("a.txt", b"TEXT"))
    assert other.read_bytes() == b"TEXT"


def test_a_record_that_others_may_write_is_not_trusted(hashed: list[int]) -> None:
    shelf, item = Shelf(**{"a.txt": b"text"}), item_of("a.txt", b"text")
    (record,) = cache_of(shelf).path(item).parent.glob(".verified-*")
    record.chmod(0o666)
    cache_of(shelf).path(item)
    assert len(hashed) == 1


def test_a_damaged_record_of_verified_files_does_no_harm(hashed: list[int]) -> None:
    shelf, item = Shelf(**{"a.txt": b"text"}), item_of("a.txt", b"text")
    (record,) = cache_of(shelf).path(item).parent.glob(".verified-*")
    record.write_bytes(b"\xff\n[]\n" + json.dumps(["a", "b", {}]).encode() + b"\n" + record.read_bytes()[:-9])
    assert cache_of(shelf).path(item).read_bytes() == b"text"
    assert (len(hashed), shelf.downloads) == (1, 1)


def test_more_than_the_item_has_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Shelf):
        def download(self, item: Item, destination: BinaryIO) -> None:
            self.downloads += 1
            while True:
                destination.write(b"text")

    with pytest.raises(VerificationError, match=r"with 4 bytes and hash .*, found 8 bytes"):
        cache_of(Endless()).path(item_of("a.txt", b"text"))


class ResponseStreamingError(Exception):
    """An error with the name of botocore's."""


@pytest.mark.parametrize(("breaks", "downloads"), [(1, 2), (2, 3), (9, 3)])
def test_what_breaks_off_is_tried_again_a_few_times(breaks: int, downloads: int) -> None:
    class Rope(Shelf):
        def download(self, item: Item, destination: BinaryIO) -> None:
            super().download(item, destination)
            if self.downloads <= breaks:
                raise ResponseStreamingError("reset by peer")

    shelf, done = Rope(**{"a.txt": b"text"}), []
    arrived = pytest.raises(StoreError, match="broke off") if breaks > 2 else contextlib.nullcontext()
    with arrived:
        cache_of(shelf).path(item_of("a.txt", b"text"), done.append)
    assert shelf.downloads == downloads
    assert sum(done) == (0 if breaks > 2 else 4)


@pytest.mark.parametrize("content", [b"TEXT", b"tex"])
def test_altered_content_never_becomes_visible(content: bytes) -> None:
    shelf, item = Shelf(**{"a.txt": content}), item_of("a.txt", b"text")
    with pytest.raises(VerificationError, match=r"s3://lab/x: expected item 'a.txt' with 4 bytes and hash .*, found"):
        cache_of(shelf).path(item)
    assert (shelf.downloads, shelf.forgotten) == (3, 3)
    assert os.listdir(cache_directory() / "7bb1") == []


def test_what_the_store_does_not_hold() -> None:
    with pytest.raises(MissingItemError, match=r"expected item 'a.txt'"):
        cache_of(Shelf()).path(item_of("a.txt", b"text"))
    assert os.listdir(cache_directory() / "7bb1") == []


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DTOOL_CACHE_DIRECTORY", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=f"cannot make the cache directory {tmp_path}/file"):
        cache_of(Shelf(**{"a.txt": b"text"})).path(item_of("a.txt", b"text"))


def test_many_items_at_a_time() -> None:
    contents = {f"{n}.bin": bytes([n]) * n for n in range(40)}
    shelf, items = Shelf(**contents), [item_of(relpath, content) for relpath, content in contents.items()]
    cache_of(shelf).fetch(items, progress=True)
    assert [cache_of(shelf).path(item).read_bytes() for item in items] == list(contents.values())
    assert shelf.downloads == 40


def test_the_first_error_stops_the_rest() -> None:
    done: list[str] = []

    def work(item: Item, advance: object) -> None:
        if item.relpath == "0":
            raise ValueError("first")
        threading.Event().wait(0.01)
        done.append(item.relpath)

    with pytest.raises(ValueError, match="first"):
        in_parallel(work, [item_of(str(n), b"") for n in range(500)], label="", progress=False)
    assert len(done) < 400
    assert in_parallel(work, [], label="", progress=False) == []
