"""Imported modules that are neither in Python's folders of packages nor in the project: which of them are stored.

They come from folders in `PYTHONPATH` and `sys.path`, and from packages that are installed in editable mode.
"""

import functools
import os
import re
import sys
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path

from lightning_dtool.record import Gaps, as_text

_DEBUGGERS = ("debugpy", "pydevd", "_pydev", "pydev_")
"""Beginnings of the names of modules of debuggers, which the editor brings along."""

_HUGGING_FACE = "transformers_modules"
_TORCH_HUB = f"{os.sep}torch{os.sep}hub{os.sep}"

_MAX_NAMED = 20

OUTSIDE = "outside"
"""Folder in source.zip of the modules from outside the project."""

_MAX_FILES = 200
_MAX_BYTES = 2**21

_IMPORTABLE = re.compile(r"\w+(\.\w+)*")


def foreign_modules(modules: Iterable[tuple[str, Path]], gaps: Gaps) -> list[tuple[str, str, Path]]:
    """Return the modules whose code the list of packages does not identify, and whose files are therefore stored.

    Args:
        modules: The name and the resolved file of each module outside the project and outside Python's own folders.
        gaps: Receives a gap for those that cannot be stored, and for those that were downloaded.

    Returns:
        The name, the path in `source.zip` and the file of each. The whole is limited to 200 files and 2 MiB.
    """
    kept: list[tuple[str, str, Path]] = []
    unknown, downloaded = [], []
    left = _MAX_BYTES
    for name, path in sorted(modules):
        if is_downloaded(name, path):
            downloaded.append(name)
        elif is_foreign(name, path):
            size = path.stat().st_size if path.suffix == ".py" and _IMPORTABLE.fullmatch(name) else _MAX_BYTES + 1
            if size <= left and len(kept) < _MAX_FILES:
                left -= size
                end = "/__init__.py" if path.stem == "__init__" else ".py"
                kept.append((name, f"{OUTSIDE}/{name.replace('.', '/')}{end}", path))
            else:
                unknown.append(name)
    if unknown:
        gaps.at("code.modules").add(
            f"{_named(unknown)} are neither installed nor Python files of the project, and are not Python files or too "
            "large to be stored",
            "install them as packages, or keep them in the project's repository",
        )
    if downloaded:
        gaps.at("code.modules").add(
            f"{_named(downloaded)} were downloaded when they were loaded, and their code is not stored",
            "name a revision, such as a commit, where the model is loaded, or copy the code into the project",
        )

    return kept


def is_foreign(name: str, path: Path) -> bool:
    """Return True for a module outside the project whose code neither a package nor its version identifies."""
    known = name.startswith(_DEBUGGERS) or _is_generated(name, path) or _is_installed_elsewhere(name, path)
    return not known and not is_downloaded(name, path)


def is_downloaded(name: str, path: Path) -> bool:
    """Return True for a module that a library downloads when it is loaded."""
    return name.startswith(_HUGGING_FACE) or _TORCH_HUB in str(path)


def _named(names: list[str]) -> str:
    shown = ", ".join(as_text(name) for name in sorted(names)[:_MAX_NAMED])
    return f"{len(names)} imported modules ({shown}{', …' if names[_MAX_NAMED:] else ''})"


def _is_generated(name: str, path: Path) -> bool:
    """Return True for a module that an installed package has written to a cache, such as those of torch.compile."""
    triton = os.environ.get("TRITON_CACHE_DIR") or f"{os.sep}.triton{os.sep}"
    if path.suffix != ".py" and triton in str(path):  # a compiled launcher, whose name has no package
        return True
    root, _, rest = name.partition(".")
    file = getattr(sys.modules.get(root), "__dict__", {}).get("__file__")
    return bool(rest) and isinstance(file, str) and ("site-packages" in file or "dist-packages" in file)


def _is_installed_elsewhere(name: str, path: Path) -> bool:
    """Return True for a module of a package that was installed into another folder (`pip install --target`, pex)."""
    depth = name.count(".") + (path.stem == "__init__")
    folder = path.parents[depth] if depth < len(path.parents) else path.parent
    return name.partition(".")[0] in _installed_in(str(folder))


@functools.cache
def _installed_in(folder: str) -> frozenset[str]:
    """Return the names of the packages and modules that the metadata in a folder lists."""
    found: set[str] = set()
    try:
        # Not those of a project, whose metadata (`.egg-info`) lies beside its source.
        kept = [each for each in distributions(path=[folder]) if str(getattr(each, "_path", "")).endswith(".dist-info")]
        for distribution in kept:
            found |= {file.parts[0].partition(".")[0] for file in distribution.files or ()}
    except Exception:  # damaged metadata
        return frozenset()
    return frozenset(found)
