"""Errors of the publishing thread, and their report in the training thread."""

import errno
import traceback
import warnings
from pathlib import Path
from types import FrameType

from lightning_dtool.errors import ProvenanceWarning, PublishError

_STATES = {
    True: "The plain file at Lightning's path was kept",
    False: "Lightning's path does not hold it either",
    None: "This checkpoint has no file",
}


class Failures:
    """Collects the errors that prevented checkpoints from being published, until the training thread reports them.

    Args:
        base_uri: Where the datasets go.
    """

    def __init__(self, base_uri: str) -> None:
        self._base_uri = base_uri
        self._failures: list[tuple[Exception, bool | None, Path | None]] = []
        self._reported = 0
        self._unfilled: list[tuple[str, OSError]] = []

    @property
    def errors(self) -> list[Exception]:
        """All errors so far, oldest first."""
        return [error for error, *_ in self._failures]

    def add(self, error: Exception, file_kept: bool | None = True, folder: Path | None = None) -> None:
        """Add an error; any thread may do so.

        Args:
            error: The error.
            file_kept: Whether a plain checkpoint file stands at Lightning's path. None if no file was to be there.
            folder: The folder of that file, if it can still be published from there.
        """
        self._failures.append((error, file_kept, folder))

    def add_unfilled(self, path: str, error: OSError) -> None:
        """Add a path that keeps what it had although its checkpoint is published; any thread may do so.

        Args:
            path: The path.
            error: Why it could not be filled.
        """
        self._unfilled.append((path, error))

    def report(self, raising: bool) -> None:
        """Report the errors that were added since the last report.

        Args:
            raising: Whether to raise the first of them. Otherwise each gives a warning.

        Raises:
            PublishError: With `raising`, if there is an error to report.
        """
        new = self._failures[self._reported :]
        self._reported += len(new)
        unfilled, self._unfilled = self._unfilled, []
        for path, why in unfilled:
            _clear_frames(why)
            warnings.warn(
                f"{path}: the checkpoint is published, but cannot be put here: {why}. Here stays what was here before, "
                f"and its dataset is kept.{_remedy(why)}",
                ProvenanceWarning,
                stacklevel=3,
            )
        for error, file_kept, folder in new:
            _clear_frames(error)
            reason = f"a checkpoint could not be published there. {type(error).__name__}: {str(error).rstrip('.')}."
            state = _STATES[file_kept]
            remedy = _remedy(error) if file_kept is False else ""
            if folder is not None:
                remedy = f" Publish it later: lightning-dtool recover {self._base_uri} {folder}"
            if raising:
                raise PublishError(f"{reason} {state}.{remedy}", uri=self._base_uri) from error
            warnings.warn(
                f"{self._base_uri}: {reason} {state}, and training continues.{remedy}", ProvenanceWarning, stacklevel=3
            )


def _remedy(error: Exception) -> str:
    """Return what to do if not even a plain file could be written."""
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT):
        return " Make room, or save elsewhere."
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return " Make the folder writable, or save elsewhere."
    if isinstance(error, MemoryError):
        return " Free memory, or save a smaller checkpoint."
    return ""


def _clear_frames(error: BaseException | None) -> None:
    """Clear the local variables of the functions that an error passed through: one holds a whole checkpoint.

    `traceback.clear_frames` is not enough. It leaves out the callers of the function that caught the error, and in the
    publishing thread one of them, the executor's, holds the arguments of the task. It also leaves out causes.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for found, _ in traceback.walk_tb(error.__traceback__):
            frame: FrameType | None = found
            while frame is not None:
                try:
                    frame.clear()
                except RuntimeError:  # it is running
                    break
                frame = frame.f_back
        error = error.__cause__ or error.__context__
