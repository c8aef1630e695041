"""Imported modules that are neither in Python's folders of packages nor in the project: which of them are a gap."""

import functools
import os
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


def add_foreign_modules(modules: Iterable[tuple[str, Path]], gaps: Gaps) -> None:
    """Add a gap for the modules whose code neither the list of packages nor `source.zip` identifies.

    Args:
        modules: The name and the resolved file of each module outside the project and outside Python's own folders.
        gaps: Receives the gaps.
    """
    unknown, downloaded = [], []
    for name, path in modules:
        if name.startswith(_HUGGING_FACE) or _TORCH_HUB in str(path):
            downloaded.append(name)
        elif not (name.startswith(_DEBUGGERS) or _is_generated(name, path) or _is_installed_elsewhere(name, path)):
            unknown.append(name)
    if unknown:
        gaps.at("code.modules").add(
            f"{_named(unknown)} are neither installed nor Python files of the project",
            "install them as packages, or keep them in the project's repository",
        )
    if downloaded:
        gaps.at("code.modules").add(
            f"{_named(downloaded)} were downloaded when they were loaded, and their code is not stored",
            "name a revision, such as a commit, where the model is loaded, or copy the code into the project",
        )


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
