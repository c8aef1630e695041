"""The classes that a record names: imported, or built from the recorded source if the user trusts it."""

import ast
import atexit
import builtins
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import shutil
import sys
import tempfile
import types
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from lightning.pytorch import LightningModule

from lightning_dtool.errors import ModuleLoadError
from lightning_dtool.loading.slicing import needed_statements, parameters_used
from lightning_dtool.loading.unpacking import refuse_outside, unpack
from lightning_dtool.record import Code
from lightning_dtool.values.parsing import parse

_LOCALS = ".<locals>."
"""What stands in a qualified name between a function and what is defined inside it."""


def import_class(class_path: str) -> type[LightningModule] | None:
    """Return the LightningModule class that a trusted record names, if it can be imported here, else None.

    Args:
        class_path: `module:qualified.name`. Its module runs when it is imported. A module `__main__` is never imported:
            it is a program.
    """
    found = None if "__main__" in class_path.partition(":")[0].split(".") else import_object(class_path)
    return found if is_module_class(found) else None


def import_object(path: str) -> Any:
    """Return what `module:qualified.name` names, if it can be imported here, else None.

    Args:
        path: `module:qualified.name`. The module runs when it is imported, so it must be the user's own or trusted.
    """
    module_name, _, qualname = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *qualname.split("."))):
        return None
    try:
        found: Any = importlib.import_module(module_name)
        for name in qualname.split("."):
            # Not `getattr`: it may run code of the module or class.
            found = vars(found)[name]
    except (Exception, SystemExit):  # a module may raise anything; a script may even call `sys.exit`
        return None
    return found


def is_module_class(found: object) -> TypeGuard[type[LightningModule]]:
    """Return True for a class of LightningModules."""
    return isinstance(found, type) and issubclass(found, LightningModule)


def objects_from_source(
    class_path: str | None,
    others: Collection[str],
    code: Code,
    source_zip: Path,
    uri: str,
    arguments: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a class and other objects from the source that a checkpoint carries. This runs code from that source.

    Only the statements that they need are run: the imports, definitions and assignments that they refer to, directly or
    indirectly. Therefore a training script does not train again. A class that is defined inside a function is made if
    it uses none of the function's parameters.

    Args:
        class_path: `module:qualified.name` of the class, as recorded; None if only the others are wanted.
        others: Those of other classes and functions. One that the source does not define is left out.
        code: The record's section on code, which says where each module lies in the zip file.
        source_zip: The verified `source.zip`.
        uri: The dataset's URI, for errors.
        arguments: Names of the arguments that have to be passed along with a class, for errors. Default: none.

    Returns:
        The objects by `module:qualified.name`.

    Raises:
        ModuleLoadError: If the class is not there, or the source does not run.
        CorruptDatasetError: If `source.zip` is not a zip file.
        UnsafeDatasetError: If `source.zip` or the record names files outside the folder where it is unpacked, or if
            `source.zip` is a zip bomb.
    """
    if class_path is not None and class_path.partition(":")[0] not in code.modules:
        module_name, _, qualname = class_path.partition(":")
        raise ModuleLoadError(
            f"its source.zip does not hold the module {module_name!r} that defines {qualname!r}. Pass the class:"
            f" {call('cls', *arguments)}.",
            uri=uri,
        )
    folder = Path(tempfile.mkdtemp(prefix="lightning-dtool-source-"))  # kept until exit: tracebacks show its lines
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    unpack(source_zip, folder, uri)
    for relpath in code.modules.values():
        refuse_outside(folder, relpath, uri)
    wanted: dict[str, list[str]] = {}
    for path in dict.fromkeys((*([] if class_path is None else [class_path]), *others)):
        if path.partition(":")[0] in code.modules:
            wanted.setdefault(path.partition(":")[0], []).append(path.partition(":")[2])
    found: dict[str, Any] = {}
    with _Recorded(code, folder) as recorded:
        for module_name, qualnames in wanted.items():
            try:
                module = recorded.run_slice(module_name, [name.partition(".")[0] for name in qualnames])
            except (Exception, SystemExit) as error:  # the recorded code may raise anything
                raise _does_not_run(f"{module_name}:{qualnames[0]}", error, uri) from error
            for qualname in qualnames:
                path = f"{module_name}:{qualname}"
                try:
                    found[path] = recorded.find(module, qualname)
                except _NeedsParametersError as error:
                    raise ModuleLoadError(
                        f"{path!r} is defined inside a function and uses its parameters ({error}), whose values are not"
                        f" recorded. Make the class as the script did, and pass it: {call('cls', *arguments)}.",
                        uri=uri,
                    ) from None
                except (Exception, SystemExit) as error:
                    if path == class_path:
                        raise _does_not_run(path, error, uri) from error
        if class_path is not None and not is_module_class(found[class_path]):
            raise ModuleLoadError(f"{class_path!r} in the recorded source is not a LightningModule.", uri=uri)
    return found


def call(*names: str) -> str:
    """Return a call of `load_module` with some arguments, as a text: `load_module(trust_source=True, head=...)`.

    Args:
        *names: The names of the arguments.
    """
    return f"load_module({', '.join(f'{name}=True' if name == 'trust_source' else f'{name}=...' for name in names)})"


def _does_not_run(path: str, error: BaseException, uri: str) -> ModuleLoadError:
    return ModuleLoadError(
        f"the recorded source of {path!r} does not run here: {type(error).__name__}: {error}. "
        "Install what it needs (see requirements.txt in the dataset), or pass the class: load_module(cls=...).",
        uri=uri,
    )


class _NeedsParametersError(Exception):
    """A class inside a function that cannot be made without the function's arguments; the message names them."""


def _package(module_name: str, code: Code) -> str:
    """Return the package that a module's relative imports start from; for `python -m pkg.mod`, that of its folder."""
    folder = PurePosixPath(code.modules[module_name]).parent
    for name, relpath in sorted(code.modules.items()):
        if (name == module_name or module_name == "__main__") and name != "__main__":
            path = PurePosixPath(relpath)
            if path.parent == folder:
                return name if path.name == "__init__.py" else name.rpartition(".")[0]
    return ""


class _Recorded:
    """The modules of one checkpoint, in a private package, so that they replace no other module of the same name.

    The recorded module `leaves.net` is imported as `lightning_dtool_source_<digest>.leaves.net` and stays loaded until
    the program ends. The recorded code has its own `__import__`, which redirects `import leaves.net` there, also when a
    method runs later. The imports of all other code are unchanged.

    Args:
        code: The record's section on code.
        folder: Where `source.zip` was unpacked.
    """

    def __init__(self, code: Code, folder: Path) -> None:
        self.prefix = f"lightning_dtool_source_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
        self._folder = folder
        self._code = code
        self._files = {name: folder / relpath for name, relpath in code.modules.items() if name != "__main__"}
        self._tops = {name.partition(".")[0] for name in self._files}
        self.builtins: dict[str, Any] = {**vars(builtins), "__import__": self._import}

    def __enter__(self) -> "_Recorded":
        # A class may depend on the command line of the script, so the recorded one is restored.
        self._own_argv, sys.argv = sys.argv, list(self._code.argv)
        package = types.ModuleType(self.prefix)
        package.__path__ = []
        sys.modules[self.prefix] = package
        _FINDER.checkpoints[self.prefix] = self
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)  # before the finder that searches `sys.path`
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        sys.argv = self._own_argv
        if kind is not None:
            _FINDER.checkpoints.pop(self.prefix, None)
            for name in [name for name in sys.modules.copy() if name.partition(".")[0] == self.prefix]:
                del sys.modules[name]

    def spec(self, name: str) -> importlib.machinery.ModuleSpec | None:
        """Return the import spec of a recorded module; None for any other module.

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

    def run_slice(self, module_name: str, names: Sequence[str]) -> types.ModuleType:
        """Run the statements of a recorded module that the definitions of names need, as a module of its own.

        Args:
            module_name: The module.
            names: The names.
        """
        file = self._folder / self._code.modules[module_name]
        package = _package(module_name, self._code)
        module = types.ModuleType(f"{self.prefix}.__main__" + ("" if module_name == "__main__" else f".{module_name}"))
        module.__file__ = str(file)
        module.__package__ = f"{self.prefix}.{package}" if package else ""
        module.__dict__["__builtins__"] = self.builtins
        sys.modules[module.__name__] = module  # inspect and dataclasses look a class's module up there
        linecache.checkcache(str(file))
        if package:
            importlib.import_module(module.__package__)
        self._run(needed_statements(_parsed(file), *names), file, module.__dict__)
        return module

    def find(self, module: types.ModuleType, qualname: str) -> Any:
        """Return what a module defines under a qualified name, also inside a function.

        Args:
            module: The result of `run_slice` for the first part of the name.
            qualname: The qualified name.
        """
        found: Any = module
        *functions, name = qualname.split(_LOCALS)
        if functions:
            found = types.SimpleNamespace(**self._locals(module, functions, name.partition(".")[0]))
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def _locals(self, module: types.ModuleType, functions: Sequence[str], name: str) -> dict[str, Any]:
        """Run the statements inside nested functions that the definition of a name needs."""
        file = Path(str(module.__file__))
        namespace = dict(vars(module))
        body = _parsed(file)
        for function, inner in zip(functions, [*functions[1:], name], strict=True):
            node: Any = body
            for part in function.split("."):
                node = next(child for child in node.body if getattr(child, "name", None) == part)
            body = ast.Module(node.body, [])
            needed = needed_statements(body, inner.partition(".")[0])
            parameters = parameters_used(node, needed)
            if parameters:
                raise _NeedsParametersError(", ".join(parameters))
            self._run(needed, file, namespace)
        return namespace

    @staticmethod
    def _run(statements: list[ast.stmt], file: Path, namespace: dict[str, Any]) -> None:
        code = compile(ast.Module(statements, []), str(file), "exec", dont_inherit=True)
        exec(code, namespace)  # noqa: S102  # the caller requires the user's trust

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """Replace `__import__` in the recorded code."""
        if level == 0 and name.partition(".")[0] in self._tops:
            module = importlib.import_module(f"{self.prefix}.{name}")
            if not fromlist:
                return sys.modules[f"{self.prefix}.{name.partition('.')[0]}"]
            return builtins.__import__(module.__name__, globals, locals, fromlist)
        module = builtins.__import__(name, globals, locals, fromlist or (), level)
        if module is not importlib:
            return module
        # `importlib.import_module("leaves.net")` must find the recorded module, too.
        mine = types.ModuleType("importlib")
        mine.__dict__.update(vars(importlib), import_module=self._import_module)
        return mine

    def _import_module(self, name: str, package: str | None = None) -> types.ModuleType:
        recorded = not name.startswith(".") and name.partition(".")[0] in self._tops
        return importlib.import_module(f"{self.prefix}.{name}" if recorded else name, package)


def _parsed(file: Path) -> ast.Module:
    found: ast.Module = parse(file.read_bytes(), str(file))  # bytes, because a file may declare its own encoding
    return found


class _Finder(importlib.abc.MetaPathFinder):
    """Finder of recorded modules by their private names."""

    def __init__(self) -> None:
        self.checkpoints: dict[str, _Recorded] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        prefix, _, recorded = name.partition(".")
        checkpoint = self.checkpoints.get(prefix)
        return checkpoint.spec(recorded) if checkpoint is not None else None


_FINDER = _Finder()


class _Loader(importlib.machinery.SourceFileLoader):
    """Loader that gives a recorded module its own builtins, so that its imports find recorded modules."""

    def __init__(self, name: str, path: str, namespace: dict[str, Any]) -> None:
        super().__init__(name, path)
        self._namespace = namespace

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__["__builtins__"] = self._namespace
        super().exec_module(module)
