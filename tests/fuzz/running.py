"""Processes that run cases, and are ended when one hangs."""

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzz.children import make_originals, run
from fuzz.forging import Case
from fuzz.judging import CRASHED, HANGING, SECONDS, Finding
from fuzz.operations import operations

_forks = multiprocessing.get_context("fork")  # of a process that has imported torch, and started no thread


@dataclass(frozen=True)
class Result:
    """How one operation on one mutated dataset ended.

    Attributes:
        case: The mutated dataset.
        operation: The name of the operation.
        ended: `RIGHT` or `TYPED`, or "" if it did not end.
        findings: What is wrong with it.
        where: Where a foreign error was raised.
    """

    case: Case
    operation: str
    ended: str
    findings: tuple[Finding, ...] = ()
    where: str = ""


def prepare(folder: Path) -> None:
    """Make the datasets, in a process of its own."""
    maker = _forks.Process(target=make_originals, args=(folder,))
    maker.start()
    maker.join()
    if maker.exitcode:
        raise RuntimeError(f"the datasets could not be made: exit code {maker.exitcode}")


def results(cases: Sequence[Case], originals: Path, work: Path, seed: int, patience: float) -> Iterator[Result]:
    """Run cases, in one process as long as it lives.

    Args:
        cases: The cases.
        originals: The folder of the datasets.
        work: A folder for what the operations need.
        seed: Of the mutations.
        patience: Seconds without computing after which an operation is said to hang.

    Yields:
        How each operation ended.
    """
    at: tuple[int, int] | None = (0, 0)
    attempt = 0
    while at is not None and at[0] < len(cases):
        attempt += 1
        place = work / str(attempt)
        place.mkdir(parents=True)
        notes = place / "notes.jsonl"
        process = _forks.Process(target=run, args=(cases, at, originals, place, notes, seed))
        process.start()
        hanging = _wait(process, notes, patience)
        last = None
        for line in notes.read_text(encoding="utf-8").splitlines() if notes.exists() else ():
            value = json.loads(line)
            if "case" in value:
                last = value
                continue
            assert last is not None
            case = cases[last["case"]]
            yield Result(
                case,
                operations(case.kind)[last["operation"]].name,
                value["ended"],
                tuple(Finding(kind, text) for kind, text, _ in value["findings"]),
                value["findings"][0][2] if value["findings"] else "",
            )
            last = {**last, "ended": True}
        shutil.rmtree(place, ignore_errors=True)
        if process.exitcode == 0:
            return
        if last is None:
            raise RuntimeError(f"a process ended before its first operation: exit code {process.exitcode}")
        case, done = cases[last["case"]], operations(cases[last["case"]].kind)
        if "ended" not in last:
            text = "it did not end" if hanging else f"exit code {process.exitcode}"
            yield Result(case, done[last["operation"]].name, "", (Finding(HANGING if hanging else CRASHED, text),))
        at = (last["case"], last["operation"] + 1)
        if at[1] == len(done):
            at = (at[0] + 1, 0)


def _wait(process: "multiprocessing.process.BaseProcess", notes: Path, patience: float) -> bool:
    """Wait for the end of a process. Return whether it had to be killed, because an operation did not end.

    The clock says little on a busy machine: a process hangs that has not computed for a while, or for too long.
    """
    size, used, at_note = 0, 0.0, 0.0
    noted = computed = time.monotonic()
    while process.is_alive():
        process.join(0.2)
        now, size_now, used_now = time.monotonic(), _size(notes), _processor_time(process.pid)
        if used_now - used > _MOMENT:
            used, computed = used_now, now
        if size_now != size:
            size, noted, at_note, computed = size_now, now, used_now, now
        is_long = used_now - at_note > 2 * SECONDS or now - noted > _LONG * patience
        if process.is_alive() and (now - computed > patience or (size and is_long)):
            process.kill()
            process.join()
            return True
    process.join()
    return False


_MOMENT = 0.02
"""Seconds of processor time that count as an occupation."""

_LONG = 20
"""How many times the patience an operation may take that goes on computing now and then."""


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _processor_time(process: int | None) -> float:
    """Return the seconds that a process has computed; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
