"""Tools that make virtual environments and install packages: uv, or venv with pip."""

import os
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_dtool.errors import ConfigurationError, EnvironmentCreationError
from lightning_dtool.redaction.text import redact_text

MAX_LINES = 20
"""The number of lines, at the end of a tool's output, that an error shows."""

_PYTHON = re.compile(r"([0-9]+)\.([0-9]+)(?:\.[0-9A-Za-z.+]*)?")

_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__")
"""Variables that tie a child process to the environment that started it."""


@dataclass(frozen=True)
class Done:
    """The end of a command: its exit code and all its output."""

    code: int
    output: str


class Installer(ABC):
    """A tool that makes virtual environments and installs packages."""

    name: str

    @abstractmethod
    def create(self, folder: Path, version: str) -> Path:
        """Make an environment for a version of Python such as `3.11`, and return its interpreter."""

    @abstractmethod
    def install(self, interpreter: Path, arguments: Sequence[str]) -> Done:
        """Install packages without their dependencies."""

    @abstractmethod
    def check_command(self, interpreter: Path) -> list[str]:
        """Return the command that looks for incompatible packages."""


def find_installer() -> Installer:
    """Return uv if it is installed, else venv with pip."""
    uv = _find_uv()
    return _Uv(uv) if uv is not None else _Pip()


def _find_uv() -> str | None:
    """Return the path of uv, on the PATH or beside this interpreter; None if there is none."""
    return shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))


class _Uv(Installer):
    """The program uv."""

    name = "uv"

    def __init__(self, program: str) -> None:
        self._program = program

    def create(self, folder: Path, version: str) -> Path:
        # If this interpreter has another version, uv looks for one and fetches it if there is none.
        python = sys.executable if version == _here() else version
        done = run([self._program, "venv", "--python", python, str(folder)])
        check(done, f"an environment with Python {version} could not be made", "python", folder)
        return _interpreter(folder)

    def install(self, interpreter: Path, arguments: Sequence[str]) -> Done:
        return run([self._program, "pip", "install", "--python", str(interpreter), "--no-deps", *arguments])

    def check_command(self, interpreter: Path) -> list[str]:
        return [self._program, "pip", "check", "--python", str(interpreter)]


class _Pip(Installer):
    """The modules venv and pip."""

    name = "pip"

    def create(self, folder: Path, version: str) -> Path:
        done = run([_find_python(version), "-I", "-m", "venv", str(folder)])
        check(done, f"an environment with Python {version} could not be made", "python", folder)
        return _interpreter(folder)

    def install(self, interpreter: Path, arguments: Sequence[str]) -> Done:
        return run([str(interpreter), "-I", "-m", "pip", "install", "--no-input", "--no-deps", *arguments])

    def check_command(self, interpreter: Path) -> list[str]:
        return [str(interpreter), "-I", "-m", "pip", "check"]


def _here() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def python_version(recorded: str | None) -> str:
    """Return the major and minor version of a recorded Python, or of this one.

    Raises:
        ConfigurationError: If it is not a version: other text must not reach a command line.
    """
    if recorded is None:
        return _here()
    match = _PYTHON.fullmatch(recorded)
    if match is None:
        raise ConfigurationError(f"python: expected a version such as '3.11.7', found {recorded[:80]!r}.")
    return f"{int(match[1])}.{int(match[2])}"


def _find_python(version: str) -> str:
    """Return a working interpreter of a Python version. Not every file with the right name runs."""
    if version == _here():
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is not None:
        program = "import sys; print('.'.join(map(str, sys.version_info[:2])))"
        done = run([found, "-I", "-c", program])
        if done.code == 0 and done.output.strip() == version:
            return found
        why = f"{found} exists but does not run: {' '.join(done.output.split())[:300]}"
    else:
        why = f"there is no python{version} on the PATH"
    raise EnvironmentCreationError(
        f"expected the recorded Python {version}, found {_here()}: {why}. Install Python {version}; or install uv, "
        "which fetches it (pip install uv); or run without --env create.",
        kind="python",
    )


def _interpreter(folder: Path) -> Path:
    # Not resolved: the link's target is an interpreter outside the environment.
    scripts = folder.absolute() / ("Scripts" if os.name == "nt" else "bin")
    return scripts / ("python.exe" if os.name == "nt" else "python")


def run(command: Sequence[str]) -> Done:
    """Run a command and return its exit code and output."""
    variables = {name: value for name, value in os.environ.items() if name not in _INHERITED}
    try:
        done = subprocess.run(  # noqa: S603 - every argument is fixed or was checked
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=variables,
            check=False,
        )
    except OSError as error:
        return Done(127, f"{command[0]}: {error}")
    return Done(done.returncode, done.stdout.decode(errors="replace"))


def check(done: Done, failed: str, kind: str, folder: Path) -> None:
    """Raise an error if a command failed, with the last lines of its output, without credentials.

    Args:
        done: The end of the command.
        failed: What it failed to do.
        kind: The `kind` of the error.
        folder: The environment's folder.
    """
    if done.code:
        lines = [line.rstrip() for line in redact_text(done.output).splitlines() if line.strip()]
        shown = "".join(f"\n  {line}" for line in lines[-MAX_LINES:])
        raise EnvironmentCreationError(
            f"{failed} (exit code {done.code}). Check that an index that pip or uv is configured for has them, for "
            f"this machine and this Python; or run without --env create. The last lines of the output:{shown}",
            path=folder,
            kind=kind,
        )
