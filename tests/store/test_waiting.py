"""How long a store is waited for, and what ends a wait."""

import threading
import time

import pytest

from lightning_dtool.errors import ConfigurationError
from lightning_dtool.store import hurry, waiting
from lightning_dtool.store.parallel import run_all
from lightning_dtool.store.waiting import NoAnswerError, Server, hurried, limited, patience


def test_the_time_for_a_silent_store_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert patience() == 60
    monkeypatch.setenv("LIGHTNING_DTOOL_STORE_TIMEOUT", "1.5")
    assert patience() == 1.5


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf"])
def test_another_time_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_DTOOL_STORE_TIMEOUT", text)
    with pytest.raises(ConfigurationError, match=r"LIGHTNING_DTOOL_STORE_TIMEOUT=.*number of seconds"):
        patience()


def test_a_server_is_given_up_after_its_time_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(60, silent_seconds=20)
    now = time.monotonic()
    assert server.is_asked(again=True)
    assert server.limit(now, 0) == now + 20
    server.failed(now - 50)
    server.failed(now)
    assert server.is_asked(again=True)
    assert server.limit(now, 0) == pytest.approx(now + 10)
    server = Server(60, silent_seconds=20)
    server.failed(now - 61)
    assert server.is_given_up
    assert not server.is_asked(again=True)
    assert server.is_asked(again=False)
    assert not server.is_asked(again=False)
    monkeypatch.setattr(time, "monotonic", lambda: now + 9)
    assert server.is_asked(again=False)
    assert server.limit(now, 0) == now + waiting.RELUCTANT_SECONDS
    server.answered()
    assert server.limit(now, 0) == now + 20


def test_content_has_more_time() -> None:
    assert Server(60, silent_seconds=20).limit(0, 2 * waiting.SLOWEST) == 22


def test_a_hurry_shortens_every_wait_and_passes() -> None:
    server = Server(60, silent_seconds=20)
    hurry()
    now = time.monotonic()
    assert not server.is_asked(again=True)
    assert server.is_asked(again=False)
    assert server.limit(now - 5, 0) <= now + waiting.HURRIED_SECONDS
    server.failed(now)
    assert not server.is_asked(again=False)
    waiting._hurry.begun = now - 31
    server.answered()
    assert not hurried()
    assert server.limit(now, 0) == now + 20


def test_a_call_that_never_returns_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    with pytest.raises(NoAnswerError):
        limited(released.wait, 0.1)
    monkeypatch.setattr(waiting, "HURRIED_SECONDS", 0.1)
    threading.Timer(0.1, hurry).start()
    with pytest.raises(NoAnswerError):
        limited(released.wait, 3600)
    released.set()


def test_a_call_returns_and_raises_as_without_a_limit() -> None:
    assert limited(lambda: 1, 60) == 1
    with pytest.raises(SystemExit):
        limited(lambda: (_ for _ in ()).throw(SystemExit(3)), 60)


def test_an_interruption_hurries_what_is_still_waited_for() -> None:
    seen = []

    def waits() -> None:
        while not hurried():
            time.sleep(0.01)
        seen.append(True)

    def interrupts() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all([waits, interrupts])
    assert seen == [True]
    assert not hurried()
