"""A fixture for tests whose reruns need not import torch first."""

import sys

import pytest

import programs


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run reruns in forks. Tests of the start and the end of a rerun do without."""
    monkeypatch.setattr(sys, "executable", str(programs.commands() / "python"))
