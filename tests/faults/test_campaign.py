"""The short form of the fault campaign, which finds nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[1] / "fault_campaign.py"


def campaign(*arguments: str) -> str:
    done = subprocess.run([sys.executable, CAMPAIGN, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_nothing_is_lost_wrong_empty_or_left_behind_by_some_faults() -> None:
    assert "nothing found" in campaign("--short")


@pytest.mark.slow
def test_nothing_is_lost_wrong_empty_or_left_behind_by_any_fault() -> None:
    assert "nothing found" in campaign()
