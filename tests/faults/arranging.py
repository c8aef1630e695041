"""Folders and file systems for a case, and their repair after the fault."""

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from faults.cases import KILL_AT, KILLS, TWO, Case
from faults.plan import Plan
from faults.strikes import FILLER, STRIKES

_SIZE = {"small": "8m", "large": "512m"}
"""Of file systems that are filled up."""

_OTHER = Path("/dev/shm")
"""Another file system than that of temporary files."""


class CannotBeArranged(Exception):
    """This machine, or this user, cannot bring about the fault."""


@contextlib.contextmanager
def arranged(case: Case, keep: bool = False) -> Iterator[Plan]:
    """Make the folders of a case, mount what it needs, and remove all of it afterwards.

    Args:
        case: The case.
        keep: Leave the folders.

    Raises:
        CannotBeArranged: If the fault cannot be brought about here.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="faults-"))
        other = folder
        if case.place == TWO:
            if not _OTHER.is_dir() or _OTHER.stat().st_dev == folder.stat().st_dev:
                raise CannotBeArranged("there is no other file system")
            other = Path(tempfile.mkdtemp(prefix="faults-", dir=_OTHER))
        if not keep:
            stack.callback(shutil.rmtree, other, ignore_errors=True)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        base, paths = other / "models", folder / "ckpt"
        if case.fault == "one full disk for both":
            base, paths = folder / "disk" / "models", folder / "disk" / "ckpt"
            stack.enter_context(_mounted(folder / "disk", case.state))
        for place in (base, paths):
            place.mkdir()
        for place in _on_own_file_system(case.fault, base, paths):
            stack.enter_context(_mounted(place, case.state, few_files="inodes" in case.fault))
        if "immutable" in case.fault:
            _require_immutability(folder)
        stack.callback(relieve, case.fault, base, paths)
        inside = case.fault in STRIKES
        yield Plan(
            folder,
            f"file://{base}",
            paths,
            case.state,
            case.policy,
            case.retention,
            fault=case.fault if inside else "operation" if case.fault == KILL_AT else "",
            at=case.step(Plan.steps) if inside else 0,
        )


def relieve(fault: str, base: Path, paths: Path) -> None:
    """Undo what a fault did to file systems, as an administrator would."""
    if fault in KILLS:
        return
    for place in (base, paths):
        place.mkdir(exist_ok=True)
        if "immutable" in fault:
            subprocess.run(["chattr", "-i", place], capture_output=True)
        if "read-only" in fault and os.path.ismount(place):
            subprocess.run(["mount", "-o", "remount,rw", place], check=True)
        filler = place / FILLER
        if filler.is_dir():
            shutil.rmtree(filler)
        else:
            filler.unlink(missing_ok=True)


def _on_own_file_system(fault: str, base: Path, paths: Path) -> list[Path]:
    if not any(word in fault for word in ("full", "inodes", "read-only")) or fault == "one full disk for both":
        return []
    return [paths if "Lightning's paths" in fault else base]


@contextlib.contextmanager
def _mounted(place: Path, state: str, few_files: bool = False) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    options = f"size={_SIZE[state]}" + (",nr_inodes=200" if few_files else "")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        raise CannotBeArranged(f"mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@functools.cache
def _immutability_works(device: int, folder: Path) -> bool:
    with tempfile.TemporaryDirectory(dir=folder) as probe:
        works = shutil.which("chattr") is not None and not subprocess.run(["chattr", "+i", probe]).returncode
        if works:
            subprocess.run(["chattr", "-i", probe], check=True)
    return works


def _require_immutability(folder: Path) -> None:
    if not _immutability_works(folder.stat().st_dev, folder.parent):
        raise CannotBeArranged("chattr: this file system, or this user, cannot make a folder immutable")
