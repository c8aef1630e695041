"""Progress bars, which are shown only on a terminal."""

import pytest
from rich.console import Console

from lightning_dtool.store.progress import progress_bar


def test_no_bar_is_shown_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Fetching", 10, enabled=True) as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_shown_on_a_terminal_if_enabled(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Console, "is_terminal", True)
    with progress_bar("Fetching", 10, enabled=False) as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")
    with progress_bar("Fetching", 10, enabled=True) as advance:
        advance(10)
    captured = capsys.readouterr()
    assert "Fetching" in captured.err
    assert captured.out == ""
