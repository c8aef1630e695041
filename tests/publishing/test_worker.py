"""The thread that publishes runs its tasks in order, and the program waits for it."""

import multiprocessing
import threading
import time
import warnings

import pytest

from lightning_dtool.publishing.worker import Worker


def test_work_is_done_in_order_while_the_caller_continues() -> None:
    worker, done, go = Worker(), list[int](), threading.Event()
    worker.submit(go.wait, 10)
    for number in range(20):
        worker.submit(done.append, number)
    assert worker.busy
    assert done == []
    go.set()
    worker.wait("Waiting")
    assert not worker.busy
    assert done == list(range(20))
    worker.close()


def test_a_slow_task_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    worker, done = Worker(), list[int]()
    worker.submit(lambda: (time.sleep(0.7), done.append(1)))
    worker.wait("Publishing")
    assert done == [1]
    assert capsys.readouterr() == ("", "")  # no terminal, no words
    worker.close()


def test_a_worker_can_be_used_again_after_close_and_after_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    worker, done = Worker(), list[int]()
    worker.close()
    worker.submit(lambda: 1 / 0)
    assert worker.wait()
    assert "division by zero" in caplog.text
    worker.close()
    others = set(threading.enumerate())
    worker.submit(done.append, 3)
    worker.close()
    worker.close()
    assert done == [3]
    assert not [each for each in set(threading.enumerate()) - others if each.name == "lightning-dtool"]


def test_a_task_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_dtool.publishing.worker._SOON", 0.01)
    monkeypatch.setattr("lightning_dtool.publishing.worker._LOOK", 0.01)
    worker, go, done = Worker(timeout=0.1), threading.Event(), threading.Event()
    worker.submit(go.wait, 300)
    worker.submit(done.set)
    assert not worker.wait()
    worker.timeout = 300
    assert not worker.wait()  # at once: nothing has gone on
    worker.close()
    go.set()
    assert done.wait(300)
    assert worker.wait()
    worker.close()


def test_a_wait_ends_as_early_as_is_asked() -> None:
    worker, go, done = Worker(), threading.Event(), list[int]()
    worker.submit(done.append, 1)
    worker.submit(go.wait, 300)
    assert worker.wait(until=lambda: done == [1])
    assert worker.busy
    go.set()
    worker.close()


def test_a_forked_process_does_not_wait_for_work_that_it_does_not_have() -> None:
    """As a worker of a DataLoader: at its end it runs what a program runs at its end."""
    worker, go = Worker(), threading.Event()
    worker.submit(go.wait, 300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later Pythons warn of a fork beside threads
        process = multiprocessing.get_context("fork").Process(target=int)
        process.start()
    process.join(180)
    assert process.exitcode == 0
    go.set()
    worker.close()
