"""Class definitions in source files, read without running them."""

import ast
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule

from lightning_dtool.finding.module_files import ModuleFile, NotFoundError, find, read
from lightning_dtool.values.parsing import parse

MAX_READ = 200
"""The largest number of names that are followed to learn what a class is."""


class Definition(NamedTuple):
    """The definition of a class.

    Attributes:
        module: The name of the module with the definition.
        node: The statement.
    """

    module: str
    node: ast.ClassDef


class Definitions:
    """The definitions that names lead to, across modules. A loaded module is looked up, any other one is read.

    Args:
        folders: Where to look for modules after `sys.path`.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self.files: dict[str, list[ModuleFile]] = {}
        self.is_of_other_namespace = False
        self._folders = folders
        self._bodies: dict[str, ast.Module] = {}
        self._followed: set[tuple[str, str]] = set()

    def class_in(self, module: str, qualname: str) -> Definition | type | None:
        """Return the class that a module defines, or imports by `from X import Y`; None if it does neither.

        Args:
            module: The name of the module.
            qualname: The qualified name of the class.

        Raises:
            NotFoundError: If the module or one that it imports the class from is not found.
        """
        if (module, qualname) in self._followed or len(self._followed) >= MAX_READ:
            return None
        self._followed.add((module, qualname))
        if module in sys.modules:
            return loaded_class(module, qualname)
        body = self._body(module)
        first, _, rest = qualname.partition(".")
        stars = []
        for statement in _statements(body):
            if isinstance(statement, ast.ClassDef) and statement.name == first:
                return _nested(Definition(module, statement), rest)
            if isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    if alias.name == "*":
                        stars.append(self._absolute(module, statement))
                    elif (alias.asname or alias.name) == first:
                        return self._imported(
                            self._absolute(module, statement), ".".join(filter(None, [alias.name, rest]))
                        )
            if isinstance(statement, ast.Import):
                for alias in statement.names:
                    if (alias.asname or alias.name.partition(".")[0]) == first and rest:
                        return self._imported(alias.name if alias.asname else first, rest)
        for star in stars:
            found = self._in_other(star, qualname)
            if found is not None:
                return found
        return None

    def is_lightning_module(self, found: Definition | type) -> bool:
        """Return whether a class is a LightningModule, as far as its bases can be read.

        Args:
            found: The class.
        """
        if isinstance(found, type):
            self.is_of_other_namespace |= any(
                base.__module__.partition(".")[0] == "pytorch_lightning" for base in found.__mro__
            )
            return issubclass(found, LightningModule)
        if found.module.partition(".")[0] == "pytorch_lightning":
            self.is_of_other_namespace = True
        for base in found.node.bases:
            name = _dotted(base)
            inner = self._in_other(found.module, name) if name else None
            if inner is not None and self.is_lightning_module(inner):
                return True
        return False

    def _in_other(self, module: str, qualname: str) -> Definition | type | None:
        try:
            return self.class_in(module, qualname)
        except NotFoundError:
            return None

    def _imported(self, module: str, path: str) -> Definition | type | None:
        """Follow an import of a class, or of a package whose attributes and modules lead to it."""
        parts = path.split(".")
        for number in range(len(parts)):
            found = self._in_other(".".join([module, *parts[:number]]), ".".join(parts[number:]))
            if found is not None:
                return found
        return None

    def _absolute(self, module: str, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        is_package = self.files[module][-1].path.stem == "__init__"
        parts = module.split(".")
        package = parts[: len(parts) - statement.level + is_package]
        return ".".join([*package, *([statement.module] if statement.module else [])])

    def _body(self, module: str) -> ast.Module:
        if module not in self._bodies:
            if not all(part.isidentifier() for part in module.split(".")):
                raise NotFoundError(f"{module!r} is no name of a module.")
            self.files[module] = find(module, self._folders)
            path = self.files[module][-1].path
            try:
                self._bodies[module] = parse(read(path), str(path))
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                raise NotFoundError(f"{path} is not valid Python: {type(error).__name__}.") from error
        return self._bodies[module]


def imported_names(file: Path) -> set[str]:
    """Return the first parts of the absolute names that a source file imports anywhere: none if it cannot be read.

    Args:
        file: The file.
    """
    try:
        nodes = list(ast.walk(parse(read(file), str(file))))
    except (NotFoundError, SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in names}


def loaded_class(module: str, qualname: str) -> type | None:
    """Return a class of a loaded module. None if it has no such class. No code of the module runs.

    Args:
        module: The name of the module.
        qualname: The qualified name of the class.
    """
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        # Not `getattr` or `vars`, which may run code of the module or of a metaclass.
        # Not `isinstance` either, which asks the object for its class.
        if issubclass(type(found), types.ModuleType):
            found = types.ModuleType.__getattribute__(found, "__dict__").get(name)
        elif issubclass(type(found), type):
            found = type.__getattribute__(found, "__dict__").get(name)
        else:
            return None
    return found if issubclass(type(found), type) else None


def _statements(body: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements that a module runs when it is imported, without those of its functions and classes."""
    pending: list[ast.AST] = [body]
    while pending:
        node = pending.pop(0)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                yield child
            if isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
                pending.append(child)


def _nested(found: Definition, qualname: str) -> Definition | None:
    for name in qualname.split(".") if qualname else []:
        classes = (node for node in found.node.body if isinstance(node, ast.ClassDef) and node.name == name)
        node = next(classes, None)
        if node is None:
            return None
        found = Definition(found.module, node)
    return found


def _dotted(expression: ast.expr) -> str | None:
    """Return the name that an expression is, such as `L.LightningModule`, also with type parameters."""
    if isinstance(expression, ast.Subscript):
        return _dotted(expression.value)
    if isinstance(expression, ast.Attribute):
        inner = _dotted(expression.value)
        return f"{inner}.{expression.attr}" if inner else None
    return expression.id if isinstance(expression, ast.Name) else None
