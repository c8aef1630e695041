"""Several things at a time."""

import threading

import pytest

from lightning_dtool.store.parallel import run_all


def test_the_results_come_in_the_order_of_the_tasks() -> None:
    met = threading.Barrier(3, timeout=10)
    tasks = [lambda number=number: (met.wait(), number)[1] for number in range(3)]
    assert run_all(tasks) == [0, 1, 2]  # all three were under way at once


def test_one_at_a_time_is_this_thread() -> None:
    assert set(run_all([threading.get_ident] * 3, threads=1)) == {threading.get_ident()}


def test_an_error_in_the_middle_is_not_waited_for() -> None:
    raised = threading.Event()

    def fails() -> None:
        raised.set()
        raise ValueError("middle")

    def waits() -> None:
        raised.wait(10)

    done: list[int] = []
    tasks = [waits, fails, *(lambda number=number: (raised.wait(10), done.append(number)) for number in range(500))]
    with pytest.raises(ValueError, match="middle"):
        run_all(tasks, threads=2)
    assert len(done) < 400
