"""The differences between two lists of packages."""

import re

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lightning_dtool.record.requirements import read_requirements
from lightning_dtool.results.differences.difference import Difference
from lightning_dtool.results.differences.walk import join, walk

_EGG = re.compile(r"#(?:.*&)?egg=([A-Za-z0-9][A-Za-z0-9._-]*)")


def requirement_differences(a: str, b: str) -> list[Difference]:
    """Return the packages that were added, removed or changed.

    Args:
        a: The content of the first requirements.txt.
        b: The content of the second requirements.txt.
    """
    return list(walk("environment.packages", _packages(a), _packages(b)))


def _packages(requirements: str) -> dict[str, str]:
    """Return versions or URLs by canonical name. The key of a line without a package name is the line itself."""
    found: dict[str, str] = {}
    for line, requirement in read_requirements(requirements):
        egg = _EGG.search(line)
        if requirement is not None:
            found[canonicalize_name(requirement.name)] = _version(line, requirement)
        elif egg:
            found[canonicalize_name(egg[1])] = line
        else:
            found[line] = line
    return found


def _version(line: str, requirement: Requirement) -> str:
    if requirement.marker is not None:
        return line
    if requirement.url is not None:
        return f"@ {requirement.url}"
    pins = [part.version for part in requirement.specifier if part.operator in ("==", "===")]
    return pins[0] if len(pins) == len(requirement.specifier) == 1 else line


def canonical_version(path: str) -> str:
    """Return the path of a version with the canonical name of its package; any other path unchanged."""
    found = re.fullmatch(r"environment\.versions(?:\.|\[)(.+?)\]?", path)
    return join("environment.versions", canonicalize_name(found[1])) if found else path
