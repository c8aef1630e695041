"""Several things at a time: what waits for a server, not for this machine's processors."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

THREADS = 16
"""How many requests are under way at once."""

Result = TypeVar("Result")


def run_all(tasks: Sequence[Callable[[], Result]], threads: int = THREADS) -> list[Result]:
    """Run every task in a few threads; the first error stops those that have not begun, and is raised.

    Args:
        tasks: What to do.
        threads: How many at a time. With 1 they run one after another, in this thread.

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
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
