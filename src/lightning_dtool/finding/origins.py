"""Where source files come from: an installed distribution, the user's own code, Python itself, or a dataset."""

import os
import sysconfig
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from lightning_dtool.finding.module_files import ModuleFile

_INSTALLED = ("site-packages", "dist-packages")
_PYTHON = frozenset(
    os.path.realpath(folder)
    for name in ("stdlib", "platstdlib")
    for folder in (sysconfig.get_path(name), os.path.join(sysconfig.get_path(name), "lib-dynload"))
)


def why_not_run(files: Iterable[ModuleFile]) -> str | None:
    """Return why files must not be run because a dataset names them. None if they may.

    Args:
        files: The files that are run to import a module, from `find`.
    """
    return next(filter(None, map(_why_not, files)), None)


def is_installed(file: ModuleFile) -> bool:
    """Return whether an installed distribution lists a file, and no dataset holds it.

    Args:
        file: The file.
    """
    return _is_listed(file) and _why_not(file) is None


def _why_not(file: ModuleFile) -> str | None:
    # A link may lead into a dataset, or out of one.
    for path in (file.path.absolute(), file.path.resolve()):
        dataset = next((folder for folder in path.parents if os.path.lexists(folder / ".dtool")), None)
        if dataset is not None:
            return f"{file.path} lies in the dataset {dataset}."
        below = [folder for folder in path.parents if {file.root, file.root.resolve()} & {*folder.parents}]
        base = next(filter(_holds_datasets, below), None)
        if base is not None:
            return f"{file.path} lies in {base}, which holds datasets."
    if os.path.realpath(file.root) in _PYTHON:
        return f"{file.path} belongs to Python itself, which defines no LightningModule."
    if file.root.name in _INSTALLED and not _is_listed(file):
        return f"{file.path} belongs to no installed distribution."
    return None


def _holds_datasets(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(os.path.lexists(os.path.join(entry.path, ".dtool")) for entry in entries)
    except OSError:
        return False


def _is_listed(file: ModuleFile) -> bool:
    """Return whether a distribution has installed a file. One that keeps no list of files claims whole packages."""
    inside = os.path.relpath(file.path, file.root).replace(os.sep, "/")
    top = file.name.partition(".")[0]
    for distribution in metadata.distributions(path=[str(file.root)]):
        listed = distribution.read_text("RECORD")
        if listed is not None:
            if f"\n{inside}," in f"\n{listed}":
                return True
        elif top in (distribution.read_text("top_level.txt") or "").split():
            return True
    return False
