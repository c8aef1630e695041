"""What strikes inside a training, at a step."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from faults.plan import Plan
from faults.processes import children

FILLER = "filler"
"""The name of the file, or of the folder of files, that fills a file system."""


def _raises(plan: Plan) -> None:
    raise RuntimeError("an error in the user's code")


def _exits(plan: Plan) -> None:
    os._exit(3)


def _terminated(plan: Plan) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _interrupted_twice(plan: Plan) -> None:
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    os.kill(os.getpid(), signal.SIGINT)


def _writer_killed(plan: Plan) -> None:
    for process in children(os.getpid()):
        os.kill(process, signal.SIGKILL)


def _fill(folder: Path) -> None:
    with contextlib.suppress(OSError), open(folder / FILLER, "wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass


def _use_up_inodes(folder: Path) -> None:
    (folder / FILLER).mkdir()
    with contextlib.suppress(OSError):
        for number in range(10_000_000):
            (folder / FILLER / str(number)).touch()


def _make_read_only(folder: Path) -> None:
    deadline = time.monotonic() + 20
    # While a file is open for writing, the system refuses.
    while subprocess.run(["mount", "-o", "remount,ro", folder], capture_output=True).returncode:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{folder} stays busy")
        time.sleep(0.001)


def _make_immutable(folder: Path) -> None:
    subprocess.run(["chattr", "+i", folder], check=True)


def _take_links_away(plan: Plan) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "this file system has no links")

    os.link = os.symlink = refuse  # type: ignore[assignment]


def _base(plan: Plan) -> Path:
    return Path(plan.base_uri.removeprefix("file://"))


STRIKES: dict[str, Callable[[Plan], None]] = {
    "an exception in user code": _raises,
    "os._exit": _exits,
    "SIGTERM": _terminated,
    "Ctrl-C twice": _interrupted_twice,
    "the writing process is killed": _writer_killed,
    "the store is full": lambda plan: _fill(_base(plan)),
    "the folder of Lightning's paths is full": lambda plan: _fill(plan.paths),
    "no inodes for Lightning's paths": lambda plan: _use_up_inodes(plan.paths),
    "one full disk for both": lambda plan: _fill(plan.paths),
    "the store becomes read-only": lambda plan: _make_read_only(_base(plan)),
    "the folder of Lightning's paths becomes read-only": lambda plan: _make_read_only(plan.paths),
    "the store becomes immutable": lambda plan: _make_immutable(_base(plan)),
    "the folder of Lightning's paths becomes immutable": lambda plan: _make_immutable(plan.paths),
    "the store is deleted": lambda plan: shutil.rmtree(_base(plan), ignore_errors=True),
    "the folder of Lightning's paths is deleted": lambda plan: shutil.rmtree(plan.paths, ignore_errors=True),
    "a file system without links": _take_links_away,
}
"""By name. A name is also the key of a row of the table."""
