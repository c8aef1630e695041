"""The plug-in `dtool model`, which has the commands of `lightning-dtool`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_dtool import __version__
from lightning_dtool.items import CHECKPOINT_ITEM, CHECKPOINT_TAG, RECORD_ITEM
from lightning_dtool.store import DatasetWriter

BIN = Path(sys.executable).parent


@pytest.fixture
def checkpoint(base_uri: str) -> str:
    """Return the URI of a dataset with the items of a checkpoint."""
    with DatasetWriter("made", base_uri, creator_username="tester") as writer:
        writer.put_bytes(b"weights", CHECKPOINT_ITEM)
        writer.put_bytes(b"{}", RECORD_ITEM)
        writer.put_tag(CHECKPOINT_TAG)
        return writer.commit().uri


def dtool(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(BIN / "dtool"), *arguments], capture_output=True, text=True, timeout=180)
    assert done.returncode == code, done.stderr
    return done


def test_dtool_lists_the_plugin() -> None:
    assert "model " in dtool("--help").stdout
    assert f"lightning-dtool, version {__version__}" in dtool("--version").stdout


def test_the_commands_are_the_same(base_uri: str, checkpoint: str) -> None:
    for arguments in (["ls", base_uri], ["ls", base_uri, "--json"], ["verify", checkpoint], ["resolve", checkpoint]):
        own = subprocess.run([str(BIN / "lightning-dtool"), *arguments], capture_output=True, text=True, timeout=180)
        assert own.returncode == 0, own.stderr
        assert own.stderr == ""
        assert dtool("model", *arguments).stdout == own.stdout
        assert checkpoint.rpartition("/")[2] in own.stdout


def test_the_exit_codes_are_the_same(base_uri: str, checkpoint: str) -> None:
    result = dtool("model", "show", checkpoint, "--json", code=3)
    assert json.loads(result.stdout)["error"]["type"] == "RecordError"
    assert "Traceback" not in result.stderr
    assert "\nError: " in f"\n{result.stderr}"
    dtool("model", "ls", f"{base_uri}/missing", code=4)
    dtool("model", "show", "nothing://here", code=2)
