"""Folders of Lightning's paths: links that lead into datasets, and checkpoints that were not published."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_dtool.publishing.lightning_paths import UNPUBLISHED
from lightning_dtool.store.temporaries import is_temporary


class Found(NamedTuple):
    """What folders of Lightning's paths hold.

    Attributes:
        targets: Where symbolic links lead, as absolute paths that need not exist.
        unpublished: The checkpoint files that were not published.
        temporary: Temporary files and folders of processes that write checkpoints, or have been killed meanwhile.
    """

    targets: frozenset[str]
    unpublished: tuple[Path, ...]
    temporary: tuple[Path, ...]


def look_through(folders: Iterable[Path]) -> Found:
    """Look for links, unpublished checkpoints and temporary files below folders. No link to a folder is followed.

    Args:
        folders: The folders. Those that do not exist hold nothing.
    """
    targets: set[str] = set()
    unpublished: dict[Path, None] = {}
    temporary: dict[Path, None] = {}
    for folder in folders:
        for parent, names, files in os.walk(folder):
            for name in (*names, *files):
                path = os.path.join(parent, name)
                if is_temporary(name):
                    temporary[Path(path).absolute()] = None
                elif os.path.islink(path):
                    targets.add(_target(path))
            for name in names:
                if name.endswith(UNPUBLISHED):
                    unpublished[Path(parent, name.removesuffix(UNPUBLISHED)).absolute()] = None
            entered = (name for name in names if not (name.endswith(UNPUBLISHED) or is_temporary(name)))
            names[:] = [] if ".dtool" in names else sorted(entered)
    return Found(frozenset(targets), tuple(unpublished), tuple(temporary))


def leads_into(targets: Iterable[str], folder: Path) -> bool:
    """Tell whether a link leads into a folder.

    Args:
        targets: Where links lead.
        folder: The folder, which need not exist.
    """
    roots: Sequence[str] = (str(folder), os.path.realpath(folder))
    return any(target == root or target.startswith(f"{root}{os.sep}") for target in targets for root in roots)


def _target(path: str) -> str:
    return os.path.normpath(os.path.join(os.path.realpath(os.path.dirname(path)), os.readlink(path)))
