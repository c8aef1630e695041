"""Faults on the way to a real S3 server. Each is a typed error within seconds, and nothing incomplete is visible."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from faulty_link import (
    Fault,
    FaultyLink,
    answers,
    breaks_off,
    changes_the_answer,
    changes_what_is_sent,
    forgets,
    hangs_up,
    is_slow,
    stalls,
    stalls_after,
)
from lightning_dtool.errors import CorruptDatasetError, LightningDtoolError, StoreError, VerificationError
from lightning_dtool.store import (
    DatasetWriter,
    FrozenDataset,
    delete_dataset,
    ensure_writable,
    generate_identifier,
    hurry,
    iter_datasets,
    private,
    s3,
    s3_connections,
    uploading,
    waiting,
)
from s3_server import S3Server

SOON = 30.0
"""The time limit of each test, in seconds. A link waits for a second and tries twice; boto3's defaults take minutes."""


@pytest.fixture
def held(s3_server: S3Server, s3_base_uri: str) -> Iterator[Callable[[], list[str]]]:
    """Return a function that lists finished and unfinished objects. Empty the bucket afterwards."""
    client, bucket = s3_server.client(), s3_base_uri.removeprefix("s3://")

    def listed() -> list[str]:
        return [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", [])]

    def all_of_it() -> list[str]:
        return listed() + [each["Key"] for each in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]

    for key in listed():
        client.delete_object(Bucket=bucket, Key=key)
    yield all_of_it
    for key in listed():
        client.delete_object(Bucket=bucket, Key=key)


@pytest.fixture
def dataset(make_dataset, s3_base_uri: str, s3_server: S3Server, held: Any, s3_link: FaultyLink) -> FrozenDataset:
    """Return a dataset that was written through a link without faults."""
    dataset = make_dataset({"a.bin": b"a" * 2000, "b.bin": b"b" * 2000}, base=s3_base_uri, annotations={"n": 1})
    s3_link.requests.clear()
    return dataset


def write(base_uri: str, content: bytes = b"content") -> FrozenDataset:
    with DatasetWriter("x", base_uri) as writer:
        writer.put_bytes(content, "a.bin")
        writer.put_bytes(b"2", "b.bin")
        writer.put_annotation("n", 1)
        writer.put_tag("best")
        return writer.commit()


PUBLISHING: dict[str, tuple[str, str, Fault, dict[str, int], str]] = {
    "the registration is refused": ("PUT", "/dtool-", answers(403), {}, "access was denied"),
    "an item is refused": ("PUT", "/data/", answers(403), {}, r"write item '[ab].bin': access was denied"),
    "an item, by a server out of order": ("PUT", "/data/", answers(500, "InternalError"), {}, "Try again later"),
    "an item, by a busy server": ("PUT", "/data/", answers(503, "SlowDown"), {}, "Try again later"),
    "an item, for its whole life": ("PUT", "/data/", hangs_up, {}, "does not answer"),
    "an item, in silence": ("PUT", "/data/", stalls, {}, "does not answer"),
    "an item, on the way": ("PUT", "/data/", changes_what_is_sent, {}, "something else than what was sent"),
    "an item, after a yes": ("PUT", "/data/", forgets, {}, "found 2 differences: a.bin: missing; b.bin: missing"),
    "the manifest is refused": ("PUT", "manifest.json", answers(403), {}, "access was denied"),
    "the manifest, after a yes": ("PUT", "manifest.json", forgets, {}, "1 differences: manifest.json"),
    "an annotation, after a yes": ("PUT", "annotations/", forgets, {}, "1 differences: annotations/n.json"),
    "a tag is refused": ("PUT", "/tags/", answers(500, "InternalError"), {}, "Try again later"),
    "the listing": ("GET", "list-type=2", answers(500, "InternalError"), {"times": 2}, "Try again later"),
    "the last step": ("PUT", "/dtool", answers(403), {"skip": 1, "times": 1}, "access was denied"),
    "reading it back": ("GET", "/dtool", answers(500, "InternalError"), {"times": 2}, "Try again later"),
}


@pytest.mark.parametrize("name", PUBLISHING)
def test_publishing(name: str, s3_base_uri: str, s3_link: FaultyLink, held: Callable[[], list[str]]) -> None:
    method, part, fault, when, message = PUBLISHING[name]
    s3_link.on(method, part, fault, **when)
    started = time.monotonic()
    with pytest.raises(StoreError, match=message):
        write(s3_base_uri)
    assert time.monotonic() - started < SOON
    assert held() == []


def test_what_fails_once_is_tried_again(s3_base_uri: str, s3_link: FaultyLink, held: Any) -> None:
    s3_link.on("PUT", "/data/", hangs_up, times=1)
    s3_link.on("PUT", "manifest.json", answers(503, "SlowDown"), times=1)
    write(s3_base_uri).verify()


def test_a_connection_that_breaks_is_said_to_have_broken(dataset: FrozenDataset, s3_link: FaultyLink) -> None:
    s3_link.on("GET", "/data/", hangs_up)
    with pytest.raises(StoreError, match="does not answer") as raised:
        dataset.read_bytes(generate_identifier("a.bin"))
    assert "NoneType" not in str(raised.value)


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return content that is sent in two parts."""
    monkeypatch.setattr(s3, "PART", 5 * 2**20)
    monkeypatch.setattr(uploading, "SMALL", 1000)
    return os.urandom(6 * 2**20)


@pytest.mark.parametrize(
    ("part", "fault"),
    [("partNumber=2", answers(403)), ("partNumber=2", hangs_up), ("uploadId", answers(500, "InternalError"))],
)
def test_an_upload_in_parts(
    s3_base_uri: str, s3_link: FaultyLink, held: Callable[[], list[str]], in_parts: bytes, part: str, fault: Fault
) -> None:
    s3_link.on("P", part, fault)
    with pytest.raises(StoreError, match=r"write item 'a.bin'"):
        write(s3_base_uri, in_parts)
    assert held() == []


def test_an_upload_in_parts_that_cannot_be_aborted_is_removed_with_the_rest(
    s3_base_uri: str, s3_link: FaultyLink, held: Callable[[], list[str]], in_parts: bytes
) -> None:
    s3_link.on("PUT", "partNumber=2", answers(403))
    s3_link.on("DELETE", "uploadId", answers(403), times=1)
    with pytest.raises(StoreError):
        write(s3_base_uri, in_parts)
    assert held() == []


def test_a_server_that_goes_down_for_good(s3_base_uri: str, s3_link: FaultyLink, held: Callable[[], list[str]]) -> None:
    """No frozen dataset is left, and `delete_dataset` removes the rest."""
    s3_link.on("", "", hangs_up, skip=5)
    started = time.monotonic()
    with DatasetWriter("x", s3_base_uri) as writer:
        writer.put_bytes(b"1", "a.bin")
        with pytest.raises(StoreError, match="does not answer"):
            writer.commit()
        with pytest.raises(StoreError, match="does not answer"):
            writer.abort()
    assert time.monotonic() - started < SOON
    s3_link.mend()
    assert list(iter_datasets(s3_base_uri)) == []
    delete_dataset(writer.uri)
    assert held() == []


def test_a_user_who_may_read_but_not_write(
    s3_base_uri: str, s3_server: S3Server, held: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.settings("lab-models", may_write=False).items():
        monkeypatch.setenv(name, value)
    for use in (ensure_writable, write):
        with pytest.raises(StoreError, match="access was denied"):
            use(s3_base_uri)
    assert held() == []
    assert list(iter_datasets(s3_base_uri)) == []


def test_the_check_for_writing_leaves_nothing(s3_base_uri: str, held: Callable[[], list[str]]) -> None:
    ensure_writable(s3_base_uri)
    assert held() == []


# -- reading --------------------------------------------------------------------------------------

READING: dict[str, tuple[str, Fault, type[Exception], str]] = {
    "refused": ("/data/", answers(403), StoreError, "access was denied"),
    "out of order": ("/data/", answers(500, "InternalError"), StoreError, "Try again later"),
    "hung up": ("/data/", hangs_up, StoreError, "does not answer"),
    "silent": ("/data/", stalls, StoreError, "does not answer"),
    "cut off": ("/data/", breaks_off(1), StoreError, "broke off"),
    "silent in the middle": ("/data/", stalls_after(1), StoreError, "fetch item"),
    "changed": ("/data/", changes_the_answer, VerificationError, "Restore the dataset"),
    "the metadata, refused": ("/dtool", answers(403), StoreError, "access was denied"),
    "the metadata, out of order": ("/dtool", answers(500, "InternalError"), StoreError, "Try again later"),
    "the manifest, cut off": ("manifest.json", breaks_off(20), StoreError, "broke off"),
    "the manifest, changed": ("manifest.json", changes_the_answer, CorruptDatasetError, "expected JSON"),
}


@pytest.mark.parametrize("name", READING)
def test_reading(name: str, dataset: FrozenDataset, s3_link: FaultyLink) -> None:
    part, fault, error, message = READING[name]
    s3_link.on("GET", part, fault)
    started = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        FrozenDataset.from_uri(dataset.uri).fetch()
    assert isinstance(caught.value, LightningDtoolError)
    assert time.monotonic() - started < SOON
    assert [path for path in private.cache_directory().rglob("*") if path.is_file()] == []
    s3_link.mend()
    FrozenDataset.from_uri(dataset.uri).verify()


@pytest.mark.parametrize("fault", [breaks_off(100), stalls_after(100), hangs_up, changes_the_answer])
def test_what_breaks_off_once_is_fetched_again(dataset: FrozenDataset, s3_link: FaultyLink, fault: Fault) -> None:
    s3_link.on("GET", "/data/", fault, times=1)
    assert dataset.read_bytes(generate_identifier("a.bin")) == b"a" * 2000


def test_a_slow_link_is_waited_for(
    dataset: FrozenDataset, s3_link: FaultyLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SLOWEST", 1000)
    s3_link.on("GET", "/data/", is_slow(400, 0.3))
    assert dataset.read_bytes(generate_identifier("a.bin")) == b"a" * 2000


def test_a_download_in_parts(s3_base_uri: str, s3_link: FaultyLink, held: Any, in_parts: bytes) -> None:
    dataset = write(s3_base_uri, in_parts)
    s3_link.on("GET", f"/data/{generate_identifier('a.bin')}", breaks_off(1000), times=1)
    dataset.verify()
    s3_link.on("GET", f"/data/{generate_identifier('a.bin')}", breaks_off(1000))
    with pytest.raises(StoreError, match=r"fetch item 'a.bin'"):
        dataset.verify()


# -- deleting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["/dtool", "?delete", "list-type=2"])
def test_deleting(dataset: FrozenDataset, s3_link: FaultyLink, held: Callable[[], list[str]], part: str) -> None:
    """It changes nothing or leaves no frozen dataset, and can be repeated."""
    s3_link.on("P" if part != "list-type=2" else "GET", part, answers(403))
    with pytest.raises(StoreError, match=r"cannot delete the dataset: access was denied"):
        delete_dataset(dataset.uri)
    s3_link.mend()
    if part == "/dtool":
        dataset.verify()
    else:
        assert list(iter_datasets(dataset.uri.rpartition("/")[0])) == []
    delete_dataset(dataset.uri)
    assert held() == []


# -- counting -------------------------------------------------------------------------------------


def test_nine_requests_beside_the_data(s3_base_uri: str, s3_link: FaultyLink, held: Any) -> None:
    with DatasetWriter("x", s3_base_uri) as writer:
        writer.put_bytes(b"1", "a.bin")
        writer.commit()
    beside = [request for request in s3_link.requests if "/data/" not in request]
    assert len(beside) == 9, beside
    assert len(s3_link.requests) == 10


def test_five_requests_remove_a_dataset(dataset: FrozenDataset, s3_link: FaultyLink, held: Any) -> None:
    delete_dataset(dataset.uri)
    assert [request.split()[0] for request in s3_link.requests] == ["GET", "PUT", "GET", "POST", "POST"]
    assert held() == []


def test_small_items_are_fetched_with_one_request_each(dataset: FrozenDataset, s3_link: FaultyLink) -> None:
    assert len(dataset.items) == 2
    s3_link.requests.clear()
    dataset.fetch()
    assert sorted(request.split()[0] for request in s3_link.requests) == ["GET", "GET"]


# -- the time that is waited ----------------------------------------------------------------------


@pytest.fixture
def impatient(s3_link: FaultyLink, monkeypatch: pytest.MonkeyPatch) -> FaultyLink:
    """Return a link to a server that is waited for 2 seconds, with requests that could take longer."""
    monkeypatch.setenv(waiting.SETTING, "2")
    monkeypatch.setattr(s3_connections, "SILENT_SECONDS", 20)
    monkeypatch.setattr(waiting, "RELUCTANT_SECONDS", 0.5)
    for module in (s3, s3_connections):
        monkeypatch.setattr(module, "ATTEMPTS", 3)
    return s3_link


def test_a_silent_server_is_given_up_and_asked_again_later(
    s3_base_uri: str, impatient: FaultyLink, held: Callable[[], list[str]]
) -> None:
    impatient.on("", "", stalls)
    started = time.monotonic()
    with pytest.raises(StoreError, match="does not answer") as caught:
        write(s3_base_uri)
    assert caught.value.kind == "no_answer"
    assert time.monotonic() - started < 8
    for use in (ensure_writable, lambda base: list(iter_datasets(base)), write):
        impatient.requests.clear()
        started = time.monotonic()
        with pytest.raises(StoreError, match="does not answer"):
            use(s3_base_uri)
        assert time.monotonic() - started < 3
        assert len(impatient.requests) <= 1
    impatient.mend()
    waits = [0.5] * 60  # for the pause between two requests to a server that was given up
    while waits:
        try:
            write(s3_base_uri).verify()
            break
        except StoreError:
            time.sleep(waits.pop())
    assert waits


@pytest.mark.parametrize("where", ["in the headers", "in the content"])
def test_an_answer_that_trickles_has_an_end(dataset: FrozenDataset, s3_link: FaultyLink, where: str) -> None:
    """Each byte comes in time, and all of them would take an hour."""

    def trickles(passing: Any) -> None:
        _, _, body = passing.forward(passing.body)
        lines = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"
        passing.handler.wfile.write(b"" if where == "in the headers" else lines)
        for byte in lines if where == "in the headers" else body:
            passing.handler.wfile.write(bytes([byte]))
            passing.handler.wfile.flush()
            time.sleep(0.3)

    s3_link.on("GET", "/data/", trickles)
    started = time.monotonic()
    with pytest.raises(StoreError, match="fetch item"):
        dataset.fetch()
    assert time.monotonic() - started < SOON


def test_a_slow_upload_takes_longer_than_a_connection_may(
    s3_base_uri: str, s3_link: FaultyLink, held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits are for silence, and the server takes the content slowly."""
    monkeypatch.setattr(s3_connections, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(s3_connections, "SILENT_SECONDS", 10)
    s3_link.server.pause = 0.05  # for each 256 KiB
    try:
        write(s3_base_uri, os.urandom(12 * 2**20)).verify()
    finally:
        s3_link.server.pause = 0.0


def test_an_interruption_ends_the_requests_that_are_under_way(
    s3_base_uri: str, impatient: FaultyLink, held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(waiting.SETTING, "600")
    impatient.on("PUT", "/data/", stalls)
    threading.Timer(0.5, hurry).start()
    started = time.monotonic()
    with pytest.raises(StoreError, match="does not answer"):
        write(s3_base_uri)
    assert time.monotonic() - started < 8


def test_a_hurry_lets_a_server_that_answers_take_everything(s3_base_uri: str, s3_link: FaultyLink, held: Any) -> None:
    hurry()
    write(s3_base_uri, os.urandom(2**20)).verify()


def test_no_thread_stays_after_the_requests(
    s3_base_uri: str, s3_link: FaultyLink, held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(waiting.SETTING, "601")  # connections of this test's own: others may still watch what broke
    write(s3_base_uri)
    watch = s3_connections.connections(s3_base_uri.removeprefix("s3://"))._watch
    deadline = time.monotonic() + 120
    while watch._thread is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
