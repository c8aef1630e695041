"""Concurrent tasks."""

import threading
import time

import pytest

from lightning_dtool.store.parallel import run_all


def test_the_results_come_in_the_order_of_the_tasks() -> None:
    met = threading.Barrier(3, timeout=180)
    tasks = [lambda number=number: (met.wait(), number)[1] for number in range(3)]
    assert run_all(tasks) == [0, 1, 2]  # all three were under way at once


def test_one_at_a_time_is_this_thread() -> None:
    assert set(run_all([threading.get_ident] * 3, threads=1)) == {threading.get_ident()}


def test_an_error_in_the_middle_is_not_waited_for() -> None:
    raised = threading.Event()
    done: list[int] = []

    def fails() -> None:
        raised.set()
        raise ValueError("middle")

    def waits() -> None:
        raised.wait(180)

    def lasts() -> None:
        time.sleep(0.02)  # all of them take five seconds: the error must be heard before that
        done.append(1)

    with pytest.raises(ValueError, match="middle"):
        run_all([waits, fails, *[lasts] * 500], threads=2)
    assert len(done) < 500
