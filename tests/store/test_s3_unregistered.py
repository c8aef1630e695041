"""Objects on a real S3 server whose dataset is not registered, and what `recover` does about them."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dtoolcore
import pytest

from faulty_link import FaultyLink, Passing, passes
from lightning_dtool import FrozenDataset, Recovered, recover
from lightning_dtool.errors import StoreError
from lightning_dtool.store import DatasetWriter, delete_dataset, generate_identifier, leftovers
from lightning_dtool.store.brokers import open_broker
from lightning_dtool.store.places import discard
from lightning_dtool.store.s3 import S3Broker
from s3_server import S3Server

UUID = "01234567-89ab-cdef-0123-456789abcdef"
ITEM = generate_identifier("a")
Objects = dict[str, tuple[bytes, dict[str, str]]]


class Bucket:
    """A bucket, as its administrator sees it."""

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name = client, name

    def listing(self) -> list[str]:
        return [entry["Key"] for entry in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])]

    def objects(self, prefix: str = "") -> Objects:
        answers = {
            key: self.client.get_object(Bucket=self.name, Key=key) for key in self.listing() if key.startswith(prefix)
        }
        return {key: (answer["Body"].read(), answer["Metadata"]) for key, answer in answers.items()}

    def put(self, objects: Objects) -> None:
        for key, (content, metadata) in objects.items():
            self.client.put_object(Bucket=self.name, Key=key, Body=content, Metadata=metadata)

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.client.delete_object(Bucket=self.name, Key=key)


@pytest.fixture
def bucket(s3_server: S3Server, emptied: str) -> Iterator[Bucket]:
    bucket = Bucket(s3_server.client(), emptied.removeprefix("s3://"))
    yield bucket
    bucket.delete(*bucket.listing())


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after which objects are taken for a day old."""
    return lambda: monkeypatch.setattr(leftovers, "_SECONDS_TO_BE_REGISTERED", 0)


def written(base_uri: str) -> FrozenDataset:
    with DatasetWriter("x", base_uri) as writer:
        writer.put_bytes(b"1", "a")
        writer.put_bytes(b"2", "b/ü")
        writer.put_annotation("n", 1)
        writer.put_tag("t")
        return writer.commit()


def carried_out_late(bucket: Bucket, base_uri: str, prefix: str = "") -> str:
    """Leave what a server has stored for a process that was killed, after its unfinished dataset was removed."""
    dataset = written(base_uri)
    folder = f"{prefix}{dataset.uuid}/"
    objects = bucket.objects(folder)
    delete_dataset(dataset.uri)
    bucket.put({key: value for key, value in objects.items() if key != f"{folder}dtool"})
    return dataset.uri


def outcomes(found: list[Recovered]) -> list[str]:
    return [each.outcome for each in found]


def test_they_are_told_and_removed_when_they_are_a_day_old(
    s3_base_uri: str, bucket: Bucket, later: Callable[[], None]
) -> None:
    kept = written(s3_base_uri)
    uri = carried_out_late(bucket, s3_base_uri)
    assert [each.uri for each in dtoolcore.iter_datasets_in_base_uri(s3_base_uri)] == [kept.uri]
    (found,) = recover(s3_base_uri, [])
    assert (found.outcome, found.uri) == ("left", uri)
    assert "copying" in found.reason
    later()
    assert outcomes(recover(s3_base_uri, [], dry_run=True)) == ["removed"]
    assert recover(s3_base_uri, []) == [
        Recovered("removed", "objects of a dataset that is not registered", uri, f"{uri.rpartition('/')[2]}/")
    ]
    assert recover(s3_base_uri, []) == []
    assert {key.removeprefix("dtool-").split("/")[0] for key in bucket.listing()} == {kept.uuid}
    kept.verify()


WRITE = """
import sys
from lightning_dtool.store import DatasetWriter
writer = DatasetWriter("x", sys.argv[1])
writer.put_bytes(b"1", "a")
input()
"""


def test_what_a_server_does_for_a_killed_process_after_recover_is_removed_by_the_next_one(
    s3_base_uri: str, bucket: Bucket, s3_link: FaultyLink
) -> None:
    has_come, may_go_on, is_done = (threading.Event() for _ in range(3))

    def is_late(passing: Passing) -> None:
        has_come.set()
        may_go_on.wait(60)
        passing.forward(passing.body)
        is_done.set()

    s3_link.on("PUT", "/data/", is_late)
    with subprocess.Popen([sys.executable, "-c", WRITE, s3_base_uri], stdin=subprocess.PIPE) as process:
        assert has_come.wait(60)
        process.kill()
    assert outcomes(recover(s3_base_uri, [])) == ["removed"]
    assert bucket.listing() == []
    may_go_on.set()
    assert is_done.wait(60)
    (key,) = bucket.listing()
    assert key.endswith(f"/data/{ITEM}")
    assert outcomes(recover(s3_base_uri, [])) == ["left"]
    assert outcomes(recover(s3_base_uri, [], other_hosts=True)) == ["removed"]
    assert bucket.listing() == []


@pytest.mark.parametrize("prefix", ["lab/sets/", "lab-"])
def test_they_are_looked_for_below_the_prefix(
    s3_base_uri: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    carried_out_late(bucket, s3_base_uri)
    outside = bucket.listing()
    monkeypatch.setenv(f"DTOOL_S3_DATASET_PREFIX_{bucket.name}", prefix)
    kept = written(s3_base_uri)
    carried_out_late(bucket, s3_base_uri, prefix)
    assert outcomes(recover(s3_base_uri, [], other_hosts=True)) == ["removed"]
    assert {key for key in bucket.listing() if kept.uuid not in key} == set(outside)
    kept.verify()


def test_what_another_process_left_of_a_removal_is_removed(s3_base_uri: str, bucket: Bucket) -> None:
    """A server removes several objects one after the other, and the registration may go before the metadata."""
    with DatasetWriter("x", s3_base_uri) as writer:
        writer.put_bytes(b"1", "a")
        broker = open_broker(writer.uri)
        broker.put_admin_metadata(broker.get_admin_metadata())
        writer._uploads.finish()
        bucket.delete(f"dtool-{writer.uuid}")
        assert f"{writer.uuid}/dtool" in bucket.listing()
        assert outcomes(recover(s3_base_uri, [])) == ["left"]
        assert outcomes(recover(s3_base_uri, [], other_hosts=True)) == ["removed"]
        assert bucket.listing() == []


# -- what is not ours -----------------------------------------------------------------------------

HANDLE = {"handle": "YQ==", "checksum": "c4ca4238a0b923820dcc509a6f75849b"}
FOREIGN: dict[str, Objects] = {
    "an item beside a file of the user": {
        f"{UUID}/data/{ITEM}": (b"1", HANDLE),
        f"{UUID}/data/notes.txt": (b"1", {}),
    },
    "a file whose name is a SHA-1": {f"{UUID}/data/{ITEM}": (b"1", {})},
    "a file with the metadata of another item": {f"{UUID}/data/{'0' * 40}": (b"1", HANDLE)},
    "a file with the metadata of another program": {
        f"{UUID}/data/{ITEM}": (b"1", HANDLE | {"handle": "ü".encode().hex()})
    },
    "files with names that dtool uses": {
        f"{UUID}/{name}": (b"{}", {})
        for name in ("README.txt", "manifest.json", "dtool", "tags/a", "annotations/a.json")
    },
    "an object of another dataset": {f"{UUID}/tags/a": (b"", {"lightning-dtool-dataset": UUID.replace("0", "1")})},
    "a folder that is no UUID": {f"runs/{UUID}/data/{ITEM}": (b"1", HANDLE), f"{UUID}0/data/{ITEM}": (b"1", HANDLE)},
}


@pytest.mark.parametrize("objects", FOREIGN.values(), ids=FOREIGN)
def test_what_other_programs_have_stored_is_not_touched(s3_base_uri: str, bucket: Bucket, objects: Objects) -> None:
    bucket.put(objects)
    assert recover(s3_base_uri, [], other_hosts=True) == []
    assert set(bucket.listing()) == objects.keys()


def test_a_frozen_dataset_without_a_registration_is_not_touched(s3_base_uri: str, bucket: Bucket) -> None:
    """Its URI still leads to it."""
    dataset = written(s3_base_uri)
    bucket.delete(f"dtool-{dataset.uuid}")
    assert recover(s3_base_uri, [], other_hosts=True) == []
    FrozenDataset.from_uri(dataset.uri).verify()


@pytest.mark.parametrize("listing", range(3))
def test_a_dataset_that_is_begun_meanwhile_is_not_touched(
    s3_base_uri: str, bucket: Bucket, s3_link: FaultyLink, listing: int
) -> None:
    """Whichever of its requests to list objects `recover` has just made."""
    with contextlib.ExitStack() as stack:
        begun: list[Callable[[], FrozenDataset]] = []

        def begins(passing: Passing) -> None:
            answer = passing.forward(passing.body)
            writer = stack.enter_context(DatasetWriter("x", s3_base_uri))
            writer.put_bytes(b"1", "a")
            writer._uploads.finish()
            begun.append(writer.commit)
            passing.answer(*answer)

        s3_link.on("GET", "list-type=2", begins, skip=listing, times=1)
        assert set(outcomes(recover(s3_base_uri, [], other_hosts=True))) <= {"left"}
        s3_link.mend()
        (finish,) = begun
        finish().verify()


def test_objects_whose_dataset_comes_after_they_were_found_are_not_touched(s3_base_uri: str, bucket: Bucket) -> None:
    """Another program copies the dataset, and has not come to the rest."""
    uri = carried_out_late(bucket, s3_base_uri)
    (found,) = S3Broker.leftovers(s3_base_uri)
    before = bucket.listing()
    for more in (f"dtool-{found.place[:-1]}", f"{found.place}data/more"):
        bucket.put({more: (b"", {})})
        with pytest.raises(StoreError) as caught:
            discard(s3_base_uri, found)
        assert (caught.value.kind, caught.value.uri) == ("absent", uri)
        assert bucket.listing() == sorted([*before, more])
        bucket.delete(more)


def test_what_the_server_stores_during_the_removal_is_removed(
    s3_base_uri: str, bucket: Bucket, s3_link: FaultyLink
) -> None:
    writer = DatasetWriter("x", s3_base_uri)
    writer.put_bytes(b"1", "a")
    writer._uploads.finish()
    (found,) = S3Broker.leftovers(s3_base_uri)
    late = bucket.objects(f"{writer.uuid}/data/")
    assert len(late) == 1

    def removes(passing: Passing) -> None:
        passes(passing)
        bucket.put(late)

    s3_link.on("POST", "delete", removes, times=1)
    discard(s3_base_uri, found)
    assert bucket.listing() == []
