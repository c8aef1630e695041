"""Who asks for a model: a program in Python, or the command line, which has other remedies and searches its folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


@contextmanager
def command_line(folder: Path) -> Iterator[None]:
    """Load models for the command line while the block runs.

    Args:
        folder: The working directory, where the modules of the user's own models are looked for.
    """
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def is_command_line() -> bool:
    """Return whether the command line asks."""
    return _folder.get() is not None


def folders() -> list[Path]:
    """Return the folders where modules are looked for after `sys.path`."""
    folder = _folder.get()
    return [] if folder is None else [folder]
