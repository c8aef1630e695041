"""The class that a record names: imported, or built from the recorded source if the user trusts it."""

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
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lightning.pytorch import LightningModule

from lightning_dtool.errors import ModuleLoadError
from lightning_dtool.loading.slicing import needed_statements
from lightning_dtool.loading.unpacking import refuse_outside, unpack
from lightning_dtool.record import Code


def import_class(class_path: str) -> type[LightningModule] | None:
    """Return the LightningModule class that a record names, if it can be imported here.

    A record that a stranger wrote can name anything. Therefore this function imports only code that is already on this
    machine, and returns only a LightningModule.

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
            # Not `getattr`: it may run code of the module or class.
            found = vars(found)[name]
    except (Exception, SystemExit):  # a module may raise anything; a script may even call `sys.exit`
        return None
    return found if _is_module_class(found) else None


def class_from_source(class_path: str, code: Code, source_zip: Path, uri: str) -> type[LightningModule]:
    """Return a LightningModule class from the source that a checkpoint carries. This runs code from that source.

    Only the statements that the class needs are run: the imports, definitions and assignments that it refers to,
    directly or indirectly. Therefore a training script does not train again.

    Args:
        class_path: `module:qualified.name` as recorded.
        code: The record's section on code, which says where each module lies in the zip file.
        source_zip: The verified `source.zip`.
        uri: The dataset's URI, for errors.

    Raises:
        ModuleLoadError: If the class is not there, or its source does not run.
        CorruptDatasetError: If `source.zip` is not a zip file.
        UnsafeDatasetError: If `source.zip` or the record names files outside the folder where it is unpacked, or if
            `source.zip` is a zip bomb.
    """
    module_name, _, qualname = class_path.partition(":")
    relpath = code.modules.get(module_name)
    if relpath is None:
        raise ModuleLoadError(
            f"its source.zip does not hold the module {module_name!r} that defines {qualname!r}.", uri=uri
        )
    folder = Path(tempfile.mkdtemp(prefix="lightning-dtool-source-"))  # kept until exit: tracebacks show its lines
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
        raise ModuleLoadError(f"{class_path!r} in the recorded source is not a LightningModule.", uri=uri)
    return found  # type: ignore[no-any-return]


def _is_module_class(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, LightningModule)


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
        self._argv = code.argv
        self._files = {name: folder / relpath for name, relpath in code.modules.items() if name != "__main__"}
        self._tops = {name.partition(".")[0] for name in self._files}
        self.builtins: dict[str, Any] = {**vars(builtins), "__import__": self._import}

    def __enter__(self) -> None:
        # A class may depend on the command line of the script, so the recorded one is restored.
        self._own_argv, sys.argv = sys.argv, list(self._argv)
        package = types.ModuleType(self.prefix)
        package.__path__ = []
        sys.modules[self.prefix] = package
        _FINDER.checkpoints[self.prefix] = self
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)  # before the finder that searches `sys.path`

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        sys.argv = self._own_argv
        if kind is not None:
            self.forget()

    def forget(self) -> None:
        """Remove the recorded modules from this process."""
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

    def run_slice(self, relpath: str, name: str, package: str) -> types.ModuleType:
        """Run the statements of a file that the definition of a name needs, as a module of its own.

        Args:
            relpath: The file.
            name: The name.
            package: The package that its relative imports start from.
        """
        file = self._folder / relpath
        text = file.read_bytes()  # bytes, because a file may declare its own encoding
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
        exec(code, module.__dict__)  # noqa: S102  # the caller requires the user's trust
        return module

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
