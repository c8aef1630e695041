"""What ran? The entry script or the notebook's cells, the project's own modules, and the state of git."""

import hashlib
import io
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from lightning_dtool.capture.redaction import redact_argv, redact_text
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
    for name, path in _project_modules(root):
        relpath = path.relative_to(root).as_posix()
        try:
            sources[relpath] = path.read_bytes()
        except OSError as error:
            gaps.append(Gap(fact=f"code.files.{relpath}", reason=f"it could not be read: {error.strerror}", remedy=""))
            continue
        modules[name] = relpath
    cells = _notebook_cells()
    if cells is not None:
        sources[NOTEBOOK] = cells.encode()
        modules["__main__"] = NOTEBOOK
    if "__main__" not in modules:
        gaps.append(
            Gap(
                fact="code.entry_point",
                reason="the main program is no file of the project (an interactive prompt, or an installed command)",
                remedy="run a script, a notebook, or a module of the project",
            )
        )
    size = sum(map(len, sources.values()))
    if size > MAX_SOURCE_BYTES:
        entry = modules.get("__main__")
        gaps.append(
            Gap(
                fact="code.files",
                reason=f"the project's sources are {size} bytes; only the entry point is kept",
                remedy="keep data out of Python modules",
            )
        )
        sources = {relpath: content for relpath, content in sources.items() if relpath == entry}
        modules = {name: relpath for name, relpath in modules.items() if relpath in sources}
    code = Code(
        argv=redact_argv(list(sys.argv)),
        working_directory=str(Path.cwd()),
        entry_point=modules.get("__main__"),
        git=capture_git(root, gaps),
        files={relpath: hashlib.sha256(content).hexdigest() for relpath, content in sorted(sources.items())},
        modules=dict(sorted(modules.items())),
    )
    return code, _zip(sources)


def project_root() -> Path:
    """Return the folder whose code is the user's own: the git work tree of the main program, or its folder."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    start = Path(main).resolve().parent if main and not _is_installed(Path(main).resolve()) else Path.cwd()
    for folder in (start, *start.parents):
        if (folder / ".git").exists():
            return folder
    return start


def _project_modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the imported modules whose file lies inside the project, by name."""
    for name, module in list(sys.modules.items()):
        path = _source_file(module)
        # A module under two names (`__mp_main__` in a spawned worker) is the same file.
        if path is None or name.partition(".")[0] in ("lightning_dtool", "__mp_main__"):
            continue
        if path.is_relative_to(root) and not _is_installed(path) and path.is_file():
            yield name, path


def _source_file(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) and file.endswith(".py") else None


def _is_installed(path: Path) -> bool:
    if "site-packages" in path.parts or "dist-packages" in path.parts:
        return True
    paths = sysconfig.get_paths()
    return any(path.is_relative_to(Path(paths[key]).resolve()) for key in ("stdlib", "scripts"))


def _notebook_cells() -> str | None:
    """Return the cells that IPython has run, as one Python text; None outside IPython."""
    cells = getattr(sys.modules.get("__main__"), "In", None)
    if not isinstance(cells, list) or "get_ipython" not in dir(sys.modules["__main__"]):
        return None
    return "\n\n".join(f"# In[{number}]\n{_without_magics(str(cell))}" for number, cell in enumerate(cells) if cell)


def _without_magics(cell: str) -> str:
    """Turn IPython's magics into comments: they are no Python, but line numbers must stay right."""
    return re.sub(r"^(\s*)([%!?].*)$", r"\1pass  # \2", cell, flags=re.MULTILINE)


def capture_git(root: Path, gaps: list[Gap]) -> Git | None:
    """Return the state of the git work tree at `root`; None outside git."""
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        gaps.append(
            Gap(fact="code.git", reason="the code is not in a git repository with a commit", remedy="commit it to one")
        )
        return None
    branch = _git(root, "rev-parse", "--abbrev-ref", "HEAD")
    remote = _git(root, "remote", "get-url", "origin")
    return Git(
        remote=redact_text(remote) if remote else None,
        commit=commit,
        branch=branch if branch != "HEAD" else None,
        dirty=bool(_git(root, "status", "--porcelain", "--untracked-files=no")),
    )


def _git(root: Path, *arguments: str) -> str | None:
    try:
        # GIT_OPTIONAL_LOCKS=0: looking must not write to the user's index.
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(root), *arguments],  # noqa: S607
            capture_output=True,
            timeout=10,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
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
