"""Concurrent tasks that wait for a server or a disk, not for the processor."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from lightning_dtool.store.waiting import hurrying

THREADS = 16
"""The number of requests at a time."""

Result = TypeVar("Result")


def run_all(tasks: Sequence[Callable[[], Result]], threads: int = THREADS) -> list[Result]:
    """Run tasks in several threads. The first error stops those that have not begun, and is raised.

    Args:
        tasks: The functions to call.
        threads: The number of threads. With 1 the tasks run one after another, in this thread.

    Returns:
        The results, in the order of the tasks.
    """
    if threads <= 1 or len(tasks) <= 1:
        return [task() for task in tasks]
    with ThreadPoolExecutor(min(threads, len(tasks))) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            return [future.result() for future in futures]
        except BaseException as error:
            with hurrying(error):
                pool.shutdown(cancel_futures=True)
            raise
