"""Lightning's checkpoint paths: their form, and what their names mean."""

import os
from pathlib import Path
from typing import Any

UNPUBLISHED = ".unpublished"
"""The end of the name of the folder beside a checkpoint file that could not be published."""


def absolute(path: str | os.PathLike[str]) -> str:
    """Return a local path as absolute, and a remote address unchanged."""
    path = os.fspath(path)
    return path if "://" in path else os.path.abspath(path)


def set_last_model_path(checkpoint: dict[str, Any], path: str) -> None:
    """Tell ModelCheckpoint that the file from which it resumes is its own `last`.

    The best and the last checkpoint of a step share a dataset, which is written before the callback sets
    `last_model_path`. If that stayed empty, a resumed run would write `last-v1.ckpt` and not overwrite `last.ckpt`.

    Args:
        checkpoint: What was loaded; changed in place.
        path: The path from which it was loaded.
    """
    if Path(path).name.startswith("last") and _is_shared(Path(path)):
        for key, state in checkpoint.get("callbacks", {}).items():
            if key.startswith("ModelCheckpoint") and not state.get("last_model_path"):
                state["last_model_path"] = path


def _is_shared(path: Path) -> bool:
    return path.is_symlink() or (path.exists() and path.stat().st_nlink > 1)
