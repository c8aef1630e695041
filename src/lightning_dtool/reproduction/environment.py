"""The packages that a training ran with: how they differ from those that are here, and how to have them again.

The list of packages was written by a stranger. Of it only exact pins are used, and each line that a tool gets to see
is written here: no option, no file and no index of somebody else's choice is passed on. That packages run code when
they are installed and imported cannot be changed: who builds an environment trusts the record as far as they would
trust its code.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

import lightning_dtool
from lightning_dtool.capture.environment import capture_environment, requirements
from lightning_dtool.capture.randomness import capture_flags
from lightning_dtool.errors import ConfigurationError, EnvironmentCreationError
from lightning_dtool.record import Environment, Gaps
from lightning_dtool.redaction.text import redact_text
from lightning_dtool.results import differences
from lightning_dtool.results.differences import Difference

OWN_NAME = "lightning-dtool"

MAX_LINES = 20
"""Lines of a tool's output that an error shows: the last ones say what went wrong."""

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_PIN = re.compile(rf"({_NAME}) ?== ?([A-Za-z0-9.!+_-]+)")
_FROM_GIT = re.compile(
    rf"({_NAME}) ?@ ?(git\+https://[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?/[A-Za-z0-9._~/+-]+@[0-9a-f]{{40}}(?:[0-9a-f]{{24}})?)"
)
_LOCAL = re.compile(rf"# ({_NAME}) is installed (?:editable )?from (file:\S*)")
_CONDA = re.compile(r"/(?:croot|feedstock_root|build_artifacts|conda-bld)/")
"""Where conda's packages say that they come from: the builder's folder, but an index has them as well."""

_PYTHON = re.compile(r"([0-9]+)\.([0-9]+)(?:\.[0-9A-Za-z.+]*)?")

_LACKS = re.compile(r"no matching distribution found|there (?:is|are) no (?:version|wheel)|has no wheels")
"""What pip and uv say where an index lacks a version."""

_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__")
"""What ties a child process to the environment that started it."""

Report = Callable[[str], None]


# -- reading --------------------------------------------------------------------------------------


def parse_requirements(text: str) -> tuple[dict[str, str], list[str]]:
    r"""Read the packages of a requirements.txt that a stranger wrote.

    Understood are exact pins, `name==version`, and packages from git with a whole commit,
    `name @ git+https://host/path@commit`. Nothing else is: no option, no other URL, no file, no marker, no range.

    Args:
        text: The file's content.

    Returns:
        The versions by canonical name (for a package from git its URL with the commit), in the file's order; and the
        lines that are refused, as they stand, so that they can be shown. Comments and empty lines are neither.

    Example:
        >>> parse_requirements("torch==2.6.0+cpu\nleaf_net @ git+https://git.example.org/leaf@main\n-r x.txt\n")
        ({'torch': '2.6.0+cpu'}, ['leaf_net @ git+https://git.example.org/leaf@main', '-r x.txt'])
    """
    pins: dict[str, str] = {}
    refused: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith("#"):
            continue
        found = _PIN.fullmatch(line)
        from_git = None if found else _FROM_GIT.fullmatch(line)
        match = found or from_git
        if match is None or (found and not _is_version(found[2])) or (from_git and "/../" in from_git[2]):
            refused.append(line)
            continue
        name: str = canonicalize_name(match[1])
        if pins.setdefault(name, match[2]) != match[2]:
            refused.append(line)  # two versions of one package: the first is the one that Python imports
    return pins, refused


def local_packages(text: str) -> dict[str, str]:
    r"""Return the packages that were installed from a folder of the recorder's machine, which nobody else has.

    `capture.environment.requirements` says so in a comment.

    Args:
        text: The content of requirements.txt.

    Returns:
        The folder's URL by canonical name.

    Example:
        >>> local_packages("leaf-net==0.1\n# leaf-net is installed editable from file:///home/ada/leaf-net\n")
        {'leaf-net': 'file:///home/ada/leaf-net'}
    """
    matches = (_LOCAL.fullmatch(line.strip()) for line in text.splitlines())
    return {canonicalize_name(match[1]): match[2] for match in matches if match and not _CONDA.search(match[2])}


def environment_differences(
    recorded_requirements: str | None,
    recorded: Environment,
    present_requirements: str | None = None,
    present: Environment | None = None,
    *,
    recorded_flags: Mapping[str, Any] | None = None,
    present_flags: Mapping[str, Any] | None = None,
) -> list[Difference]:
    """Return what differs between a recorded environment and this one, or another one that was observed.

    Args:
        recorded_requirements: The recorded requirements.txt; None if there is none.
        recorded: The record's `environment`.
        present_requirements: Those of another environment. Default: this interpreter's.
        present: Another environment. Default: this process's.
        recorded_flags: The record's `randomness.flags`, among them the number of threads. Default: not compared.
        present_flags: Those of another environment. Default: this process's.

    Returns:
        The differences, the recorded one first, in the order of a record; with their weights.
    """
    if recorded_requirements is not None and present_requirements is None:
        present_requirements = requirements()
    found: list[Difference] = []
    if recorded_flags is not None:
        found += differences.flag_differences(
            recorded_flags, capture_flags(Gaps()) if present_flags is None else present_flags
        )
    return found + differences.environment_differences(
        recorded,
        capture_environment(Gaps()) if present is None else present,
        recorded_requirements,
        present_requirements,
    )


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


# -- building -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BuiltEnvironment:
    """A virtual environment with the packages of a record. It can be used as the path of its interpreter.

    Attributes:
        python: Its interpreter.
        folder: Where it is.
        tool: What built it: `uv` or `pip`.
        skipped: Packages of the record that it lacks, by name or line, and why.
        replaced: Packages in another version than the recorded one, by name: `2.13.0+cpu -> 2.13.0`.
        conflicts: What `pip check` says of packages that do not fit each other; empty if they do.
    """

    python: Path
    folder: Path
    tool: str
    skipped: Mapping[str, str]
    replaced: Mapping[str, str]
    conflicts: tuple[str, ...]

    def __fspath__(self) -> str:
        """Return the interpreter's path."""
        return str(self.python)


def create_environment(
    requirements: str, folder: Path, python: str | None = None, report: Report = lambda line: None
) -> BuiltEnvironment:
    """Build a virtual environment with recorded packages, and this package as it runs here.

    With `uv` where it is installed, else with `venv` and pip; index and credentials are those that the user has set
    up for them. The pins are installed without dependencies: they are a complete list, and nothing may change them.

    A version with a local part (`2.13.0+cpu`) that no index has is replaced by its public version. Packages that the
    recorder had installed from a folder are left out: nobody else has them, and an index may have something else
    under their name.

    Args:
        requirements: The recorded requirements.txt.
        folder: Where to build it; must not exist, or be empty.
        python: The recorded version of Python, of which major and minor have to be had. Default: this interpreter's.
        report: Called with a line for whatever is being done, left out or replaced.

    Returns:
        The environment, with what it lacks.

    Raises:
        ConfigurationError: If the folder holds something, or `python` is no version.
        EnvironmentCreationError: If that Python is not there, or the packages cannot be installed; the message has
            the last lines of the tool's output. The folder is removed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(
            "expected an empty folder for the environment, or none. Name another one.", path=folder
        )
    pins, skipped = _wanted(requirements)
    for name, why in skipped.items():
        report(f"left out: {name}: {why}")
    uv = _find_uv()
    tool: _Tool = _Uv(uv) if uv is not None else _Pip()
    try:
        report(f"building an environment with {tool.name} in {folder}")
        interpreter = tool.create(folder, _wanted_python(python))
        report(f"installing {len(pins)} packages")
        replaced = _install(tool, interpreter, pins, report)
        own = own_requirement()
        report(f"installing {OWN_NAME} from {own[-1]}")
        _checked(tool.install(interpreter, own), f"{OWN_NAME} could not be installed from {own[-1]}")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    check = _run(tool.check(interpreter))
    lines = [line for line in check.output.splitlines() if line.strip()] if check.code else []
    conflicts = tuple([line for line in lines if " requir" in line] or lines)
    for line in conflicts:
        report(f"packages that do not fit each other: {line}")
    return BuiltEnvironment(interpreter, folder, tool.name, skipped, replaced, conflicts)


def own_requirement() -> list[str]:
    """Return the arguments by which pip installs this package from where the running one comes from.

    Its work tree, if it runs from one; else what it was installed from, as pip noted it; else its version.
    """
    tree = Path(lightning_dtool.__file__).resolve().parents[2]
    if (tree / "pyproject.toml").is_file() and (tree / "src" / "lightning_dtool").is_dir():
        return ["--editable", str(tree)]
    try:
        distribution = metadata.distribution(OWN_NAME)
        # As `capture.environment.requirements` does, but for this one package.
        origin = _origin(distribution.read_text("direct_url.json"))
    except metadata.PackageNotFoundError:
        origin = None
    return [origin or f"{OWN_NAME}=={lightning_dtool.__version__}"]


def _origin(direct_url: str | None) -> str | None:
    """Return what pip was given, from what it noted: a folder, a file or a URL; None for a package from an index."""
    try:
        noted = json.loads(direct_url or "")
        url, vcs = str(noted["url"]), noted.get("vcs_info")
        if vcs:
            return f"{OWN_NAME} @ {vcs['vcs']}+{url}@{vcs['commit_id']}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not url.startswith("file:"):
        return f"{OWN_NAME} @ {url}"
    path = url2pathname(unquote(urlsplit(url).path))
    return path if os.path.exists(path) else None


def _wanted(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return what is to be installed, and what is not and why."""
    pins, refused = parse_requirements(text)
    skipped = {line[:200]: "not an exact pin that can be used without trusting it" for line in refused}
    for name, url in local_packages(text).items():
        if pins.pop(name, None) is not None and name != OWN_NAME:
            skipped[name] = (
                f"it was installed from {url}, which is not here; if it is the project's own code, source.zip has it"
            )
    own = pins.pop(OWN_NAME, None)
    if own is not None and own != lightning_dtool.__version__:
        skipped[OWN_NAME] = f"the running version, {lightning_dtool.__version__}, takes the place of {own}"
    return pins, skipped


def _install(tool: "_Tool", interpreter: Path, pins: Mapping[str, str], report: Report) -> dict[str, str]:
    """Install pins, and where no index has a local version the public one; return what was replaced."""
    wanted = dict(pins)
    replaced: dict[str, str] = {}
    while True:
        done = _install_once(tool, interpreter, wanted)
        if done.code == 0:
            return replaced
        output = done.output.lower()
        lacking = [
            name
            for name, version in wanted.items()
            if not _from_git(version) and Version(version).local and f"{name}=={version}".lower() in output
        ]
        if not lacking or not _LACKS.search(output):
            _checked(done, "the recorded packages could not be installed")
        for name in lacking:
            public = Version(wanted[name]).public
            replaced[name] = f"{wanted[name]} -> {public}"
            report(f"no index has {name}=={wanted[name]}: its public version {public} is tried")
            wanted[name] = public


def _install_once(tool: "_Tool", interpreter: Path, pins: Mapping[str, str]) -> "_Done":
    # Local versions first: that an index lacks one is then known before much has been fetched.
    order = sorted(pins, key=lambda name: "+" not in pins[name] or _from_git(pins[name]))
    lines = [f"{name} @ {pins[name]}" if _from_git(pins[name]) else f"{name}=={pins[name]}" for name in order]
    if not lines:
        return _Done(0, "")
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "requirements.txt"
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return tool.install(interpreter, ["-r", str(file)])


def _from_git(version: str) -> bool:
    return version.startswith("git+")


# -- tools ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Done:
    code: int
    output: str


class _Tool(ABC):
    """What makes environments and installs packages."""

    name: str

    @abstractmethod
    def create(self, folder: Path, version: str) -> Path:
        """Make an environment for a version of Python (`3.11`); return its interpreter."""

    @abstractmethod
    def install(self, interpreter: Path, arguments: Sequence[str]) -> _Done:
        """Install without dependencies."""

    @abstractmethod
    def check(self, interpreter: Path) -> list[str]:
        """Return the command that looks for packages that do not fit each other."""


def _find_uv() -> str | None:
    """Return the program uv; beside this interpreter, it is on no path while its environment is not activated."""
    return shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))


class _Uv(_Tool):
    name = "uv"

    def __init__(self, program: str) -> None:
        self._program = program

    def create(self, folder: Path, version: str) -> Path:
        # This very interpreter where it fits; else uv looks for one, and fetches it if there is none.
        python = sys.executable if version == _here() else version
        done = _run([self._program, "venv", "--python", python, str(folder)])
        _checked(done, f"an environment with Python {version} could not be made")
        return _interpreter(folder)

    def install(self, interpreter: Path, arguments: Sequence[str]) -> _Done:
        return _run([self._program, "pip", "install", "--python", str(interpreter), "--no-deps", *arguments])

    def check(self, interpreter: Path) -> list[str]:
        return [self._program, "pip", "check", "--python", str(interpreter)]


class _Pip(_Tool):
    name = "pip"

    def create(self, folder: Path, version: str) -> Path:
        done = _run([_find_python(version), "-I", "-m", "venv", str(folder)])
        _checked(done, f"an environment with Python {version} could not be made")
        return _interpreter(folder)

    def install(self, interpreter: Path, arguments: Sequence[str]) -> _Done:
        return _run([str(interpreter), "-I", "-m", "pip", "install", "--no-input", "--no-deps", *arguments])

    def check(self, interpreter: Path) -> list[str]:
        return [str(interpreter), "-I", "-m", "pip", "check"]


def _here() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _wanted_python(recorded: str | None) -> str:
    """Return major and minor of a recorded version; what is no version must not reach a command line."""
    if recorded is None:
        return _here()
    match = _PYTHON.fullmatch(recorded)
    if match is None:
        raise ConfigurationError(f"python: expected a version such as '3.11.7', found {recorded[:80]!r}.")
    return f"{int(match[1])}.{int(match[2])}"


def _find_python(version: str) -> str:
    """Return an interpreter of a version that runs: not every file of the right name does."""
    if version == _here():
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is not None:
        program = "import sys; print('.'.join(map(str, sys.version_info[:2])))"
        done = _run([found, "-I", "-c", program])
        if done.code == 0 and done.output.strip() == version:
            return found
        why = f"{found} is there, and does not run: {' '.join(done.output.split())[:300]}"
    else:
        why = f"there is no python{version} on the PATH"
    raise EnvironmentCreationError(
        f"expected Python {version}, which was recorded, found {_here()}: {why}. Install Python {version}, or install "
        "uv, which fetches it by itself (pip install uv); or do without an environment of its own."
    )


def _interpreter(folder: Path) -> Path:
    # Absolute, and not resolved: behind its link the interpreter does not know of the environment.
    scripts = folder.absolute() / ("Scripts" if os.name == "nt" else "bin")
    return scripts / ("python.exe" if os.name == "nt" else "python")


def _run(command: Sequence[str]) -> _Done:
    """Run a tool and return all that it says."""
    variables = {name: value for name, value in os.environ.items() if name not in _INHERITED}
    try:
        done = subprocess.run(  # noqa: S603 - every argument is ours or was checked
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=variables,
            check=False,
        )
    except OSError as error:
        return _Done(127, f"{command[0]}: {error}")
    return _Done(done.returncode, done.stdout.decode(errors="replace"))


def _checked(done: _Done, what: str) -> None:
    """Raise if a tool failed, with the last lines of what it said and without the credentials in them."""
    if done.code:
        lines = [line.rstrip() for line in redact_text(done.output).splitlines() if line.strip()]
        shown = "".join(f"\n  {line}" for line in lines[-MAX_LINES:])
        raise EnvironmentCreationError(
            f"{what} (exit code {done.code}). Look whether an index that pip or uv knows has them, for this machine "
            f"and this Python; or do without an environment of its own. The last lines of its output:{shown}"
        )
