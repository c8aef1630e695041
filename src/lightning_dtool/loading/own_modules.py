"""The user's own modules in a folder that is not in `sys.path`: those that a named module needs, and no others.

The folder is not added to `sys.path`, because it may hold files with the names of libraries that are not installed,
and that other libraries try to import.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning_dtool.finding.module_files import NotFoundError, find, in_folder
from lightning_dtool.finding.origins import why_not_run
from lightning_dtool.loading.definitions import imported_names

_MAX_FILES = 2000
"""The largest number of files of one folder that are read to learn what they import."""


def allow(module: str, folders: Sequence[Path]) -> None:
    """Let a module in one of the folders be imported, and what its code imports from there, until the process ends.

    Args:
        module: The module's name.
        folders: The folders.
    """
    for folder in folders:
        pending, seen = {module.partition(".")[0]}, set()
        while pending:
            top = pending.pop()
            seen.add(top)
            if in_folder(top, folder) is None or top in sys.modules or not _is_only_there(top, folder):
                continue
            _FINDER.folders[top] = folder
            pending |= {name for file in _files(top, folder) for name in imported_names(file)} - seen
    if _FINDER.folders and _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)  # after all others: nothing in a folder takes the place of a library


def _is_only_there(top: str, folder: Path) -> bool:
    """Return whether a module would be taken from the folder, and may be."""
    try:
        files = find(top, [folder])
    except NotFoundError:
        return (folder / top).is_dir()  # a folder without __init__.py: the rules hold for each module in it
    return files[0].root == folder.absolute() and why_not_run(files) is None


def _files(top: str, folder: Path) -> Iterator[Path]:
    """Yield the source files of a module or package. Folders of datasets are not entered."""
    if (folder / f"{top}.py").is_file():
        yield folder / f"{top}.py"
    number = 0
    for place, inside, names in os.walk(folder / top):
        inside[:] = [name for name in inside if name.isidentifier() and not (Path(place, name, ".dtool")).exists()]
        for name in names:
            if name.endswith(".py") and (number := number + 1) <= _MAX_FILES:
                yield Path(place, name)


class _Finder(importlib.abc.MetaPathFinder):
    """Finder of the modules that were allowed."""

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return in_folder(name, self.folders[name]) if path is None and name in self.folders else None


_FINDER = _Finder()
