"""What training waits for in a save."""

import threading
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_dtool.errors import PublishError, StoreError
from lightning_dtool.publishing import linking
from lightning_dtool.publishing.account import Account, Publication
from lightning_dtool.publishing.dataset import Staged
from lightning_dtool.publishing.failures import Failures
from lightning_dtool.publishing.flight import Flight
from lightning_dtool.publishing.latest import Latest
from lightning_dtool.publishing.publisher import Publisher
from lightning_dtool.publishing.saving import Saver
from lightning_dtool.publishing.standing import StandingFile
from lightning_dtool.publishing.worker import Worker
from lightning_dtool.snapshot.staging import Staging
from record.samples import record


class Immediate(Worker):
    """A publishing thread that is done before `submit` returns."""

    def submit(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)


def publication(path: Path) -> Publication:
    return Publication("net", {str(path)}, "run", epoch=0, global_step=1, saved_at=datetime.now(timezone.utc))


def staged(content: bytes) -> Staged:
    return Staged(
        None,
        sealed=lambda: pytest.fail("not asked for here"),
        creator_username="alice",
        requirements="",
        random_states="",
        run_status="running",
        content=content,
    )


class Run:
    """The objects of one run."""

    def __init__(self, folder: Path, worker: Worker, staging: Staging | None = None) -> None:
        self.account, self.flight, self.failures = Account(), Flight(), Failures(str(folder))
        self.publisher = Publisher(str(folder), self.account, self.flight, self.failures, worker, "all", "auto")
        self.saver = Saver(self.account, self.flight, worker, self.publisher, staging or Staging(), "auto")


def test_last_is_filled_however_soon_the_best_of_the_same_step_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, last = publication(tmp_path / "best.ckpt"), tmp_path / "last.ckpt"

    class Faster(Immediate):
        def submit(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
            best.item = tmp_path / "item"
            best.item.write_bytes(b"the state")
            best.dataset_uri = f"file://{tmp_path}/net"
            super().submit(function, *args, **kwargs)

    run = Run(tmp_path, Faster())
    monkeypatch.setattr("lightning_dtool.publishing.saving.asking_policies", lambda: [ModelCheckpoint()])
    monkeypatch.setattr(Latest, "same_as", lambda *_: best)  # in flight
    assert run.saver.share({}, str(last), last, background=True)
    assert last.read_bytes() == b"the state"
    assert not run.flight.awaits(str(last))
    run.saver.close()


def test_a_second_path_is_exchanged_for_a_link_however_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, item = (tmp_path / name for name in ("one.ckpt", "other.ckpt", "item"))
    for place in (one, item):
        place.write_bytes(b"the state")
    best = publication(one)
    best.item, best.standing = item, StandingFile.at(one)
    monkeypatch.setattr(linking, "_clone", refused)
    monkeypatch.setattr(Latest, "same_as", lambda *_: best)
    run = Run(tmp_path, Immediate())
    assert run.saver.share({}, str(other), other, background=True)
    assert other.samefile(item)
    run.saver.close()


def refused(*_: Any) -> None:
    raise OSError("no clones")


def test_a_checkpoint_that_fails_is_not_written_over_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = tmp_path / "last.ckpt"
    run, older, newer = Run(tmp_path, Immediate()), publication(last), publication(last)
    for saved in (older, newer):
        run.account.claim(str(last), saved)
    last.write_bytes(b"newer")

    def fail(*_: Any) -> None:
        raise StoreError("no store", uri=str(tmp_path))

    monkeypatch.setattr("lightning_dtool.publishing.publisher.write_dataset", fail)
    run.publisher.publish(older, staged(b"older"), str(last), last)
    assert last.read_bytes() == b"newer"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt"]
    with pytest.raises(PublishError, match=r"no store\. Lightning's path does not hold it either"):
        run.failures.report(raising=True)


def test_an_older_checkpoint_that_arrives_late_leaves_the_path_to_the_later_one(tmp_path: Path) -> None:
    last = tmp_path / "last.ckpt"
    run, older, newer = Run(tmp_path, Immediate()), publication(last), publication(last)
    for saved, content in ((older, b"older"), (newer, b"newer")):
        saved.item = tmp_path / content.decode()
        saved.item.write_bytes(content)
    run.flight.expect(str(last), older)
    run.flight.expect(str(last), newer)
    run.publisher.fill(older, str(last), last)
    run.publisher.fill(newer, str(last), last)
    assert last.read_bytes() == b"newer"
    assert not run.flight.holds_back


def test_a_checkpoint_that_may_not_be_kept_in_memory_is_published_after_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, waited_for, published = threading.Event(), threading.Event(), []
    wait = Worker.wait

    def publish(publisher: Publisher, publication: Publication, *_: Any, **__: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            assert waited_for.wait(60)
        published.append(publication.name)

    def notes_waiting(worker: Worker, *args: Any, **options: Any) -> bool:
        if begun.is_set():
            waited_for.set()
        return wait(worker, *args, **options)

    monkeypatch.setattr(Publisher, "publish", publish)
    monkeypatch.setattr(Worker, "wait", notes_waiting)
    run = Run(tmp_path, worker := Worker(), Staging(limit=1))
    for name, content in (("first", b"1"), ("second", b"too large")):
        run.saver.save(record(), name, staged(content), str(tmp_path / name), tmp_path / name, background=True)
        assert begun.wait(60)
    assert published == ["first", "second"]
    worker.close()
