"""The source files of a module and of its packages, found without importing any of them."""

import importlib.machinery
import importlib.util
import os
import stat
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import NamedTuple

MAX_BYTES = 16 * 2**20
"""The size of the largest source file that is read."""

_LOADERS = (
    (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
    (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES),
    (importlib.machinery.SourcelessFileLoader, importlib.machinery.BYTECODE_SUFFIXES),
)
"""What a folder is searched for, in the order of Python's own search."""


class NotFoundError(Exception):
    """A module that is not here, or that has no source file. The message says which."""


class ModuleFile(NamedTuple):
    """A source file that Python runs to import a module.

    Attributes:
        name: The name of the module or package whose file it is.
        path: The file.
        root: The folder in which the first part of the name was found, such as one of `sys.path`.
    """

    name: str
    path: Path
    root: Path


class _Place(NamedTuple):
    """A folder that may hold modules of a package, and the folder in which the package was found."""

    folder: str
    root: Path


class _Hit(NamedTuple):
    """A module, or the folders of a namespace package, which has no file."""

    spec: ModuleSpec | None
    root: Path | None
    places: list[_Place]


def find(name: str, folders: Sequence[Path] = ()) -> list[ModuleFile]:
    """Return the source files that Python would run to import a module: those of its packages, and last its own.

    Packages that are loaded do not run again and are left out. `importlib.util.find_spec` would import the packages.

    Args:
        name: The full name of a module that is not loaded.
        folders: Where to look for it after `sys.path`. Default: nowhere else.

    Raises:
        NotFoundError: If it is not found, or if one of these files is no Python source.
    """
    parts = name.split(".")
    loaded = max((number for number in range(len(parts)) if ".".join(parts[:number]) in sys.modules), default=0)
    places = _places_of(".".join(parts[:loaded]))
    found = []
    for number in range(loaded, len(parts)):
        full = ".".join(parts[: number + 1])
        spec, root, places = _below(places, parts[number]) if number else _top(parts[0], folders)
        if spec is not None and root is not None:
            found.append(ModuleFile(full, _source_file(full, spec), root))
        elif not places:
            raise NotFoundError(f"there is no module {full!r} here.")
    if not found or found[-1].name != name:
        raise NotFoundError(f"{name!r} is a folder without __init__.py here, which defines nothing.")
    return found


def in_folder(name: str, folder: Path) -> ModuleSpec | None:
    """Return what a folder holds under the name of a module: a module, a package, or a folder without `__init__.py`.

    Args:
        name: The last part of the module's name.
        folder: The folder.
    """
    # A new finder, because that of the import system may remember how the folder was.
    return importlib.machinery.FileFinder(str(folder), *_LOADERS).find_spec(name)


def read(path: Path) -> bytes:
    """Return the content of a source file.

    Raises:
        NotFoundError: If it cannot be read, or is no regular file, or is too large.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise NotFoundError(f"{path} is not a regular file.")
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error}.") from error
    if len(content) > MAX_BYTES:
        raise NotFoundError(f"{path} has more than {MAX_BYTES} bytes.")
    return content


def _places_of(package: str) -> list[_Place]:
    """Return where the modules of a loaded package lie. Without a package: nowhere."""
    path = vars(sys.modules[package]).get("__path__", ()) if package else ()
    depth = package.count(".")
    return [_Place(folder, _above(Path(folder), depth + 1)) for folder in path if isinstance(folder, str)]


def _top(name: str, folders: Sequence[Path]) -> _Hit:
    """Find a name without dots, as an import does: finders of editable installs may know it, too."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is not None and spec.loader is not None and spec.origin is not None:
        is_package = spec.submodule_search_locations is not None
        root = _above(Path(spec.origin), 1 + is_package)
        return _Hit(spec, root, [_Place(folder, root) for folder in spec.submodule_search_locations or ()])
    portions = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = _below([_Place(str(folder), folder) for folder in folders], name)
    return found if found.spec is not None else _Hit(None, None, [_at(portion) for portion in portions] + found.places)


def _at(portion: str) -> _Place:
    return _Place(portion, Path(portion).parent)


def _below(places: Sequence[_Place], name: str) -> _Hit:
    """Find a module in folders: the first that holds it, or all folders of that name, which are a namespace package."""
    portions = []
    for place in places:
        spec = in_folder(name, Path(place.folder))
        if spec is None:
            continue
        inside = [_Place(folder, place.root) for folder in spec.submodule_search_locations or ()]
        if spec.loader is not None:
            return _Hit(spec, place.root, inside)
        portions += inside
    return _Hit(None, None, portions)


def _source_file(name: str, spec: ModuleSpec) -> Path:
    path = Path(spec.origin or "")
    if not isinstance(spec.loader, importlib.machinery.SourceFileLoader) or not path.is_file():
        where = f" ({spec.origin})" if spec.origin else ""
        raise NotFoundError(f"the module {name!r} has no source file{where}, so nobody can say what its import runs.")
    return path


def _above(path: Path, levels: int) -> Path:
    for _ in range(levels):
        path = path.parent
    return path.absolute()
