"""Uploads to a store that takes several requests at a time."""

import threading
from pathlib import Path

import pytest

from lightning_dtool.errors import StoreError
from lightning_dtool.store import uploading
from lightning_dtool.store.uploading import Uploads


class Slow:
    """A broker whose uploads wait for a signal, and one of which can fail."""

    at_once = 4

    def __init__(self, failing: str = "") -> None:
        self.gate = threading.Event()
        self.failing = failing
        self.sent: dict[str, bytes | Path] = {}

    def send(self, content: Path | bytes, relpath: str, md5: str) -> None:
        assert self.gate.wait(180)
        if relpath == self.failing:
            raise OSError("reset by peer")
        self.sent[relpath] = content


def test_small_items_are_sent_in_the_background_and_a_file_may_change_meanwhile(tmp_path: Path) -> None:
    broker, path = Slow(), tmp_path / "a"
    path.write_bytes(b"one")
    uploads = Uploads("s3://lab/x", broker)
    uploads.send(path, "a", "")
    uploads.send(b"two", "b", "")
    path.write_bytes(b"ONE")
    assert broker.sent == {}
    broker.gate.set()
    uploads.finish()
    assert broker.sent == {"a": b"one", "b": b"two"}


def test_large_items_are_sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "SMALL", 2)
    broker = Slow()
    broker.gate.set()
    Uploads("s3://lab/x", broker).send(b"one", "a", "")
    assert broker.sent == {"a": b"one"}


def test_no_more_wait_in_memory_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "_WAITING", 5)
    broker = Slow()
    uploads = Uploads("s3://lab/x", broker)
    uploads.send(b"12345678", "a", "")  # one always fits
    third = threading.Thread(target=uploads.send, args=(b"1", "b", ""))
    third.start()
    third.join(0.1)
    assert third.is_alive()
    broker.gate.set()
    third.join(180)
    uploads.finish()
    assert set(broker.sent) == {"a", "b"}


def test_what_went_wrong_is_raised_by_the_next_call_and_nothing_more_is_sent() -> None:
    broker = Slow(failing="a")
    uploads = Uploads("s3://lab/x", broker)
    broker.gate.set()
    uploads.send(b"1", "a", "")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"s3://lab/x: cannot write item 'a': .*reset by peer"):
            uploads.finish()
    with pytest.raises(StoreError, match="cannot write item 'a'"):
        uploads.send(b"2", "b", "")
    assert broker.sent == {}


def test_what_is_cancelled_is_not_sent() -> None:
    broker = Slow()
    uploads = Uploads("s3://lab/x", broker)
    for number in range(10):
        uploads.send(b"1", str(number), "")
    threading.Timer(0.05, broker.gate.set).start()
    uploads.cancel()
    assert len(broker.sent) == 4  # those under way
