"""The installed packages that define the classes of a model."""

import functools
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import nn

from lightning_dtool.capture.environment import installed_in
from lightning_dtool.record import Gaps
from lightning_dtool.values.definitions import is_library

_ALWAYS_RECORDED = ("torch", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "lightning_dtool")


def distribution_of(cls: type) -> tuple[str, str] | None:
    """Return the name and the version of the installed package that defines a class.

    Args:
        cls: The class.

    Returns:
        None if the class is the user's or Python's, or if no installed package names its file.

    Example:
        >>> from rich.text import Text
        >>> distribution_of(Text)[0]
        'rich'
    """
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return _distribution(os.path.abspath(file)) if isinstance(file, str) and is_library(cls.__module__) else None


def model_libraries(module: nn.Module, gaps: Gaps) -> dict[str, str]:
    """Return the versions of the installed packages that define the class of a module, its bases and its children.

    Args:
        module: The module. PyTorch, Lightning and torchmetrics are left out, because they are always recorded.
        gaps: Receives a gap at `environment.versions` for each library whose package is not found.
    """
    classes = {base for child in module.modules() for base in type(child).__mro__}
    by_library: dict[str, type] = {}
    for cls in sorted(classes, key=lambda cls: (cls.__module__, cls.__qualname__)):
        root = cls.__module__.partition(".")[0]
        if root not in _ALWAYS_RECORDED and root not in sys.stdlib_module_names and is_library(cls.__module__):
            # The packages of a namespace, such as `pyannote`, are installed one by one.
            is_namespace = getattr(sys.modules.get(root), "__file__", None) is None
            by_library.setdefault(".".join(cls.__module__.split(".")[: 2 if is_namespace else 1]), cls)
    found: dict[str, str] = {}
    for library, cls in by_library.items():
        distribution = distribution_of(cls)
        if distribution is None:
            reason = f"no installed package names the file of the model's class {cls.__module__}:{cls.__qualname__}"
            gaps.at(f"environment.versions.{library}").add(reason, "install the library with pip")
        else:
            found[distribution[0]] = distribution[1]
    return found


@functools.lru_cache(maxsize=256)
def _distribution(file: str) -> tuple[str, str] | None:
    """Return the installed package that lists a file.

    `importlib.metadata.packages_distributions` reads the metadata of all packages, which takes longer.
    """
    folder = next((parent for parent in Path(file).parents if parent.name in ("site-packages", "dist-packages")), None)
    if folder is None:
        return None
    inside = Path(file).relative_to(folder)
    top = inside.parts[0].removesuffix(".py")
    line = re.compile(rb"^%s," % re.escape(inside.as_posix().encode()), re.MULTILINE)
    for name, version, path in _likeliest_first(installed_in(str(folder)), top):
        try:
            listed = Path(path, "RECORD").read_bytes()
        except OSError:  # conda keeps no list of files
            if _plain(name) == _plain(top):
                return name.replace("_", "-"), version
            continue
        if line.search(listed):
            return name.replace("_", "-"), version
    return None


def _likeliest_first(packages: Iterable[tuple[str, str, str]], top: str) -> Iterator[tuple[str, str, str]]:
    plain = _plain(top)
    yield from sorted(packages, key=lambda package: (_plain(package[0]) != plain, plain not in _plain(package[0])))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
