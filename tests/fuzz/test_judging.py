"""The campaign finds what it looks for."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import MakeDataset
from fuzz import children, running
from fuzz.forging import Case
from fuzz.mutations import SECRET
from fuzz.operations import Ended, Operation, Places
from lightning_dtool.errors import StoreError
from lightning_dtool.store import local_path

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def nothing(places: Places) -> Any:
    return None


def outside(places: Places) -> None:
    (places.originals / "written").touch()


def memory(places: Places) -> None:
    bytearray(700 * 2**20)


def pipe(places: Places) -> None:
    os.mkfifo(places.scratch / "pipe")
    (places.scratch / "pipe").read_bytes()


def program(places: Places) -> None:
    subprocess.run(["true"], check=True)


def raised(error: Exception) -> Callable[[Places], Ended]:
    return lambda places: Ended(error, shown=["", str(error)])


BAD: dict[str, Callable[[Places], Any]] = {
    "foreign": raised(KeyError("x")),
    "unnamed": raised(StoreError("gone.", uri="s3://lab/x")),
    "control": lambda places: Ended(code=0, shown=["\x1b[2J", ""]),
    "wrong": lambda places: Ended(code=0, shown=["no JSON", ""], as_json=True),
    "told": lambda places: Ended(told=SECRET),
    "memory": memory,
    "hanging": pipe,
    "crashed": lambda places: os._exit(3),
    "outside": outside,
    "program": program,
    "ran code": lambda places: exec(compile("1", str(places.dataset / "x.py"), "exec")),
}


@pytest.mark.slow
def test_each_ending_that_must_not_be_is_found(
    tmp_path: Path, make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = local_path(make_dataset().uri)
    assert made is not None
    (tmp_path / "originals").mkdir()
    made.parent.rename(tmp_path / "originals" / "arrays")

    def only_after_the_first_time(act: Callable[[Places], Any]) -> Callable[[Places], Ended]:
        # Before the campaign, each operation runs on a dataset as it was made.
        return lambda places: Ended() if places.dataset.is_relative_to(places.originals) else act(places) or Ended()

    todo = [Operation(f"lightning-dtool {name}", only_after_the_first_time(act)) for name, act in BAD.items()]
    todo.append(Operation("lightning-dtool nothing", only_after_the_first_time(nothing)))
    for module in (children, running):
        monkeypatch.setattr(module, "operations", lambda kind, only: todo)
    found = running.results([Case("arrays")], tmp_path / "originals", tmp_path / "work", seed=1, patience=1)
    assert {each.operation.partition(" ")[2]: {finding.kind for finding in each.findings} for each in found} == {
        **{name: {name} for name in BAD},
        "nothing": set(),
    }
