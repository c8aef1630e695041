"""From the class path in a record to the class: imported, or, if the user trusts it, from the recorded source."""

import ast
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import linecache
import sys
import tempfile
import types
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from lightning_dtool.errors import ModuleLoadError, UnsafeDatasetError
from lightning_dtool.record import Code


def import_class(class_path: str) -> type[LightningModule] | None:
    """Return the LightningModule class that a record names, if it can be imported here.

    Nothing but installed code is imported, and nothing is returned that is not a LightningModule: a record
    from a stranger can name what it likes.

    Args:
        class_path: `module:qualified.name`.

    Returns:
        The class, or None.
    """
    module_name, _, qualname = class_path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for name in qualname.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if _is_module_class(found) else None


def source_digest(cls: type) -> str | None:
    """Return the SHA-256 of a class's source, None where it has none."""
    try:
        return hashlib.sha256(inspect.getsource(cls).encode()).hexdigest()
    except (OSError, TypeError):
        return None


def class_from_source(class_path: str, code: Code, source_zip: Path, uri: str) -> type[LightningModule]:
    """Return a LightningModule class from the source that a checkpoint carries. This runs that source.

    Of the file that defines the class only the statements run that the class needs (imports, definitions and
    assignments that it refers to, directly or through others): a training script is not run again.

    Args:
        class_path: `module:qualified.name` as recorded.
        code: The record's section on code, which says where each module lies in the zip file.
        source_zip: The verified `source.zip`.
        uri: Named in errors.

    Raises:
        ModuleLoadError: If the class is not there, or its source does not run.
    """
    module_name, _, qualname = class_path.partition(":")
    relpath = code.modules.get(module_name)
    if relpath is None:
        raise ModuleLoadError(
            f"{uri}: its source.zip does not hold the module {module_name!r} that defines {qualname!r}."
        )
    folder = Path(tempfile.mkdtemp(prefix="lightning-dtool-source-"))  # stays as long as tracebacks may show its lines
    _extract(source_zip, folder, uri)
    try:
        with _importable(code, folder):
            module = _run_slice(folder / relpath, qualname.split(".")[0])
        found: Any = module
        for name in qualname.split("."):
            found = getattr(found, name)
    except Exception as error:  # the recorded code may raise anything
        raise ModuleLoadError(
            f"{uri}: the recorded source of {class_path!r} does not run here: {type(error).__name__}: {error}. "
            "Install what it needs (see requirements.txt in the dataset), or pass the class: load_module(cls=...)."
        ) from error
    if not _is_module_class(found):
        raise ModuleLoadError(f"{uri}: {class_path!r} in the recorded source is no LightningModule.")
    return found  # type: ignore[no-any-return]


def _is_module_class(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, LightningModule)


def _extract(source_zip: Path, folder: Path, uri: str) -> None:
    with zipfile.ZipFile(source_zip) as archive:
        for name in archive.namelist():
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise UnsafeDatasetError(f"{uri}: source.zip names {name!r}, which lies outside of it. Do not use it.")
        archive.extractall(folder)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of a project in the folder that its recorded source was unpacked to."""

    def __init__(self, code: Code, folder: Path) -> None:
        self._files = {name: folder / relpath for name, relpath in code.modules.items() if name != "__main__"}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return where a module lies, if it was recorded."""
        file = self._files.get(name)
        if file is None:
            # A namespace package has no file of its own, only modules below it.
            inside = any(known.startswith(f"{name}.") for known in self._files)
            return importlib.machinery.ModuleSpec(name, None, is_package=True) if inside else None
        packages = [str(file.parent)] if file.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(name, file, submodule_search_locations=packages)


class _importable:  # noqa: N801  # a context manager reads better in lower case
    """Lets the recorded modules be imported, ahead of installed ones, and forgets them afterwards."""

    def __init__(self, code: Code, folder: Path) -> None:
        self._finder = _Finder(code, folder)
        self._names = {name for name in code.modules if name != "__main__"}

    def __enter__(self) -> None:
        self._set_aside = {name: sys.modules.pop(name) for name in list(sys.modules) if name in self._names}
        sys.meta_path.insert(0, self._finder)

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self._finder)
        for name in self._names:
            sys.modules.pop(name, None)
        sys.modules.update(self._set_aside)


def _run_slice(file: Path, name: str) -> types.ModuleType:
    """Run the statements of a file that the definition of a name needs, as a module of its own."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text, str(file))
    tree.body = needed_statements(tree, name)
    module = types.ModuleType(f"lightning_dtool_source_{hashlib.sha256(text.encode()).hexdigest()[:12]}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # inspect and dataclasses look a class's module up there
    linecache.checkcache(str(file))
    exec(compile(tree, str(file), "exec"), module.__dict__)  # noqa: S102  # the caller has asked the user for trust
    return module


def needed_statements(tree: ast.Module, name: str) -> list[ast.stmt]:
    r"""Return the top-level statements that the definition of a name needs, in order.

    Args:
        tree: A parsed module.
        name: A name that it defines.

    Example::

        >>> tree = ast.parse("import math\nimport os\nclass A:\n    x = math.pi\ntrain()")
        >>> [type(statement).__name__ for statement in needed_statements(tree, "A")]
        ['Import', 'ClassDef']
    """
    binds = [(statement, set(_bound(statement))) for statement in tree.body]
    needed: set[int] = set()
    wanted, seen = {name}, set[str]()
    while wanted:
        seen |= wanted
        found = {
            index
            for index, (statement, names) in enumerate(binds)
            if names & wanted or _is_future(statement) or "*" in names
        } - needed
        needed |= found
        wanted = {used for index in found for used in _used(binds[index][0])} - seen
    return [binds[index][0] for index in sorted(needed)]


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement defines."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name.split(".")[0]
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
    elif isinstance(statement, ast.If | ast.Try) and not _is_main_guard(statement):
        # `try: import x` / `if TYPE_CHECKING:` and the like; what they define counts for the whole statement.
        for child in ast.iter_child_nodes(statement):
            if isinstance(child, ast.stmt):
                yield from _bound(child)
            elif isinstance(child, ast.ExceptHandler):
                for inner in child.body:
                    yield from _bound(inner)


def _is_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and any(
        isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(statement.test)
    )


def _used(statement: ast.stmt) -> Iterator[str]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            yield node.id
