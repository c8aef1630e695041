"""From the class path in a record to the class: imported, or, if the user trusts it, from the recorded source."""

import ast
import atexit
import builtins
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import linecache
import shutil
import symtable
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lightning.pytorch import LightningModule

from lightning_dtool.errors import ModuleLoadError
from lightning_dtool.loading.unpacking import refuse_outside, unpack
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
    if not all(part.isidentifier() for part in (*module_name.split("."), *qualname.split("."))):
        return None
    try:
        found: Any = importlib.import_module(module_name)
        for name in qualname.split("."):
            # Not `getattr`: a module or a class may answer with code of its own.
            found = vars(found)[name]
    except (Exception, SystemExit):  # a module may raise anything, a script may even end the program
        return None
    return found if _is_module_class(found) else None


def source_digest(cls: type) -> str | None:
    """Return the SHA-256 of a class's source, None where it has none."""
    try:
        return hashlib.sha256(inspect.getsource(cls).encode("utf-8", "surrogatepass")).hexdigest()
    except Exception:  # whatever the tokenizer makes of a file that has changed since
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
        CorruptDatasetError: If `source.zip` is no zip file.
        UnsafeDatasetError: If it, or the record, names files outside of it, or if it is a zip bomb.
    """
    module_name, _, qualname = class_path.partition(":")
    relpath = code.modules.get(module_name)
    if relpath is None:
        raise ModuleLoadError(
            f"its source.zip does not hold the module {module_name!r} that defines {qualname!r}.", uri=uri
        )
    folder = Path(tempfile.mkdtemp(prefix="lightning-dtool-source-"))  # stays as long as tracebacks may show its lines
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    unpack(source_zip, folder, uri)
    for path in code.modules.values():
        refuse_outside(folder, path, uri)
    recorded = _Recorded(code, folder)
    try:
        with recorded:
            found: Any = recorded.run_slice(relpath, qualname.split(".")[0], _package(module_name, code))
            for name in qualname.split("."):
                found = getattr(found, name)
    except (Exception, SystemExit) as error:  # the recorded code may raise anything
        raise ModuleLoadError(
            f"the recorded source of {class_path!r} does not run here: {type(error).__name__}: {error}. "
            "Install what it needs (see requirements.txt in the dataset), or pass the class: load_module(cls=...).",
            uri=uri,
        ) from error
    if not _is_module_class(found):
        recorded.forget()
        raise ModuleLoadError(f"{class_path!r} in the recorded source is no LightningModule.", uri=uri)
    return found  # type: ignore[no-any-return]


def _is_module_class(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, LightningModule)


def _package(module_name: str, code: Code) -> str:
    """Return the package in which a module's relative imports look: for `python -m pkg.mod`, that of its folder."""
    folder = PurePosixPath(code.modules[module_name]).parent
    for name, relpath in sorted(code.modules.items()):
        if (name == module_name or module_name == "__main__") and name != "__main__":
            path = PurePosixPath(relpath)
            if path.parent == folder:
                return name if path.name == "__init__.py" else name.rpartition(".")[0]
    return ""


class _Recorded:
    """The modules of one checkpoint, under a private package, beside whatever else has their names.

    `leaves.net` of the record is `lightning_dtool_source_<digest>.leaves.net` here, for as long as the program
    runs. The recorded code does not notice: its `import leaves.net`, at any time and also inside of a method, is
    led there by an `__import__` of its own. All other code imports what it always did.

    Args:
        code: The record's section on code.
        folder: Where `source.zip` was unpacked.
    """

    def __init__(self, code: Code, folder: Path) -> None:
        self.prefix = f"lightning_dtool_source_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
        self._folder = folder
        self._argv = code.argv
        self._files = {name: folder / relpath for name, relpath in code.modules.items() if name != "__main__"}
        self._tops = {name.partition(".")[0] for name in self._files}
        self.builtins: dict[str, Any] = {**vars(builtins), "__import__": self._import}

    def __enter__(self) -> None:
        # A class may use what the script has read from the command line: it was this one.
        self._own_argv, sys.argv = sys.argv, list(self._argv)
        package = types.ModuleType(self.prefix)
        package.__path__ = []
        sys.modules[self.prefix] = package
        _FINDER.checkpoints[self.prefix] = self
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)  # ahead of what finds modules in folders

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        sys.argv = self._own_argv
        if kind is not None:
            self.forget()

    def forget(self) -> None:
        """Leave nothing behind."""
        _FINDER.checkpoints.pop(self.prefix, None)
        for name in [name for name in sys.modules.copy() if name.partition(".")[0] == self.prefix]:
            del sys.modules[name]

    def spec(self, name: str) -> importlib.machinery.ModuleSpec | None:
        """Return where a module lies, if it was recorded.

        Args:
            name: Its name in the record.
        """
        file, private = self._files.get(name), f"{self.prefix}.{name}"
        if file is None:
            # A namespace package has no file of its own, only modules below it.
            inside = any(known.startswith(f"{name}.") for known in self._files)
            return importlib.machinery.ModuleSpec(private, None, is_package=True) if inside else None
        packages = [str(file.parent)] if file.name == "__init__.py" else None
        loader = _Loader(private, str(file), self.builtins)
        return importlib.util.spec_from_file_location(private, file, loader=loader, submodule_search_locations=packages)

    def run_slice(self, relpath: str, name: str, package: str) -> types.ModuleType:
        """Run the statements of a file that the definition of a name needs, as a module of its own.

        Args:
            relpath: The file.
            name: The name.
            package: The package that its relative imports start from.
        """
        file = self._folder / relpath
        text = file.read_bytes()  # not decoded: a file may name an encoding of its own
        tree = ast.parse(text, str(file))
        tree.body = needed_statements(tree, name)
        module = types.ModuleType(f"{self.prefix}.__main__")
        module.__file__ = str(file)
        module.__package__ = f"{self.prefix}.{package}" if package else ""
        module.__dict__["__builtins__"] = self.builtins
        sys.modules[module.__name__] = module  # inspect and dataclasses look a class's module up there
        linecache.checkcache(str(file))
        if package:
            importlib.import_module(module.__package__)
        code = compile(tree, str(file), "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102  # the caller has asked the user for trust
        return module

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """Stand in for `__import__` in the recorded code."""
        if level == 0 and name.partition(".")[0] in self._tops:
            module = importlib.import_module(f"{self.prefix}.{name}")
            if not fromlist:
                return sys.modules[f"{self.prefix}.{name.partition('.')[0]}"]
            return builtins.__import__(module.__name__, globals, locals, fromlist)
        module = builtins.__import__(name, globals, locals, fromlist or (), level)
        if module is not importlib:
            return module
        # `importlib.import_module("leaves.net")` means the recorded one, too.
        mine = types.ModuleType("importlib")
        mine.__dict__.update(vars(importlib), import_module=self._import_module)
        return mine

    def _import_module(self, name: str, package: str | None = None) -> types.ModuleType:
        recorded = not name.startswith(".") and name.partition(".")[0] in self._tops
        return importlib.import_module(f"{self.prefix}.{name}" if recorded else name, package)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds recorded modules by their private names; no other name concerns it."""

    def __init__(self) -> None:
        self.checkpoints: dict[str, _Recorded] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return where a module lies, if it was recorded."""
        prefix, _, recorded = name.partition(".")
        checkpoint = self.checkpoints.get(prefix)
        return checkpoint.spec(recorded) if checkpoint is not None else None


_FINDER = _Finder()


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a recorded module with builtins of its own, so that its imports find recorded modules."""

    def __init__(self, name: str, path: str, namespace: dict[str, Any]) -> None:
        super().__init__(name, path)
        self._namespace = namespace

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the module."""
        module.__dict__["__builtins__"] = self._namespace
        super().exec_module(module)


def needed_statements(tree: ast.Module, name: str) -> list[ast.stmt]:
    r"""Return the top-level statements that the definition of a name needs, in order.

    Args:
        tree: A parsed module.
        name: A name that it defines.

    Example:
        >>> tree = ast.parse("import math\nimport os\nclass A:\n    x = math.pi\ntrain()")
        >>> [type(statement).__name__ for statement in needed_statements(tree, "A")]
        ['Import', 'ClassDef']
    """
    bound = [set() if _is_main_guard(statement) else set(_bound(statement)) for statement in tree.body]
    needed: set[int] = set()
    wanted, data = {name}, set[str]()
    while True:
        found = {
            index
            for index, statement in enumerate(tree.body)
            if bound[index] & wanted
            or "*" in bound[index]
            or _is_future(statement)
            or _changes(statement, wanted, data)
        } - needed
        if not found:
            return [tree.body[index] for index in sorted(needed)]
        needed |= found
        for index in found:
            wanted |= set(_used(tree.body[index]))
            if isinstance(tree.body[index], _ASSIGNMENTS):
                data |= bound[index]


_ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def _bound(node: ast.AST) -> Iterator[str]:
    """Yield the names that a statement defines or changes, those inside of it included; "*" for all of a module."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name.split(".")[0]
    elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        yield node.name
    elif isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest
    if not isinstance(node, _SCOPES):
        for child in ast.iter_child_nodes(node):
            yield from _bound(child)


def _root(node: ast.expr) -> Iterator[str]:
    """Yield the name at the left end of `name.attribute[item]`."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Name):
        yield node.id


def _changes(statement: ast.stmt, needed: set[str], data: set[str]) -> bool:
    """Return True for a statement that changes what is needed, and does no more.

    That is `name.attribute = …` and `name[item] = …`; and, where the name is a plain variable, `name.method(…)`
    as in `parser.add_argument("--lr")`, and a definition under `@name.method`. Arguments that call something
    are too much: `history.append(trainer.fit(…))` would train again.
    """
    if isinstance(statement, ast.Assign):
        roots = [_root(target) for target in statement.targets if isinstance(target, ast.Attribute | ast.Subscript)]
        return any(not needed.isdisjoint(root) for root in roots)
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return any(not data.isdisjoint(_root(decorator)) for decorator in statement.decorator_list)
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    calls = any(isinstance(node, ast.Call) for argument in arguments for node in ast.walk(argument))
    return not calls and not data.isdisjoint(_root(call.func))


def _is_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and any(
        isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(statement.test)
    )


def _used(statement: ast.stmt) -> Iterator[str]:
    """Yield the global names that a statement needs: not what is local to its functions."""
    table = symtable.symtable(ast.unparse(statement), "<statement>", "exec")
    yield from table.get_identifiers()
    pending = list(table.get_children())
    while pending:
        scope = pending.pop()
        pending += scope.get_children()
        for symbol in scope.get_symbols():
            # In a class body `x = x` reads the global.
            if symbol.is_global() or (scope.get_type() == "class" and symbol.is_referenced()):
                yield symbol.get_name()
