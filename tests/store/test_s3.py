"""Datasets on a real S3 server."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dtoolcore
import pytest

from faulty_link import FaultyLink, answers, stalls
from lightning_dtool import limits, recover
from lightning_dtool.errors import (
    CorruptDatasetError,
    DatasetNotFoundError,
    MetadataKeyError,
    MissingItemError,
    NotFrozenError,
    StoreError,
    UnsafeDatasetError,
    VerificationError,
)
from lightning_dtool.recovery.telling import tell_of_unfinished, unfinished
from lightning_dtool.store import (
    DatasetWriter,
    FrozenDataset,
    delete_dataset,
    ensure_writable,
    generate_identifier,
    iter_datasets,
)
from lightning_dtool.store.brokers import open_broker
from lightning_dtool.store.ownership import is_alive
from lightning_dtool.store.places import leave_note, take_note
from lightning_dtool.store.s3 import PART, S3Broker
from s3_server import S3Server, free_ports

BIG = os.urandom(1024) * (PART // 1024 + 5)
OAK = generate_identifier("oak/ü.txt")


@pytest.fixture
def keys(s3_server: S3Server, s3_base_uri: str) -> Iterator[Callable[[str], list[str]]]:
    """Return a function that lists a dataset's objects. Empty the bucket afterwards."""
    client, bucket = s3_server.client(), s3_base_uri.removeprefix("s3://")

    def listed() -> list[str]:
        return [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", [])]

    yield lambda uuid: sorted(key for key in listed() if uuid in key)
    for key in listed():
        client.delete_object(Bucket=bucket, Key=key)


@pytest.fixture
def dataset(make_dataset, s3_base_uri: str, keys: Any) -> FrozenDataset:
    files = {"oak/ü.txt": b"one", "empty.bin": b""}
    return make_dataset(files, base=s3_base_uri, annotations={"a": 1}, tags=("best",), readme="---\nx: ü\n")


def body_key(dataset: FrozenDataset, identifier: str = OAK) -> dict[str, str]:
    bucket, uuid = dataset.uri.removeprefix("s3://").split("/")
    return {"Bucket": bucket, "Key": f"{uuid}/data/{identifier}"}


def test_dtoolcore_reads_it_as_its_own(dataset: FrozenDataset) -> None:
    theirs = dtoolcore.DataSet.from_uri(dataset.uri)
    assert set(theirs.identifiers) == set(dataset.items)
    with open(theirs.item_content_abspath(OAK), "rb") as file:
        assert file.read() == b"one"
    assert theirs.get_annotation("a") == 1
    # What `dtool verify` compares.
    listed, found = theirs._manifest["items"], theirs.generate_manifest()["items"]
    for key in ("relpath", "size_in_bytes", "hash"):
        assert {idn: item[key] for idn, item in listed.items()} == {idn: item[key] for idn, item in found.items()}


def test_dtoolcore_copies_it_there_and_back(make_dataset, s3_base_uri: str, keys: Any, tmp_path: Path) -> None:
    for name in ("there", "back"):
        (tmp_path / name).mkdir()
    local = make_dataset(base=str(tmp_path), annotations={"a": 1})
    there = dtoolcore.copy(local.uri, s3_base_uri)
    FrozenDataset.from_uri(there).verify()
    delete_dataset(there)
    assert keys(local.uuid) == []
    ours = make_dataset(base=s3_base_uri, annotations={"a": 1})
    back = FrozenDataset.from_uri(dtoolcore.copy(ours.uri, str(tmp_path / "back")))
    back.verify()
    assert (back.uuid, back.content_digest, back.annotations()) == (ours.uuid, ours.content_digest, {"a": 1})


def test_an_item_in_parts_is_not_read_back(s3_base_uri: str, keys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Broker, "_hash_of", lambda *_: pytest.fail("read back"))
    with DatasetWriter("big", s3_base_uri) as writer:
        writer.put_bytes(BIG, "big")
        dataset = writer.commit()
    assert dataset.read_bytes(generate_identifier("big")) == BIG


def test_where_the_servers_tag_is_another_the_content_is_read_back(
    s3_base_uri: str, keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_dtool.store import s3

    read_back, listed, hash_of = [], s3.listed, S3Broker._hash_of
    monkeypatch.setattr(s3, "listed", lambda *args: ((key, size, "another") for key, size, _ in listed(*args)))
    monkeypatch.setattr(S3Broker, "_hash_of", lambda self, key: read_back.append(key) or hash_of(self, key))
    with DatasetWriter("x", s3_base_uri) as writer:
        writer.put_bytes(b"1", "a")
        writer.commit().verify()
    assert f"{writer.uuid}/data/{generate_identifier('a')}" in read_back
    assert f"{writer.uuid}/manifest.json" in read_back


def test_names_with_dots_written_by_others(dataset: FrozenDataset, s3_server: S3Server) -> None:
    key = {"Bucket": body_key(dataset)["Bucket"], "Key": f"{dataset.uuid}/annotations/dtoolAI.inputtype.json"}
    s3_server.client().put_object(**key, Body=b'"ImageDataSet"')
    assert dataset.annotation("dtoolAI.inputtype") == "ImageDataSet"


def test_a_prefix_within_the_bucket(s3_base_uri: str, make_dataset, keys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"DTOOL_S3_DATASET_PREFIX_{s3_base_uri.removeprefix('s3://')}", "u/me/")
    dataset = make_dataset(base=s3_base_uri)
    assert f"u/me/{dataset.uuid}/manifest.json" in keys(dataset.uuid)
    monkeypatch.undo()
    FrozenDataset.from_uri(dataset.uri).annotations()
    delete_dataset(dataset.uri)
    assert keys(dataset.uuid) == []


# -- damage -------------------------------------------------------------------------------------


def test_metadata_that_is_too_large_is_refused_before_it_is_read(
    dataset: FrozenDataset, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.client().put_object(Bucket="lab-models", Key=f"{dataset.uuid}/README.yml", Body=b"x" * 5000)
    monkeypatch.setattr(limits, "MAX_README", 4999)
    with pytest.raises(UnsafeDatasetError, match=r"at most 4999 bytes in \S+/README\.yml, found 5000 bytes") as caught:
        FrozenDataset.from_uri(dataset.uri).readme()
    assert caught.value.uri == dataset.uri
    monkeypatch.setattr(limits, "MAX_NAMES", 0)
    with pytest.raises(UnsafeDatasetError, match=r"at most 0 objects in \S+/overlays/, found more"):
        FrozenDataset.from_uri(dataset.uri).overlay_names()


def test_verification_asks_the_store_and_not_the_cache(dataset: FrozenDataset, s3_server: S3Server) -> None:
    dataset.fetch()
    s3_server.client().put_object(**body_key(dataset), Body=b"ONE")
    with pytest.raises(VerificationError, match=r"oak/ü.txt"):
        dataset.verify()


def test_a_damaged_manifest(dataset: FrozenDataset, s3_server: S3Server) -> None:
    key = {"Bucket": body_key(dataset)["Bucket"], "Key": f"{dataset.uuid}/manifest.json"}
    s3_server.client().put_object(**key, Body=b'{"items"')
    with pytest.raises(CorruptDatasetError, match=dataset.uri):
        assert FrozenDataset.from_uri(dataset.uri).items
    s3_server.client().delete_object(**key)
    with pytest.raises(CorruptDatasetError, match="found none"):
        assert FrozenDataset.from_uri(dataset.uri).items


# -- nothing half visible -----------------------------------------------------------------------


def answer(status: int) -> Callable[..., Any]:
    """Return a handler that answers requests in place of the server."""
    from botocore.awsrequest import AWSResponse

    class Body:
        def stream(self, **_: object) -> Iterator[bytes]:
            yield b"" if status == 200 else b"<Error><Code>AccessDenied</Code></Error>"

    return lambda request, **_: AWSResponse(request.url, status, {}, Body())


def write_while_uploads_are_answered(writer: DatasetWriter, handler: Callable[..., Any]) -> None:
    events = writer._broker.s3client.meta.events
    events.register("before-send.s3.PutObject", handler)
    try:
        writer.put_bytes(b"1", "a")
        writer._uploads.finish()
    finally:
        events.unregister("before-send.s3.PutObject", handler)


@pytest.mark.parametrize("status", [403, 500])
def test_an_upload_that_the_server_refuses(s3_base_uri: str, keys: Any, status: int) -> None:
    """After a long time dtool-s3 takes this for a success, and freezes a dataset without items."""
    started = time.monotonic()
    with DatasetWriter("x", s3_base_uri) as writer, pytest.raises(StoreError, match=r"cannot write item 'a'"):
        write_while_uploads_are_answered(writer, answer(status))
    assert keys(writer.uuid) == []
    assert time.monotonic() - started < 30


def test_an_upload_that_the_server_forgets(s3_base_uri: str, keys: Any) -> None:
    with DatasetWriter("x", s3_base_uri) as writer:
        write_while_uploads_are_answered(writer, answer(200))
        with pytest.raises(StoreError, match=r"1 items that were sent.*a: missing"):
            writer.commit()
    assert keys(writer.uuid) == []


def test_a_store_that_holds_something_else(s3_base_uri: str, s3_server: S3Server, keys: Any) -> None:
    with DatasetWriter("x", s3_base_uri) as writer:
        writer.put_bytes(b"one", "oak/ü.txt")
        writer._uploads.finish()
        bucket = s3_base_uri.removeprefix("s3://")
        s3_server.client().put_object(Bucket=bucket, Key=f"{writer.uuid}/data/{OAK}", Body=b"ONE")
        with pytest.raises(StoreError, match=r"oak/ü.txt: sent hash"):
            writer.commit()
        with pytest.raises(NotFrozenError):
            FrozenDataset.from_uri(writer.uri)
    assert keys(writer.uuid) == []


@pytest.mark.parametrize("lost", [f"data/{OAK}", "README.txt", "structure.json"])
def test_an_object_that_is_lost_before_the_dataset_is_frozen(
    s3_base_uri: str, s3_server: S3Server, keys: Any, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    held_items = S3Broker.held_items

    def loses(self: S3Broker) -> dict[str, tuple[int, str]]:
        s3_server.client().delete_object(Bucket=self.bucket, Key=f"{self.uuid}/{lost}")
        return held_items(self)

    monkeypatch.setattr(S3Broker, "held_items", loses)
    with DatasetWriter("x", s3_base_uri) as writer:
        writer.put_bytes(b"one", "oak/ü.txt")
        with pytest.raises(StoreError, match=r"oak/ü.txt: missing|1 differences: " + lost):
            writer.commit()
    assert keys(writer.uuid) == []


@pytest.mark.parametrize(
    "step", ["held_items", "put_manifest", "put_overlay", "put_admin_metadata", "post_freeze_hook"]
)
def test_a_fault_at_any_step_of_commit(s3_base_uri: str, keys: Any, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    done = getattr(S3Broker, step)

    def fails_once(*args: Any) -> None:
        done(*args)
        monkeypatch.undo()
        raise OSError("connection reset")

    with DatasetWriter("x", s3_base_uri) as writer:
        writer.put_bytes(b"1", "a")
        # `undo` would also take back what the fixtures set.
        with monkeypatch.context() as patch:
            monkeypatch = patch
            patch.setattr(S3Broker, step, fails_once)
            with pytest.raises(StoreError, match="connection reset"):
                writer.commit()
        with pytest.raises(NotFrozenError):
            FrozenDataset.from_uri(writer.uri)
    assert keys(writer.uuid) == []


def test_a_kill_while_writing_leaves_only_a_proto_dataset(s3_base_uri: str, keys: Any) -> None:
    script = f"""
import os, signal
from lightning_dtool.store import DatasetWriter
writer = DatasetWriter("x", {s3_base_uri!r})
writer.put_bytes(b"1", "a")
print(writer.uri, flush=True)
writer._broker.put_manifest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
writer.commit()
"""
    died = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL
    uri = died.stdout.strip()
    with pytest.raises(NotFrozenError):
        FrozenDataset.from_uri(uri)
    assert list(iter_datasets(s3_base_uri)) == []
    delete_dataset(uri)
    assert keys(uri.rsplit("/")[-1]) == []


# -- what killed processes leave behind -----------------------------------------------------------


def killed(base_uri: str, body: str) -> str:
    """Run a program in a process that is killed at its end, or earlier; return what it printed."""
    script = f"""
import os, signal
from lightning_dtool.store import DatasetWriter, FrozenDataset, delete_dataset, s3, uploading
base = {base_uri!r}
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
{body}
die()
"""
    died = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    return died.stdout.strip()


ITEM = "writer = DatasetWriter('x', base)\nprint(writer.uri, flush=True)\nwriter.put_bytes(b'1', 'a')\n"
ITEM += "writer.put_annotation('n', 1)\n"
WHOLE = ITEM + "uri = writer.commit().uri\n"
KILLED = {
    "begun": ITEM,
    "with its items": ITEM + "writer._uploads.finish()\n",
    "with its metadata": ITEM + "writer._broker.held_items = die\nwriter.commit()\n",
    "before it was frozen": ITEM + "writer._broker.freeze = die\nwriter.commit()\n",
    "in the middle of an upload in parts": (
        "s3.PART = 5 * 2**20\nuploading.SMALL = 1000\n" + ITEM + "writer._broker.s3client.meta.events.register("
        "'before-send.s3.CompleteMultipartUpload', die)\nwriter.put_bytes(bytes(6 * 2**20), 'b')\n"
    ),
    "removed, but for its objects": WHOLE + "s3.S3Broker._delete = die\ndelete_dataset(uri)\n",
    "removed, but for the last step": (
        WHOLE + "delete = s3.S3Broker._delete\n"
        "s3.S3Broker._delete = lambda self, keys: die() if len(keys) == 2 else delete(self, keys)\n"
        "delete_dataset(uri)\n"
    ),
}


WRITTEN = ("with its metadata", "before it was frozen")


@pytest.mark.parametrize("when", KILLED)
def test_what_a_killed_process_has_left_is_finished_or_removed(
    s3_base_uri: str, s3_server: S3Server, dataset: FrozenDataset, keys: Any, when: str
) -> None:
    uri = killed(s3_base_uri, KILLED[when])
    assert [each.uri for each in iter_datasets(s3_base_uri)] == [dataset.uri]
    with pytest.raises(NotFrozenError):
        FrozenDataset.from_uri(uri)

    (found,) = S3Broker.leftovers(s3_base_uri)
    assert (found.kind, found.uri, found.name) == ("removing" if "but" in when else "writing", uri, "x")
    assert found.owner is not None
    assert is_alive(found.owner) is False
    assert found.whole == (uri if when in WRITTEN else None)

    outcome = "finished" if when in WRITTEN else "removed"
    assert [(each.outcome, each.uri) for each in recover(s3_base_uri, [], dry_run=True)] == [(outcome, uri)]
    assert list(S3Broker.leftovers(s3_base_uri)) == [found]
    assert [(each.outcome, each.uri) for each in recover(s3_base_uri, [])] == [(outcome, uri)]
    assert recover(s3_base_uri, []) == []
    if when in WRITTEN:
        finished = FrozenDataset.from_uri(uri)
        finished.verify()
        assert "sha256" in finished.overlay_names()
        assert dtoolcore.DataSet.from_uri(uri).get_annotation("n") == 1
        assert finished.admin_metadata.keys() == dataset.admin_metadata.keys()
        open_broker(s3_base_uri).restore(found)  # another `recover` that had found it, too
        finished.verify()
        delete_dataset(uri)
    assert keys(uri.rpartition("/")[2]) == []
    bucket = s3_base_uri.removeprefix("s3://")
    assert s3_server.client().list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    dataset.verify()


@pytest.mark.parametrize("damaged", ["annotations/n.json", "overlays/sha256.json", "README.yml", "data/"])
def test_a_dataset_that_lacks_a_part_or_has_another_one_is_removed(
    s3_base_uri: str, s3_server: S3Server, keys: Any, damaged: str
) -> None:
    """A server may have acknowledged what it did not store."""
    client, bucket = s3_server.client(), s3_base_uri.removeprefix("s3://")
    for lacks in (True, False):
        uri = killed(s3_base_uri, KILLED["before it was frozen"]).rpartition("/")[2]
        (key,) = (key for key in keys(uri) if f"/{damaged}" in key)
        if lacks:
            client.delete_object(Bucket=bucket, Key=key)
        else:
            client.put_object(Bucket=bucket, Key=key, Body=b"{}")
        assert [each.outcome for each in recover(s3_base_uri, [])] == ["removed"]
        assert keys(uri) == []


def test_a_note_names_the_process_that_writes_to_a_bucket(s3_base_uri: str, keys: Any) -> None:
    def quickly() -> list[str]:
        return [each.kind for each in S3Broker.leftovers(s3_base_uri, quick=True)]

    note = leave_note(s3_base_uri)
    assert keys(note) == [note]
    assert quickly() == []
    take_note(s3_base_uri, note)
    assert keys("") == []

    killed(s3_base_uri, "from lightning_dtool.store.places import leave_note\nleave_note(base)\n" + ITEM)
    assert quickly() == ["note"]
    assert sorted(each.kind for each in S3Broker.leftovers(s3_base_uri)) == ["note", "writing"]
    assert [each.outcome for each in recover(s3_base_uri, [])] == ["removed", "removed"]
    assert keys("") == []


def test_what_a_killed_process_has_left_is_told_with_one_request(
    s3_base_uri: str, s3_link: FaultyLink, dataset: FrozenDataset, keys: Any
) -> None:
    note = "from lightning_dtool.store.places import leave_note\nleave_note(base)\n"
    said: list[str] = []
    for expected in ("", "whatever 1 process was writing", "whatever 2 processes were writing"):
        s3_link.requests.clear()
        assert expected in unfinished(s3_base_uri)
        assert bool(expected) == bool(unfinished(s3_base_uri))
        assert len(s3_link.requests) == 2
        tell_of_unfinished(s3_base_uri, said.append)
        _wait_for_look()
        assert len(s3_link.requests) == 3
        killed(s3_base_uri, note + ITEM)
    assert len(said) == 2
    assert said[0] == (
        f"Left unfinished in {s3_base_uri} by processes that have ended: whatever 1 process was writing. "
        f"Finish or remove: lightning-dtool recover {s3_base_uri}"
    )


def test_a_server_that_does_not_answer_is_not_waited_for_to_tell(s3_base_uri: str, s3_link: FaultyLink) -> None:
    _wait_for_look()  # that of another test
    s3_link.on("", "", stalls)
    said: list[str] = []
    begun = time.thread_time()
    tell_of_unfinished(s3_base_uri, said.append)
    assert [each.name for each in threading.enumerate()].count("lightning-dtool-look") == 1
    assert time.thread_time() - begun < 1
    s3_link.mend()
    _wait_for_look()
    assert said == []


def _wait_for_look() -> None:
    for thread in threading.enumerate():
        if thread.name == "lightning-dtool-look":
            thread.join()


def test_the_note_of_a_user_who_may_not_delete_says_that_it_has_ended(
    s3_base_uri: str, s3_link: FaultyLink, keys: Any
) -> None:
    note = leave_note(s3_base_uri)
    assert S3Broker(s3_base_uri)._notes() == [note]
    s3_link.on("DELETE", "", answers(403))
    take_note(s3_base_uri, note)
    assert keys(note) == [note]
    assert S3Broker(s3_base_uri)._notes() == []
    s3_link.mend()


def test_the_note_of_a_process_on_another_machine_is_left(s3_base_uri: str, s3_server: S3Server, keys: Any) -> None:
    note = leave_note(s3_base_uri)
    elsewhere = note.replace(note.split("-")[2], "00000000")
    s3_server.client().put_object(Bucket=s3_base_uri.removeprefix("s3://"), Key=elsewhere, Body=b"")
    assert unfinished(s3_base_uri).startswith(f"Unfinished, or still in use, in {s3_base_uri}: ")
    said: list[str] = []
    tell_of_unfinished(s3_base_uri, said.append)
    _wait_for_look()
    assert said == []
    assert [each.outcome for each in recover(s3_base_uri, [])] == ["left"]
    assert [each.outcome for each in recover(s3_base_uri, [], other_hosts=True)] == ["removed"]
    assert keys("") == [note]
    take_note(s3_base_uri, note)


def test_a_note_lies_below_the_prefix(s3_base_uri: str, keys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"DTOOL_S3_DATASET_PREFIX_{s3_base_uri.removeprefix('s3://')}", "lab/")
    note = leave_note(s3_base_uri)
    assert keys("lab/") == [note]
    take_note(s3_base_uri, note)
    assert keys("") == []


def test_what_a_living_process_writes_has_an_owner_that_lives(s3_base_uri: str, keys: Any) -> None:
    with DatasetWriter("x", s3_base_uri) as writer:
        writer.put_bytes(b"1", "a")
        (found,) = S3Broker.leftovers(s3_base_uri)
        assert (found.uri, found.owner.pid) == (writer.uri, os.getpid())
        assert is_alive(found.owner) is True
        assert [each.outcome for each in recover(s3_base_uri, [])] == ["left"]
        dataset = writer.commit()
    assert list(S3Broker.leftovers(s3_base_uri)) == []
    # It was finished after it was found.
    open_broker(s3_base_uri).discard(found)
    dataset.verify()
    assert dataset.admin_metadata.keys() == {
        "uuid", "dtoolcore_version", "name", "type", "creator_username", "created_at", "frozen_at"
    }  # fmt: skip


def test_uploads_of_other_programs_are_not_left_behind(s3_base_uri: str, s3_server: S3Server, keys: Any) -> None:
    client, bucket = s3_server.client(), s3_base_uri.removeprefix("s3://")
    begun = client.create_multipart_upload(Bucket=bucket, Key="films/leaves.mp4")
    ours = client.create_multipart_upload(Bucket=bucket, Key=f"dtool-{'0' * 8}-0000-0000-0000-{'0' * 12}")
    try:
        (found,) = S3Broker.leftovers(s3_base_uri)
        assert (found.kind, found.place, found.owner) == ("upload", ours["Key"], None)
        open_broker(s3_base_uri).discard(found)
        left = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
        assert [each["Key"] for each in left] == ["films/leaves.mp4"]
    finally:
        client.abort_multipart_upload(Bucket=bucket, Key=begun["Key"], UploadId=begun["UploadId"])


def test_a_dataset_that_dtool_is_writing_is_nobodys(s3_base_uri: str, keys: Any) -> None:
    theirs = dtoolcore.create_proto_dataset("theirs", s3_base_uri)
    (found,) = S3Broker.leftovers(s3_base_uri)
    assert (found.kind, found.uri, found.name, found.owner) == ("proto", theirs.uri, "theirs", None)
    delete_dataset(theirs.uri)
    assert list(S3Broker.leftovers(s3_base_uri)) == []


def test_dtool_passes_over_what_is_being_written(s3_base_uri: str, dataset: FrozenDataset, keys: Any) -> None:
    with DatasetWriter("x", s3_base_uri) as writer:
        writer.put_bytes(b"1", "a")
        assert [each.uri for each in dtoolcore.iter_datasets_in_base_uri(s3_base_uri)] == [dataset.uri]
        assert list(dtoolcore.iter_proto_datasets_in_base_uri(s3_base_uri)) == []


# -- removing -----------------------------------------------------------------------------------


def test_delete(dataset: FrozenDataset, make_dataset, s3_base_uri: str, keys: Any) -> None:
    other = make_dataset(base=s3_base_uri)
    assert len(keys(dataset.uuid)) > 5
    delete_dataset(dataset.uri)
    assert keys(dataset.uuid) == []
    with pytest.raises(DatasetNotFoundError):
        delete_dataset(dataset.uri)
    other.verify()


def test_an_interrupted_deletion_is_no_frozen_dataset_and_can_be_repeated(
    dataset: FrozenDataset, keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr(S3Broker, "_delete", fails)
        with pytest.raises(StoreError, match="cannot delete"):
            delete_dataset(dataset.uri)
    with pytest.raises(NotFrozenError):
        FrozenDataset.from_uri(dataset.uri)
    delete_dataset(dataset.uri)
    assert keys(dataset.uuid) == []


# -- a store that cannot be reached -------------------------------------------------------------

USES = [ensure_writable, lambda base: DatasetWriter("x", base), lambda base: FrozenDataset.from_uri(f"{base}/x")]
USES += [lambda base: list(iter_datasets(base))]


@pytest.mark.parametrize("use", USES)
def test_without_credentials(use: Callable[[str], object]) -> None:
    with pytest.raises(StoreError, match=r"s3://nobodys.*expected credentials, found none.*DTOOL_S3_ENDPOINT"):
        use("s3://nobodys")


@pytest.mark.parametrize("use", USES)
def test_a_bucket_that_is_missing(
    use: Callable[[str], object], s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.settings("missing").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=r"s3://missing.*[Cc]reate the bucket"):
        use("s3://missing")


@pytest.mark.parametrize("use", USES)
def test_an_endpoint_that_is_down(
    use: Callable[[str], object], s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.settings("down").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DTOOL_S3_ENDPOINT_down", f"http://127.0.0.1:{free_ports(1)[0]}")
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"s3://down.*Check the endpoint"):
        use("s3://down")
    assert time.monotonic() - started < 30


def test_wrong_credentials(s3_base_uri: str, dataset: FrozenDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"DTOOL_S3_SECRET_ACCESS_KEY_{s3_base_uri.removeprefix('s3://')}", "wrong")
    for use in (ensure_writable, lambda base: DatasetWriter("x", base), lambda _: FrozenDataset.from_uri(dataset.uri)):
        with pytest.raises(StoreError, match="access was denied"):
            use(s3_base_uri)


def test_half_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTOOL_S3_ENDPOINT_half", "http://127.0.0.1:1")
    with pytest.raises(StoreError, match=r"found no DTOOL_S3_ACCESS_KEY_ID_half, DTOOL_S3_SECRET_ACCESS_KEY_half"):
        ensure_writable("s3://half")


# -- processes ----------------------------------------------------------------------------------


def test_four_processes_fetch_at_once(dataset: FrozenDataset) -> None:
    script = f"""
import sys
from lightning_dtool.store import FrozenDataset
dataset = FrozenDataset.from_uri({dataset.uri!r})
dataset.items
print("ready", flush=True)
sys.stdin.readline()
for path in dataset._cache._directory.glob("*") if dataset._cache._directory.exists() else ():
    path.unlink(missing_ok=True)
for _ in range(5):
    dataset.verify()
    assert dataset.read_bytes({OAK!r}) == b"one"
"""
    started = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        process.communicate()
    assert [process.returncode for process in started] == [0, 0, 0, 0]
    assert len([name for name in os.listdir(dataset._cache._directory) if not name.startswith(".")]) == 2


def _read(dataset: FrozenDataset, queue: Any) -> None:
    queue.put(dataset.read_bytes(OAK))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_of_a_data_loader(dataset: FrozenDataset, method: str) -> None:
    dataset.annotations()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    workers = [context.Process(target=_read, args=(dataset, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=180) for _ in workers] == [b"one", b"one"]
    for worker in workers:
        worker.join()
    assert json.dumps(dataset.annotations()) == '{"a": 1}'


WRITE_AND_RETIRE = """
import sys
from lightning_dtool.store import DatasetWriter, delete_dataset
before = None
print("ready", flush=True)
sys.stdin.readline()
for number in range(6):
    with DatasetWriter("same-name", sys.argv[1]) as writer:
        writer.put_bytes(b"%d" % number * 1000, "a")
        writer.put_annotation("number", number)
        now = writer.commit()
    if before is not None:
        delete_dataset(before.uri)
    before = now
print(before.uri)
"""


@pytest.mark.usefixtures("emptied")
def test_many_processes_write_and_retire_while_others_read_and_recover(s3_base_uri: str, keys: Any) -> None:
    """Readers see whole datasets, or that one is gone. `recover` takes nothing from those who write."""
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITE_AND_RETIRE, s3_base_uri],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(4)
        ]
        for process in writers:
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        for process in writers:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        faults: list[object] = []
        seen = 0
        while any(process.poll() is None for process in writers):
            for dataset in iter_datasets(s3_base_uri, lambda *fault: faults.append(fault)):
                try:
                    dataset.verify()
                    is_whole = set(dataset.annotations()) == {"number"}
                except (DatasetNotFoundError, MissingItemError, CorruptDatasetError, MetadataKeyError, StoreError):
                    is_whole = False
                seen += is_whole
                if not is_whole:  # it was retired while it was read
                    with pytest.raises((DatasetNotFoundError, NotFrozenError)):
                        FrozenDataset.from_uri(dataset.uri)
            assert {each.outcome for each in recover(s3_base_uri, [])} <= {"left"}
        uris = [process.communicate()[0].strip() for process in writers]
    assert [process.returncode for process in writers] == [0] * 4
    assert faults == []
    assert seen
    assert sorted(dataset.uri for dataset in iter_datasets(s3_base_uri)) == sorted(uris)
    for uri in uris:
        FrozenDataset.from_uri(uri).verify()
    assert recover(s3_base_uri, []) == []
