"""The differences of a recorded environment from the present one, and a new environment with the recorded packages.

Installing and importing packages runs their code. Build an environment only from a record whose code you would run.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from packaging.version import Version

from lightning_dtool import _version
from lightning_dtool.capture.environment import capture_environment, requirements
from lightning_dtool.capture.randomness import capture_flags
from lightning_dtool.errors import ConfigurationError
from lightning_dtool.record import Environment, Gaps
from lightning_dtool.reproduction.installers import Done, Installer, check, find_installer, python_version, run
from lightning_dtool.reproduction.packages import installable_packages, is_from_git, local_packages
from lightning_dtool.results import differences
from lightning_dtool.results.differences import Difference

OWN_NAME = "lightning-dtool"

_LACKS = re.compile(r"no matching distribution found|there (?:is|are) no (?:version|wheel)|has no wheels")
"""Messages of pip and uv about a version that no index has."""

Report = Callable[[str], None]


def environment_differences(
    recorded_requirements: str | None,
    recorded: Environment,
    present_requirements: str | None = None,
    present: Environment | None = None,
    *,
    recorded_flags: Mapping[str, Any] | None = None,
    present_flags: Mapping[str, Any] | None = None,
) -> list[Difference]:
    """Return the differences between a recorded environment and the present one, or another observed one.

    Args:
        recorded_requirements: The recorded requirements.txt; None if there is none.
        recorded: The record's `environment`.
        present_requirements: The requirements.txt of the other environment. Default: that of this interpreter.
        present: The other environment. Default: that of this process.
        recorded_flags: The record's `randomness.flags`, among them the number of threads. Default: not compared.
        present_flags: The flags of the other environment. Default: those of this process.

    Returns:
        The differences in the order of a record: `before` is the recorded value, `after` the other one.
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


@dataclass(frozen=True)
class BuiltEnvironment:
    """A virtual environment with recorded packages. As a path-like object it is the path of its interpreter.

    Attributes:
        python: The path of its interpreter.
        folder: Its folder.
        tool: The tool that built it: `uv` or `pip`.
        skipped: The reason for each recorded package that it lacks, by name or line.
        replaced: Packages whose version differs from the recorded one, by name: `2.13.0+cpu -> 2.13.0`.
        conflicts: The lines of `pip check` on incompatible packages; empty if there are none.
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
    """Build a virtual environment with recorded packages and the running version of this package.

    It is built with `uv` if that is installed, else with `venv` and pip, and with the index and the credentials that
    the user has configured for them. The pins are installed without dependencies, because they are a complete list.

    A version with a local part (`2.13.0+cpu`) that no index has is replaced by its public version. Packages that were
    installed from a folder on the recording machine are left out: they are on that machine only, and an index may have
        another package of that name.

    Args:
        requirements: The recorded requirements.txt.
        folder: The folder of the new environment; it must be empty or not exist.
        python: The recorded version of Python; its major and minor version are used. Default: this interpreter's.
        report: Called with a line for each step, and for each package that is left out or replaced.

    Returns:
        The environment, and what it lacks.

    Raises:
        ConfigurationError: If the folder is not empty, or `python` is not a version.
        EnvironmentCreationError: If that Python is missing (`kind` is `"python"`), or if the packages cannot be
            installed (`kind` is `"packages"`). The message contains the last lines of the tool's output. The folder is
            removed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(
            "expected an empty folder or none for the environment. Choose another one.", path=folder
        )
    pins, skipped = _wanted(requirements)
    for name, why in skipped.items():
        report(f"left out: {name}: {why}")
    tool = find_installer()
    try:
        report(f"building an environment with {tool.name} in {folder}")
        interpreter = tool.create(folder, python_version(python))
        report(f"installing {len(pins)} packages")
        replaced = _install(tool, interpreter, pins, folder, report)
        own = own_requirement()
        report(f"installing {OWN_NAME} from {own[-1]}")
        check(tool.install(interpreter, own), f"{OWN_NAME} could not be installed from {own[-1]}", "packages", folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    checked = run(tool.check_command(interpreter))
    lines = [line for line in checked.output.splitlines() if line.strip()] if checked.code else []
    conflicts = tuple([line for line in lines if " requir" in line] or lines)
    for line in conflicts:
        report(f"incompatible packages: {line}")
    return BuiltEnvironment(interpreter, folder, tool.name, skipped, replaced, conflicts)


def own_requirement() -> list[str]:
    """Return the arguments with which pip installs this package from the origin of the running one.

    That is its work tree if it runs from one, else the origin that pip recorded, else its version.
    """
    tree = Path(_version.__file__).resolve().parents[2]
    if (tree / "pyproject.toml").is_file() and (tree / "src" / "lightning_dtool").is_dir():
        return ["--editable", str(tree)]
    try:
        distribution = metadata.distribution(OWN_NAME)
        origin = _origin(distribution.read_text("direct_url.json"))
    except metadata.PackageNotFoundError:
        origin = None
    return [origin or f"{OWN_NAME}=={_version.__version__}"]


def _origin(direct_url: str | None) -> str | None:
    """Return the folder, file or URL that pip recorded as a package's origin; None for a package from an index."""
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
    """Return the packages to install, and the reason for each that is left out."""
    pins, refused = installable_packages(text)
    skipped = {line[:200]: "not an exact pin, and so not safe to install" for line in refused}
    for name, url in local_packages(text).items():
        if pins.pop(name, None) is not None and name != OWN_NAME:
            skipped[name] = (
                f"it was installed from {url}, which is not available; if it is the project's own code, it is in "
                "source.zip"
            )
    own = pins.pop(OWN_NAME, None)
    if own is not None and own != _version.__version__:
        skipped[OWN_NAME] = f"the running version {_version.__version__} replaces {own}"
    return pins, skipped


def _install(
    tool: Installer, interpreter: Path, pins: Mapping[str, str], folder: Path, report: Report
) -> dict[str, str]:
    """Install pins. A local version that no index has is replaced by its public version; return these replacements."""
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
            if not is_from_git(version) and Version(version).local and f"{name}=={version}".lower() in output
        ]
        if not lacking or not _LACKS.search(output):
            check(done, "the recorded packages could not be installed", "packages", folder)
        for name in lacking:
            public = Version(wanted[name]).public
            replaced[name] = f"{wanted[name]} -> {public}"
            report(f"no index has {name}=={wanted[name]}: trying its public version {public}")
            wanted[name] = public


def _install_once(tool: Installer, interpreter: Path, pins: Mapping[str, str]) -> Done:
    # Local versions first, so that a missing one is found before much has been fetched.
    order = sorted(pins, key=lambda name: "+" not in pins[name] or is_from_git(pins[name]))
    lines = [f"{name} @ {pins[name]}" if is_from_git(pins[name]) else f"{name}=={pins[name]}" for name in order]
    if not lines:
        return Done(0, "")
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "requirements.txt"
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return tool.install(interpreter, ["-r", str(file)])
