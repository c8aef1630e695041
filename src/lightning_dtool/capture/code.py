"""What ran? The entry script or the notebook's cells, the project's own modules, and the state of git."""

import ast
import functools
import hashlib
import io
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from lightning_dtool.capture.redaction import redact_argv, redact_text
from lightning_dtool.capture.values import as_text
from lightning_dtool.record import Code, Gap, Git

NOTEBOOK = "notebook.py"
"""Where source.zip holds the cells of an interactive session."""

MAX_SOURCE_BYTES = 50 * 2**20
"""Source trees larger than this are summarised."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""A zip file's earliest time: the same sources give the same bytes."""


def capture_code(gaps: list[Gap]) -> tuple[Code, bytes]:
    """Collect the code that is running.

    Args:
        gaps: Receives an entry for whatever could not be collected.

    Returns:
        The record's section, and `source.zip` with the files that the section lists.
    """
    root = project_root()
    sources: dict[str, bytes] = {}
    modules: dict[str, str] = {}
    for name, path in _project_modules(root, gaps):
        relpath = path.relative_to(root).as_posix()
        try:
            relpath.encode()
            sources[relpath] = path.read_bytes()
        except (OSError, UnicodeEncodeError) as error:
            reason = f"it could not be read: {type(error).__name__}"
            gaps.append(Gap(fact=f"code.files.{as_text(relpath)}", reason=reason, remedy=""))
            continue
        modules[name] = relpath
    cells = _notebook_cells()
    if cells is not None:
        notebook = NOTEBOOK
        while notebook in sources:  # a module of the project has this name
            notebook = f"_{notebook}"
        sources[notebook] = as_text(cells).encode()
        modules["__main__"] = notebook
    if "__main__" not in modules:
        gaps.append(
            Gap(
                fact="code.entry_point",
                reason="the main program is no file of the project (an interactive prompt, or an installed command)",
                remedy="run a script, a notebook, or a module of the project",
            )
        )
    sources = _bounded(sources, modules.get("__main__"), gaps)
    modules = {name: relpath for name, relpath in modules.items() if relpath in sources}
    code = Code(
        argv=redact_argv([as_text(argument) for argument in sys.argv]),
        working_directory=as_text(_working_directory()),
        entry_point=modules.get("__main__"),
        git=capture_git(root, gaps),
        files={relpath: hashlib.sha256(content).hexdigest() for relpath, content in sorted(sources.items())},
        modules=dict(sorted(modules.items())),
    )
    return code, _zip(sources)


def _bounded(sources: dict[str, bytes], entry: str | None, gaps: list[Gap]) -> dict[str, bytes]:
    """Leave out the largest files of a project that is too large: the entry point stays longest."""
    kept: dict[str, bytes] = {}
    left = MAX_SOURCE_BYTES
    for relpath, content in sorted(sources.items(), key=lambda source: (source[0] != entry, len(source[1]), source[0])):
        if len(content) > left:
            reason = (
                f"the project's sources exceed {MAX_SOURCE_BYTES} bytes, and this file of {len(content)} is left out"
            )
            gaps.append(Gap(fact=f"code.files.{relpath}", reason=reason, remedy="keep data out of Python modules"))
            continue
        kept[relpath] = content
        left -= len(content)
    return kept


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return ""


def project_root() -> Path:
    """Return the folder whose code is the user's own.

    That is the git work tree of the main program; without git the folder around it that says how to build a
    package (`pyproject.toml` or its elders); else its own folder.
    """
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if isinstance(main, str) and not _is_installed(Path(main).resolve()):
        start = Path(main).resolve().parent
    else:
        start = Path(_working_directory() or tempfile.gettempdir()).resolve()
    for markers in ((".git",), ("pyproject.toml", "setup.py", "setup.cfg")):
        for folder in (start, *start.parents):
            if any((folder / marker).exists() for marker in markers):
                return folder
    return start


def _project_modules(root: Path, gaps: list[Gap]) -> Iterator[tuple[str, Path]]:
    """Yield the imported modules whose file lies inside the project, by name; tell of those of nobody's package."""
    outside = []
    for name, module in list(sys.modules.items()):
        # A module under two names (`__mp_main__` in a spawned worker) is the same file.
        if name.partition(".")[0] in ("lightning_dtool", "__mp_main__"):
            continue
        path = _source_file(module)
        if path is None or _is_installed(path) or not path.is_file():
            continue
        is_source = path.suffix == ".py" or (name == "__main__" and _is_text(path))
        if is_source and path.is_relative_to(root):
            yield name, path
        else:
            outside.append(as_text(name))
    if outside:
        shown = f"{len(outside)} imported modules ({', '.join(sorted(outside)[:20])}{', …' if outside[20:] else ''})"
        gaps.append(
            Gap(
                fact="code.modules",
                reason=f"{shown} are neither installed nor Python files of the project",
                remedy="install them as packages, or keep them in the project's repository",
            )
        )


def _source_file(module: ModuleType | None) -> Path | None:
    try:
        # Not `module.__file__`: that makes a lazy module load itself, and a strange one do what it likes.
        file = object.__getattribute__(module, "__dict__").get("__file__")
        return Path(file).resolve() if isinstance(file, str) else None
    except Exception:  # what is no module at all, and a path that no file system takes
        return None


def _is_text(path: Path) -> bool:
    """Return True for a script without the usual suffix."""
    try:
        ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _is_installed(path: Path) -> bool:
    if "site-packages" in path.parts or "dist-packages" in path.parts:
        return True
    return any(map(path.is_relative_to, _installed_folders()))


@functools.cache
def _installed_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    return tuple({Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "scripts")})


def _notebook_cells() -> str | None:
    """Return the cells that IPython has run, as one Python text; None outside IPython."""
    cells = getattr(sys.modules.get("__main__"), "In", None)
    if not isinstance(cells, list) or "get_ipython" not in dir(sys.modules["__main__"]):
        return None
    return "\n\n".join(f"# In[{number}]\n{_without_magics(str(cell))}" for number, cell in enumerate(cells) if cell)


def _without_magics(cell: str) -> str:
    """Return a cell as Python: IPython's magics, and a cell that never ran because it is none, become comments."""
    magics = re.sub(r"^([ \t]*)([%!?].*)$", r"\1pass  # \2", cell, flags=re.MULTILINE)
    for text in (cell, magics):
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return text
    return "\n".join(f"# {line}" for line in cell.splitlines())


def capture_git(root: Path, gaps: list[Gap]) -> Git | None:
    """Return the state of the git work tree at `root`; None outside git."""
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        reason, remedy = "the code is not in a git repository with a commit", "commit it to one"
        if (root / ".git").exists():
            reason, remedy = "git did not name a commit (is it installed, and the repository yours?)", "try: git status"
        gaps.append(Gap(fact="code.git", reason=reason, remedy=remedy))
        return None
    branch = _git(root, "rev-parse", "--abbrev-ref", "HEAD")
    remote = _git(root, "remote", "get-url", "origin")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    if changes is None:
        gaps.append(Gap(fact="code.git.dirty", reason="git did not answer in time", remedy="try: git status"))
    return Git(
        remote=redact_text(remote) if remote else None,
        commit=commit,
        branch=branch if branch != "HEAD" else None,
        dirty=bool(changes) if changes is not None else None,
    )


def _git(root: Path, *arguments: str) -> str | None:
    try:
        # GIT_OPTIONAL_LOCKS=0: looking must not write to the user's index. A program that a git hook starts
        # inherits GIT_DIR and GIT_INDEX_FILE, which may mean another repository. And no daemon of git's.
        ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(  # noqa: S603
            ["git", "-c", "core.fsmonitor=false", "-C", str(root), *arguments],  # noqa: S607
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=False,
            env={**ours, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def _zip(sources: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for relpath, content in sorted(sources.items()):
            archive.writestr(zipfile.ZipInfo(relpath, _EPOCH), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
