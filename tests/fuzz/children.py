"""What a process of the campaign does."""

import contextlib
import gc
import json
import os
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzz import originals, watching
from fuzz.forging import Case, forge
from fuzz.judging import HANGING, MEMORY, MORE_MEMORY, RIGHT, SECONDS, TYPED, Finding, judge
from fuzz.mutations import prepare_outside
from fuzz.operations import Operation, Places, clean, operations
from lightning_dtool.errors import ReproductionError
from lightning_dtool.reproduction import launch


def make_originals(folder: Path) -> None:
    """Make the datasets."""
    originals.make(folder)


def run(
    cases: Sequence[Case], begin: tuple[int, int], folder: Path, work: Path, notes: Path, seed: int, only: str
) -> None:
    """Run the operations of some cases, and note the end of each in a file.

    Args:
        cases: The cases.
        begin: The first case, and its first operation.
        folder: The folder of the datasets.
        work: A folder for this process.
        notes: The file.
        seed: Of the mutations.
        only: A text in the names of the operations to run.
    """
    cache, scratch, outside = work / "cache", work / "scratch", work / "outside"
    for place in (cache, scratch):
        place.mkdir(parents=True, exist_ok=True)
    os.environ["DTOOL_CACHE_DIRECTORY"] = str(cache)
    tempfile.tempdir = str(scratch)
    os.chdir(scratch)
    launch.run = _not_started
    gc.freeze()  # else each collection copies the pages that this process shares with its parent
    watch = watching.Watch()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        _warm_up({case.kind for case in cases}, only, folder, scratch)
        watching.limit_memory(4 * MORE_MEMORY)
        for number in range(begin[0], len(cases)):
            case = cases[number]
            base = work / f"base{number}-{begin[1]}"
            base.mkdir()
            prepare_outside(outside)
            forged = forge(case, originals.original(folder, case.kind), base, outside, seed)
            places = _places(forged.dataset, case.kind, folder, scratch)
            done = operations(case.kind, only)
            for position in range(begin[1] if number == begin[0] else 0, len(done)):
                _note(notes, {"case": number, "operation": position})
                _note(notes, _one(case, forged.changed, done[position], places, watch, (base, cache, scratch)))
                if done[position].writes:
                    clean(scratch)
                    os.chdir(scratch)
            # Pipes among its files may have been opened by threads that still wait.
            os.rename(base, work / f"done{number}-{begin[1]}")
    os._exit(0)


def _not_started(*arguments: Any, **options: Any) -> Any:
    """Stand for the process of a rerun: running the recorded program is what a user of `reproduce` asks for."""
    raise ReproductionError("nothing was started.", kind="not_started")


def _places(dataset: Path, kind: str, folder: Path, scratch: Path) -> Places:
    uuid = json.loads((originals.original(folder, kind) / ".dtool" / "dtool").read_text())["uuid"]
    return Places(dataset, uuid, folder, scratch)


def _one(
    case: Case, changed: bool, operation: Operation, places: Places, watch: watching.Watch, writable: tuple[Path, ...]
) -> dict[str, Any]:
    before, begun = watching.reset_peak(), time.process_time()
    watch.begin(places.dataset.parent, *writable)
    try:
        ended = operation.run(places)
    finally:
        noted = watch.end()
    seconds, more = time.process_time() - begun, watching.peak() - before
    found = judge(case, changed, operation, places, ended)
    found += [Finding(kind, text) for kind, text in dict(noted).items()]
    if more > MORE_MEMORY and not any(finding.kind == MEMORY for finding in found):
        found.append(Finding(MEMORY, f"{more >> 20} MiB"))
    if seconds > SECONDS:
        found.append(Finding(HANGING, f"{seconds:.0f} s"))
    where = "" if ended.error is None or not found else "".join(traceback.format_exception(ended.error)[-3:])
    return {
        "ended": RIGHT if ended.is_right else TYPED,
        "findings": [[finding.kind, finding.text, where] for finding in found],
    }


def _warm_up(kinds: set[str], only: str, folder: Path, scratch: Path) -> None:
    """Run each operation once on what is whole, so that all modules are imported."""
    for kind in sorted(kinds):
        places = _places(originals.original(folder, kind), kind, folder, scratch)
        for operation in operations(kind, only):
            operation.run(places)
    clean(scratch)
    os.chdir(scratch)


def _note(file: Path, value: dict[str, Any]) -> None:
    """Append a line in one write: a killed process leaves no half of it."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(value) + "\n").encode("utf-8", "backslashreplace"))
    finally:
        os.close(descriptor)
