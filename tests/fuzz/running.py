"""Processes that run cases, and are ended when one hangs."""

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def results(
    cases: Sequence[Case], originals: Path, work: Path, seed: int, patience: float, only: str = ""
) -> Iterator[Result]:
    """Run cases, in one process as long as it lives.

    Args:
        cases: The cases.
        originals: The folder of the datasets.
        work: A folder for what the operations need.
        seed: Of the mutations.
        patience: Seconds without computing after which an operation is said to hang.
        only: A text in the names of the operations to run.

    Yields:
        How each operation ended.
    """
    at = (0, 0)
    attempt = 0
    while at[0] < len(cases):
        attempt += 1
        place = work / str(attempt)
        place.mkdir(parents=True)
        notes = place / "notes.jsonl"
        process = _forks.Process(target=run, args=(cases, at, originals, place, notes, seed, only))
        process.start()
        progress = _Progress(process, notes, patience)
        last: tuple[int, int] | None = None
        has_ended = False
        for value in progress.lines():
            if "case" in value:
                last, has_ended = (value["case"], value["operation"]), False
            elif last is not None:
                has_ended = True
                yield _result(cases[last[0]], last[1], only, value)
        shutil.rmtree(place, ignore_errors=True)
        if process.exitcode == 0:
            return
        if last is None:
            raise RuntimeError(f"a process ended before its first operation: exit code {process.exitcode}")
        if not has_ended:
            kind, text = CRASHED, f"exit code {process.exitcode}"
            if progress.was_hanging:
                kind, text = HANGING, "it did not end"
            yield _result(cases[last[0]], last[1], only, {"ended": "", "findings": [[kind, text, ""]]})
        at = (last[0], last[1] + 1)
        if at[1] == len(operations(cases[at[0]].kind, only)):
            at = (at[0] + 1, 0)


def _result(case: Case, operation: int, only: str, value: dict[str, Any]) -> Result:
    return Result(
        case,
        operations(case.kind, only)[operation].name,
        value["ended"],
        tuple(Finding(kind, text) for kind, text, _ in value["findings"]),
        value["findings"][0][2] if value["findings"] else "",
    )


class _Progress:
    """What a process notes, until it ends, or is killed because an operation does not end.

    The clock says little on a busy machine: a process hangs that has not computed for a while, or for too long.

    Attributes:
        was_hanging: Whether it was killed.
    """

    def __init__(self, process: "multiprocessing.process.BaseProcess", notes: Path, patience: float) -> None:
        self._process, self._notes, self._patience = process, notes, patience
        self._read = 0
        self.was_hanging = False

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the notes as they come."""
        used, at_note = 0.0, 0.0
        noted = computed = time.monotonic()
        while self._process.is_alive():
            self._process.join(0.2)
            now, used_now, before = time.monotonic(), _processor_time(self._process.pid), self._read
            yield from self._new_lines()
            if used_now - used > _MOMENT:
                used, computed = used_now, now
            if self._read != before:
                noted, at_note, computed = now, used_now, now
            is_long = used_now - at_note > 2 * SECONDS or now - noted > _LONG * self._patience
            if self._process.is_alive() and (now - computed > self._patience or (self._read and is_long)):
                self._process.kill()
                self.was_hanging = True
        self._process.join()
        yield from self._new_lines()

    def _new_lines(self) -> Iterator[dict[str, Any]]:
        if not self._notes.exists():
            return
        with self._notes.open("rb") as file:
            file.seek(self._read)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        yield from map(json.loads, whole.splitlines())


_MOMENT = 0.02
"""Seconds of processor time that count as an occupation."""

_LONG = 20
"""How many times the patience an operation may take that goes on computing now and then."""


def _processor_time(process: int | None) -> float:
    """Return the seconds that a process has computed; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
