"""File operations of a process, counted, and the one before which it kills itself."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}


class Operations:
    """Counts the operations of this process that change a file below some folders.

    Args:
        folders: The folders.
        last: The process ends by SIGKILL in place of this operation. None: it does not.
        report: The folder in which the stack at that moment is left, as `killed.txt`.
    """

    def __init__(self, folders: Sequence[str | os.PathLike[str]], last: int | None, report: Path) -> None:
        self.count = 0
        self._below = tuple(f"{os.fspath(folder).removeprefix('file://')}" for folder in folders)
        self._last = last
        self._report = report
        self._reporting = False

    def begin(self) -> None:
        """Count from now on, until the process ends."""
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            flags = arguments[2]
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in _CHANGES:
            return
        if self._reporting or not any(_is_below(argument, self._below) for argument in arguments[:2]):
            return
        if self.count == self._last:
            self._reporting = True
            (self._report / "killed.txt").write_text(f"{event} {arguments}\n" + "".join(traceback.format_stack()))
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1


def _is_below(argument: Any, folders: tuple[str, ...]) -> bool:
    return isinstance(argument, str | bytes | os.PathLike) and os.fsdecode(argument).startswith(folders)
