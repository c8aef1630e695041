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


def test_a_worker_can_be_used_again_after_close_and_after_a_failure() -> None:
    worker = Worker()
    worker.close()
    failed = worker.submit(lambda: 1 / 0)
    worker.wait()
    assert isinstance(failed.exception(), ZeroDivisionError)
    worker.close()
    threads = threading.active_count()
    assert worker.submit(lambda: 3).result() == 3
    worker.close()
    worker.close()
    assert threading.active_count() == threads


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
