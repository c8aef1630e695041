"""The thread that publishes while training continues."""

import atexit
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

from rich.console import Console

P = ParamSpec("P")
R = TypeVar("R")

_at_work: "WeakSet[Worker]" = WeakSet()


def _wait_for_all() -> None:
    for worker in list(_at_work):
        worker.wait("Publishing checkpoints")


# Publishing uses threads of its own, and no executor accepts work once the interpreter shuts down. This runs before
# that; functions of `atexit` run after it: https://github.com/python/cpython/issues/86813
getattr(threading, "_register_atexit", atexit.register)(_wait_for_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_at_work.clear)  # a forked child has none of the threads


class Worker:
    """One background thread. It runs what is submitted in order."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._running: set[Future[Any]] = set()

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        """Run a function after everything that was submitted before. The program does not end before it is done."""
        if self._executor is None:  # not earlier: a thread does not survive a fork
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lightning-dtool")
            _at_work.add(self)
        future = self._executor.submit(self._run, partial(function, *args, **kwargs))
        self._running = {running for running in self._running if not running.done()} | {future}
        return future

    def _run(self, task: Callable[[], R]) -> R:
        # A bound method: its reference keeps the worker alive, and thus in `_at_work`, until the last task is done.
        return task()

    @property
    def busy(self) -> bool:
        """True while something waits or runs."""
        return any(not future.done() for future in self._running)

    def wait(self, message: str = "") -> None:
        """Wait until everything that was submitted is done.

        Args:
            message: Shown, on a terminal only, when that takes longer than half a second.
        """
        wait(self._running, timeout=0.5)
        if self.busy:
            console = Console(stderr=True)
            if message and console.is_terminal:
                with console.status(message):
                    wait(self._running)
            else:
                wait(self._running)
        self._running = set()

    def close(self) -> None:
        """Finish what was submitted and end the thread. `submit` starts another."""
        self.wait()
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None
