"""The code that ran: the entry script or the notebook's cells, the project's own modules, and the state of git."""

import functools
import hashlib
import io
import os
import sys
import sysconfig
import tempfile
import threading
import tokenize
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from lightning_dtool import limits, rerun
from lightning_dtool.capture.foreign_modules import OUTSIDE, foreign_modules, is_foreign
from lightning_dtool.capture.git import WorkTree
from lightning_dtool.capture.notebook import notebook_cells, notebook_file, without_outputs
from lightning_dtool.capture.variables_read import named_variables
from lightning_dtool.record import Code, Gap, Gaps, as_text
from lightning_dtool.redaction.known import hide_known, remember_difference
from lightning_dtool.redaction.record import add_redaction
from lightning_dtool.redaction.source import redact_notebook, redact_patch, redact_source
from lightning_dtool.redaction.text import redact_argv
from lightning_dtool.values.parsing import parse

NOTEBOOK = "notebook.py"
"""Path in source.zip of the cells of an interactive session."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip file can hold. A fixed time makes equal sources equal zip files."""

PATCH = "git.patch"
"""Path in source.zip of the changes since the commit."""

_searched: dict[bytes, tuple[bytes, list[int]] | None] = {}
"""Cached redactions by a digest of path and content, because each `fit` of a process reads the same files."""

_considered: set[str] = set()
"""Names of imported modules that were checked already. Each is in the record, or not part of the project."""

_at_last_save: tuple[int, int, str] | None = None
"""What shows, at the next save, that no module was imported since: the code, the number of modules and the last one."""


@dataclass(frozen=True)
class Sealed:
    """The code in its stored form: the section of the record and `source.zip`."""

    code: Code
    zip: bytes
    gaps: list[Gap]
    """Gaps for what could not be collected, and for redacted credentials."""
    variables: frozenset[str]
    """The environment variables that the files name."""


class Sources:
    """The code as it was collected. It is scanned for credentials and packed later.

    Args:
        code: The record's section, without the files' digests.
        sources: The files' content by path inside `source.zip`.
        extra: Files that are stored unchanged.
        gaps: Gaps for what could not be collected.
    """

    def __init__(self, code: Code, sources: dict[str, bytes], extra: Mapping[str, bytes], gaps: Iterable[Gap]) -> None:
        self.code = code
        """The record's section, without the files' digests, which `seal` computes."""
        self.extra = extra
        """Files that are stored unchanged."""
        self._sources = sources
        self._gaps = list(gaps)
        self._lock = threading.Lock()
        self._sealed: Sealed | None = None

    def seal(self) -> Sealed:
        """Redact credentials and pack the files. Only the first call does the work. Any thread may call this."""
        with self._lock:
            if self._sealed is None:
                gaps = Gaps()
                gaps.include(self._gaps)
                files = {path: _without_secrets(path, content, gaps) for path, content in self._sources.items()}
                files.update(self.extra)
                # Apply the limits again: redaction changes sizes, and now the patch and the extra files count, too.
                files = _bounded(files, (self.code.entry_point, self.code.patch, *self.extra), gaps)
                digests = {path: hashlib.sha256(content).hexdigest() for path, content in sorted(files.items())}
                named = named_variables({**self._sources, **self.extra})
                self._sealed = Sealed(_only_stored(self.code, digests), _zip(files), list(gaps), named)
                self._sources = {}  # the zip file has them
            return self._sealed


def collect_code(extra: Mapping[str, bytes] | None = None) -> Sources:
    """Collect the code that is running. This is quick: it reads files and runs git.

    Args:
        extra: Other files for `source.zip` by path, such as the configuration.
    """
    gaps = Gaps()
    root = project_root()
    with WorkTree(root) as tree:
        sources, modules = _read_modules(root, gaps)
        state = tree.state(gaps)
        untracked = sorted(set(sources) - state.tracked) if state.tracked is not None else []
        untracked = [relpath for relpath in untracked if not relpath.lstrip("_").startswith(f"{OUTSIDE}/")]
        ignored = tree.ignored(untracked)
    for relpath in ignored:
        del sources[relpath]
        gaps.at(f"code.files.{relpath}").add(
            "it is not stored, because git ignores it", "track it with git, if the code needs it and it holds no secret"
        )
    untracked = [relpath for relpath in untracked if relpath not in ignored]
    cells = notebook_cells()
    if cells is not None:
        modules["__main__"] = _free(NOTEBOOK, sources)
        sources[modules["__main__"]] = as_text(cells).encode()
        notebook = notebook_file()
        if notebook is not None:
            sources[_free(as_text(notebook.name), sources)] = without_outputs(notebook, gaps)
    if "__main__" not in modules:
        gaps.at("code.entry_point").add(
            "the main program is not a file of the project (an interactive prompt, or an installed command)",
            "run a script, a notebook, or a module of the project",
        )
    sources = _bounded(sources, (modules.get("__main__"),), gaps)
    patched = _free(PATCH, sources) if state.patch else None
    if state.patch and patched:
        sources[patched] = state.patch
    modules = {name: relpath for name, relpath in modules.items() if relpath in sources}
    arguments = [as_text(argument) for argument in sys.argv]
    shown = redact_argv(arguments)
    for index, (argument, redacted) in enumerate(zip(arguments, shown, strict=True)):
        if argument != redacted:
            add_redaction(gaps.at(f"code.argv[{index}]"))
            remember_difference(argument, redacted)
    code = Code(
        argv=shown,
        working_directory=as_text(_working_directory()),
        entry_point=modules.get("__main__"),
        run_as_module=_run_as_module(),
        git=state.git,
        patch=patched,
        untracked=untracked,
        modules=dict(sorted(modules.items())),
    )
    return Sources(code, sources, dict(extra or {}), gaps)


def project_modules_changed(code: Code) -> bool:
    """Return True if a module that is stored was imported after the code was collected. This is quick.

    Args:
        code: The recorded section.
    """
    global _at_last_save
    present = id(code), len(sys.modules), next(reversed(sys.modules))
    if present == _at_last_save:
        return False
    new = [name for name in sys.modules.copy().keys() - _considered if name not in code.modules]
    inside = os.path.join(project_root(), "")
    for name in new:
        path = None if _is_known(name) else _source_file(sys.modules.get(name))
        is_source = path is not None and path.suffix == ".py" and not _is_installed(path)
        if is_source and path is not None and (str(path).startswith(inside) or is_foreign(name, path)):
            return True
        _considered.add(name)
    _at_last_save = present
    return False


def _read_modules(root: Path, gaps: Gaps) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files by path of the project's modules, and of others that no package has, and the path of each."""
    sources: dict[str, bytes] = {}
    modules: dict[str, str] = {}
    names = set(sys.modules.copy())
    own, outside = _own_modules(root)
    found = [(name, str(path)[len(os.path.join(root, "")) :].replace(os.sep, "/"), path) for name, path in own]
    taken = {relpath for _, relpath, _ in found}
    found += [(name, _free(relpath, taken), path) for name, relpath, path in foreign_modules(outside, gaps)]
    for name, relpath, path in found:
        try:
            relpath.encode()
            if relpath not in sources:
                sources[relpath] = path.read_bytes()
        except (OSError, UnicodeEncodeError) as error:
            reason = f"it could not be read: {type(error).__name__}"
            gaps.at(f"code.files.{as_text(relpath)}").add(reason)
            continue
        modules[name] = relpath
    _considered.update(names)
    return sources, modules


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:  # the project has a file with this name
        name = f"_{name}"
    return name


def _without_secrets(relpath: str, content: bytes, gaps: Gaps) -> bytes:
    """Return a file with its credentials replaced, in the same encoding and with the same number of lines."""
    digest = hashlib.sha256(relpath.encode() + b"\0" + content).digest()
    if digest not in _searched:
        _searched[digest] = _redact(relpath, content)
    found = _searched[digest]
    redacted, lines = found if found is not None else (content, [])
    again = _hide_known(redacted)
    if again != redacted:
        both = enumerate(zip(redacted.split(b"\n"), again.split(b"\n"), strict=True), 1)
        redacted, lines = again, sorted({*lines, *(number for number, (old, new) in both if old != new)})
    if not lines:
        return content
    shown = ", ".join(map(str, lines[:20])) + (", …" if lines[20:] else "")
    gaps.at(f"code.files.{relpath}").add(
        f"what looks like a credential was redacted in {'lines' if lines[1:] else 'line'} {shown}",
        "read it from the environment",
    )
    return redacted


def _hide_known(content: bytes) -> bytes:
    text = content.decode("utf-8", "surrogateescape")
    return hide_known(text).encode("utf-8", "surrogateescape")


def _redact(relpath: str, content: bytes) -> tuple[bytes, list[int]] | None:
    """Return a file with its credentials replaced and the numbers of their lines. None if it has none."""
    try:
        encoding = tokenize.detect_encoding(io.BytesIO(content).readline)[0]
        text = content.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError):
        encoding = "latin-1"  # which maps each byte to a character
        text = content.decode(encoding)
    if relpath.lstrip("_") == PATCH:
        redacted, lines = redact_patch(text)
    elif relpath.endswith(".ipynb"):
        redacted, lines = redact_notebook(text)
    else:
        redacted, lines = redact_source(text)
    return (redacted.encode(encoding, "replace"), lines) if redacted != text else None


def _module_name() -> str | None:
    """Return the name of the module that `python -m` runs, which ends in `.__main__` for a package."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = getattr(spec, "name", None)
    return name if isinstance(name, str) and name != "__main__" else None  # `__main__`: a folder or a zip file


def _run_as_module() -> str | None:
    """Return the name of the module or package that `python -m` runs."""
    name = _module_name()
    return as_text(name.removesuffix(".__main__")) if name is not None else None


def _bounded(files: dict[str, bytes], first: Collection[str | None], gaps: Gaps) -> dict[str, bytes]:
    """Leave out the largest files if the limits of source.zip are exceeded. Files in `first` have priority."""
    kept: dict[str, bytes] = {}
    left = limits.MAX_SOURCE_BYTES
    for relpath, content in sorted(files.items(), key=lambda file: (file[0] not in first, len(file[1]), file[0])):
        if len(content) > left or len(kept) >= limits.MAX_SOURCE_FILES:
            reason = (
                f"source.zip holds at most {limits.MAX_SOURCE_FILES} files of {limits.MAX_SOURCE_BYTES} bytes, and "
                f"this file of {len(content)} bytes is left out"
            )
            gaps.at(f"code.files.{relpath}").add(reason, "keep data out of Python modules")
            continue
        kept[relpath] = content
        left -= len(content)
    return kept


def _only_stored(code: Code, digests: dict[str, str]) -> Code:
    """Return the record's section with the digests of the stored files, and without references to other files."""
    return code.model_copy(
        update={
            "files": digests,
            "modules": {name: relpath for name, relpath in code.modules.items() if relpath in digests},
            "entry_point": code.entry_point if code.entry_point in digests else None,
            "patch": code.patch if code.patch in digests else None,
        }
    )


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return ""


def project_root() -> Path:
    """Return the folder whose code is the user's own.

    This is the git work tree of the main program. Without git, it is the nearest parent folder with a `pyproject.toml`,
    `setup.py` or `setup.cfg`. Without these, it is the folder of the main program, or the one with its package if
    `python -m` runs it. If the main program is not a file, or is installed, the search starts in the working directory.
    In a rerun, this is the folder of the unpacked source.
    """
    plan = rerun.current_plan()
    if plan is not None and plan.root is not None:  # the unpacked source has neither git nor a pyproject.toml
        return Path(plan.root)
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if isinstance(main, str) and not _is_installed(Path(main).resolve()):
        # For `python -m package.module`, the folder with the package: relative imports lead anywhere in it.
        levels = (_module_name() or "").count(".")
        start = [*Path(main).resolve().parents, Path("/")][: levels + 1][-1]
    else:
        start = Path(_working_directory() or tempfile.gettempdir()).resolve()
    for markers in ((".git",), ("pyproject.toml", "setup.py", "setup.cfg")):
        for folder in (start, *start.parents):
            if any((folder / marker).exists() for marker in markers):
                return folder
    return start


def _is_known(name: str) -> bool:
    # `__mp_main__` is a second name of the main module in a spawned worker. torch writes modules of remote modules into
    # a temporary folder, older releases already when they are imported.
    return name.partition(".")[0] in ("lightning_dtool", "__mp_main__") or name.startswith("_remote_module_")


def _own_modules(root: Path) -> tuple[list[tuple[str, Path]], list[tuple[str, Path]]]:
    """Return the name and the file of each imported module of the project, and of those outside it."""
    own: list[tuple[str, Path]] = []
    outside: list[tuple[str, Path]] = []
    inside = os.path.join(root, "")
    # An atomic copy: another thread may import a module, and a dictionary must not change while it is iterated over.
    for name, module in sys.modules.copy().items():
        if _is_known(name):
            continue
        path = _source_file(module)
        if path is None or _is_installed(path) or not path.is_file():
            continue
        is_source = path.suffix == ".py" or (name == "__main__" and _is_text(path))
        (own if is_source and str(path).startswith(inside) else outside).append((name, path))
    return own, outside


def _source_file(module: ModuleType | None) -> Path | None:
    """Return the file of a module. None if it has no file, or is obviously installed."""
    try:
        # Not `module.__file__`, which loads a lazy module and may call a user's `__getattr__`.
        file = object.__getattribute__(module, "__dict__").get("__file__")
        # Checked before the path is resolved, because resolving thousands of paths takes longer than everything else.
        if not isinstance(file, str) or "site-packages" in file or file.startswith(_standard_library()):
            return None
        return Path(file).resolve()
    except Exception:  # not a module, or an invalid path
        return None


@functools.cache
def _standard_library() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({os.path.join(paths[key], "") for key in ("stdlib", "platstdlib")})


def _is_text(path: Path) -> bool:
    """Return True for a text file, such as a script without the suffix .py."""
    try:
        parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _is_installed(path: Path) -> bool:
    # Compared as text, which is quicker for thousands of modules.
    text = str(path)
    return any(part in text for part in _INSTALLED_PARTS) or text.startswith(_installed_folders())


_INSTALLED_PARTS = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({os.path.join(os.path.realpath(paths[key]), "") for key in ("stdlib", "platstdlib", "scripts")})


def _zip(sources: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for relpath, content in sorted(sources.items()):
            archive.writestr(zipfile.ZipInfo(relpath, _EPOCH), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
