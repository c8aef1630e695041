"""The short form of the fuzz campaign, which finds nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[1] / "fuzz_campaign.py"


def campaign(*arguments: str) -> str:
    done = subprocess.run([sys.executable, CAMPAIGN, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_mutated_datasets_end_in_a_right_result_or_an_error_of_this_package() -> None:
    assert "nothing found" in campaign("--short")


@pytest.mark.slow
def test_every_mutated_dataset_ends_in_a_right_result_or_an_error_of_this_package() -> None:
    assert "nothing found" in campaign()
