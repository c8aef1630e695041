"""The thread that publishes while training continues."""

import atexit
import contextlib
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import ParamSpec
from weakref import WeakSet

from rich.console import Console

from lightning_dtool.store import hurry

P = ParamSpec("P")

logger = logging.getLogger(__name__)

TIMEOUT = 600.0
"""Seconds for which a program waits for one thing that is being published."""

_SOON = 0.5
"""Seconds after which a wait is shown on a terminal."""

_LOOK = 1.0
"""Seconds between two looks whether the thread has gone on."""

_at_work: "WeakSet[Worker]" = WeakSet()


def _wait_for_all() -> None:
    for worker in list(_at_work):
        worker.wait("Publishing checkpoints")


def _forget_all() -> None:
    for worker in list(_at_work):
        worker._forget()
    _at_work.clear()


# Publishing uses threads of its own, and no executor accepts work once the interpreter shuts down. This runs before
# that; functions of `atexit` run after it: https://github.com/python/cpython/issues/86813
getattr(threading, "_register_atexit", atexit.register)(_wait_for_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)  # a forked child has none of the threads


class Worker:
    """One background thread. It runs what is submitted in order.

    Args:
        timeout: Seconds for which `wait` waits for one task. A store may hang, and training must go on.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.timeout = timeout
        self._forget()

    def _forget(self) -> None:
        self._tasks: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._begun = 0
        self._done = 0
        self._given_up: int | None = None

    def submit(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a function after everything that was submitted before.

        The program waits for it before it ends.

        Args:
            function: It must handle its own errors: nobody receives them.
            args: Its arguments.
            kwargs: Its arguments by name.
        """
        with self._changed:
            self._tasks.append(partial(function, *args, **kwargs))
            self._begun += 1
            if self._thread is None:  # not earlier: a thread does not survive a fork
                # A daemon: a store that hangs must not keep the program from ending.
                self._thread = threading.Thread(target=self._work, name="lightning-dtool", daemon=True)
                self._thread.start()
                _at_work.add(self)
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._tasks:
                    if self._closing:
                        return
                    self._changed.wait()
                task = self._tasks.popleft()
            try:
                task()
            except Exception:  # one mistake must not stop everything that is published after it
                logger.exception("a task of the publishing thread failed")
            del task  # it may hold a whole checkpoint
            with self._changed:
                self._done += 1
                self._changed.notify_all()

    @property
    def busy(self) -> bool:
        """True while something waits or runs."""
        return self._done < self._begun

    def wait(self, message: str = "", until: Callable[[], bool] | None = None) -> bool:
        """Wait until everything that was submitted is done.

        It ends if one task takes longer than the timeout, and with Ctrl-C. After that it does not wait for the same
        task again.

        Args:
            message: Shown, on a terminal only, when that takes longer than half a second.
            until: Wait until this returns True, which may be earlier. It is asked after each task.

        Returns:
            Whether what was waited for has come.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
        """

        def finished() -> bool:
            return not self.busy or (until is not None and until())

        with self._changed:
            if finished():
                return True
            if self._given_up == self._done:
                return False
            try:
                self._changed.wait_for(finished, _SOON)
                with _shown(message if not finished() else ""):
                    done, since = self._done, time.monotonic() - _SOON
                    while not finished():
                        self._changed.wait(_LOOK)
                        if self._done != done:
                            done, since = self._done, time.monotonic()
                        elif time.monotonic() - since >= self.timeout:
                            self._given_up = self._done
                            return False
            except BaseException:  # Ctrl-C
                self._given_up = self._done
                hurry()
                raise
        return True

    def close(self) -> None:
        """Finish what was submitted and end the thread. `submit` starts another."""
        self.wait()
        with self._changed:
            if self.busy:  # it hangs: its thread ends with the program
                return
            thread, self._thread, self._closing = self._thread, None, True
            self._changed.notify_all()
        if thread is not None:
            thread.join()
        self._closing = False


@contextlib.contextmanager
def _shown(message: str) -> Iterator[None]:
    console = Console(stderr=True)
    if not (message and console.is_terminal):
        yield
        return
    with console.status(message):
        yield


@contextlib.contextmanager
def interruptible(interrupted: bool) -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt within, though Lightning ignores it once it has interrupted a run.

    Args:
        interrupted: Whether Lightning has interrupted the run. Otherwise nothing changes.
    """
    if not interrupted or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
