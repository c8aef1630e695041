"""Lightning's own tests of checkpoints, without and with recording: only those in `expected.yml` may differ.

They are not part of Lightning's packages. `LIGHTNING_SOURCE` names a checkout of Lightning's repository at the release
that is installed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
EXPECTED = yaml.safe_load((HERE / "expected.yml").read_text(encoding="utf-8"))
SOURCE = os.environ.get("LIGHTNING_SOURCE")


def outcomes(file: str, folder: Path, recorded: bool) -> dict[str, str]:
    """Run a file of tests, and return the outcome of each test by its name."""
    found = folder / f"outcomes-{recorded}.jsonl"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIGHTNING_DTOOL_")}
    environment |= {"PYTHONPATH": str(HERE), "OUTCOMES": str(found), "RECORDED": str(int(recorded))}
    options = ["-p", "outcomes", "-p", "no:cacheprovider", "-o", "addopts=", "-q", "--disable-warnings"]
    arguments = ["-c", "../pyproject.toml", "--rootdir=.", f"--basetemp={folder / f'tests-{recorded}'}", *options, file]
    command = [sys.executable, "-m", "pytest", *arguments]
    done = subprocess.run(command, cwd=f"{SOURCE}/tests", env=environment, capture_output=True, text=True)
    assert found.is_file(), done.stdout + done.stderr
    return dict(map(json.loads, found.read_text(encoding="utf-8").splitlines()))


@pytest.mark.slow
@pytest.mark.skipif(not SOURCE, reason="LIGHTNING_SOURCE does not name a checkout of Lightning")
@pytest.mark.parametrize("file", EXPECTED["files"])
def test_recording_changes_no_other_outcome(tmp_path: Path, file: str) -> None:
    plain, recorded = outcomes(file, tmp_path, recorded=False), outcomes(file, tmp_path, recorded=True)
    assert set(plain) == set(recorded)
    assert "passed" in plain.values()
    differ = {name for name in plain if plain[name] != recorded[name]} - set(EXPECTED["timed"])
    assert differ == {name for name in EXPECTED["differ"] if name.startswith(f"{file}::")}
