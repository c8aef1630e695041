"""How long to wait for a store that does not answer."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from lightning_dtool.errors import ConfigurationError

SETTING = "LIGHTNING_DTOOL_STORE_TIMEOUT"
"""The environment variable that says for how many seconds a store is waited for that does not answer."""
DEFAULT_SECONDS = 60.0
RELUCTANT_SECONDS = 3.0
"""The limit of a request to a store that has not answered for so long."""
PAUSE_SECONDS = 5.0
"""The time between two such requests."""
HURRIED_SECONDS = 2.0
"""The limit of each request once the user has interrupted the program."""
SLOWEST = 10_000
"""Bytes per second at which content has to move at least, in each of several transfers at a time."""
_HURRIED_SLOWEST = 1_000_000
_HURRY_ENDS = 30.0
_TICK = 0.1

Result = TypeVar("Result")


class NoAnswerError(Exception):
    """The store has not answered in the time that it had, and is not asked again for this."""


def patience() -> float:
    """Return for how many seconds a store is waited for that does not answer.

    Raises:
        ConfigurationError: If the environment variable holds anything but a positive number.
    """
    text = os.environ.get(SETTING, "")
    if not text:
        return DEFAULT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigurationError(
            f"{SETTING}={text!r}: expected a number of seconds above 0. Correct it, "
            f"or unset it: the default is {DEFAULT_SECONDS:g}."
        )
    return seconds


# -- hurry ------------------------------------------------------------------------------------------


class _Hurry:
    """Whether the program is about to end, and since when."""

    def __init__(self) -> None:
        self.begun: float | None = None

    @property
    def since(self) -> float | None:
        """When it began; None if there is none, or no longer."""
        if self.begun is not None and time.monotonic() - self.begun > _HURRY_ENDS:
            self.begun = None
        return self.begun


_hurry = _Hurry()


def hurry() -> None:
    """Wait only briefly for each answer, in all threads, because the user has interrupted the program.

    A store that answers takes what is sent to it. Requests that are under way to one that does not are ended. If the
    program is still there half a minute later, such as a notebook, it waits as usual again.
    """
    if _hurry.since is None:
        _hurry.begun = time.monotonic()


def relax() -> None:
    """Wait as usual again."""
    _hurry.begun = None


def hurried() -> bool:
    """Tell whether each answer is waited for only briefly."""
    return _hurry.since is not None


@contextlib.contextmanager
def hurrying(error: BaseException | None) -> Iterator[None]:
    """Hurry during the block if it cleans up after an interruption.

    Args:
        error: What has led to the block. Only an error that is no `Exception`, such as `KeyboardInterrupt`, counts.
    """
    if error is None or isinstance(error, Exception) or hurried():
        yield
        return
    hurry()
    try:
        yield
    finally:
        relax()


def time_limit(begun: float, size: int, usual: float) -> float:
    """Return when something that a store was asked for is given up, by the clock `time.monotonic`.

    Args:
        begun: When it was asked for.
        size: The bytes that are transferred meanwhile.
        usual: The seconds to wait for an answer, if there is no hurry.
    """
    limit = begun + usual + size / SLOWEST
    since = _hurry.since
    if since is None:
        return limit
    return min(limit, max(begun, since) + HURRIED_SECONDS + size / _HURRIED_SLOWEST)


# -- one server -------------------------------------------------------------------------------------


class Server:
    """What is known about whether a server answers.

    Until it has failed for as long as it is waited for, each request is repeated and may take its time. After that, one
    request at a time is made, once, and gets a few seconds, until the server answers again. All others fail at once:
    much may still be about to be asked of it, such as a tag for each of a hundred datasets.

    Args:
        seconds: How long it is waited for.
        silent_seconds: The limit of one request.
    """

    def __init__(self, seconds: float, silent_seconds: float) -> None:
        self._seconds = seconds
        self._silent_seconds = min(silent_seconds, seconds)
        self._failing_since: float | None = None
        self._next_attempt = 0.0
        self._lock = threading.Lock()

    @property
    def is_given_up(self) -> bool:
        """Whether it has failed for as long as it is waited for."""
        since = self._failing_since
        return since is not None and time.monotonic() - since > self._seconds

    def is_asked(self, *, again: bool) -> bool:
        """Tell whether a request is worth making.

        Args:
            again: Whether it was made before, and failed.
        """
        if hurried():
            return self._failing_since is None and not again
        if not self.is_given_up:
            return True
        with self._lock:
            now = time.monotonic()
            if again or now < self._next_attempt:
                return False
            self._next_attempt = now + RELUCTANT_SECONDS + PAUSE_SECONDS
            return True

    def answered(self) -> None:
        """Note that it has answered."""
        self._failing_since = None

    def failed(self, begun: float) -> None:
        """Note that it has not.

        Args:
            begun: When it was asked.
        """
        if self._failing_since is None:
            self._failing_since = begun

    def limit(self, begun: float, size: int) -> float:
        """Return when a request is given up, by the clock `time.monotonic`.

        Args:
            begun: When it was made.
            size: The bytes that are transferred meanwhile.
        """
        seconds = self._silent_seconds
        since = self._failing_since
        if since is not None:
            # The last attempt does not take longer than the rest of the time.
            seconds = min(seconds, max(RELUCTANT_SECONDS, since + self._seconds - begun))
        return time_limit(begun, size, seconds)


# -- a call without a limit of its own ----------------------------------------------------------------


def limited(call: Callable[[], Result], seconds: float, size: int = 0) -> Result:
    """Call a function that may wait forever, in a thread, and stop waiting for it when its time is over.

    The thread cannot be ended. It does not keep the program from ending.

    Args:
        call: The function.
        seconds: The limit, without the time for content.
        size: The bytes that it transfers.

    Raises:
        NoAnswerError: If the time is over.
        BaseException: Whatever the function raises.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    begun = time.monotonic()
    threading.Thread(target=run, name="lightning-dtool-store", daemon=True).start()
    while not done.wait(_TICK):
        if time.monotonic() > time_limit(begun, size, seconds):
            raise NoAnswerError(f"nothing for {time.monotonic() - begun:.0f} s")
    if errors:
        raise errors[0]
    return results[0]
