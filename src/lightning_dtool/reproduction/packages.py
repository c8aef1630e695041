"""The recorded packages that may be installed from an untrusted list.

A stranger may have written the list. Only exact pins and full git commits are used; its options, files and indexes are
ignored.
"""

import re

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from lightning_dtool.record.requirements import read_requirements

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_VERSION = re.compile(r"[A-Za-z0-9.!+_-]+")
_GIT_URL = re.compile(
    r"git\+https://[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?/[A-Za-z0-9._~/+-]+@[0-9a-f]{40}(?:[0-9a-f]{24})?"
)
_LOCAL = re.compile(rf"# ({_NAME}) is installed (?:editable )?from (file:\S*)")
_CONDA = re.compile(r"/(?:croot|feedstock_root|build_artifacts|conda-bld)/")
"""Build folders that conda packages name as their origin. These packages are not local: an index has them."""


def installable_packages(text: str) -> tuple[dict[str, str], list[str]]:
    r"""Read the packages of a requirements.txt that a stranger wrote.

    Accepted are exact pins, `name==version`, and packages from git with a full commit hash,
    `name @ git+https://host/path@commit`. Everything else is refused: options, other URLs, files, extras, markers and
    ranges of versions.

    Args:
        text: The file's content.

    Returns:
        The versions by canonical name (for a package from git, its URL with the commit), in the file's order; and the
        refused lines, unchanged. Comments and empty lines are neither.

    Example:
        >>> installable_packages("torch==2.6.0+cpu\nleaf_net @ git+https://git.example.org/leaf@main\n-r x.txt\n")
        ({'torch': '2.6.0+cpu'}, ['leaf_net @ git+https://git.example.org/leaf@main', '-r x.txt'])
    """
    pins: dict[str, str] = {}
    refused: list[str] = []
    for line, requirement in read_requirements(text):
        pin = _pin(requirement) if requirement is not None and re.fullmatch(_NAME, requirement.name) else None
        if requirement is None or pin is None:
            refused.append(line)
        elif pins.setdefault(canonicalize_name(requirement.name), pin) != pin:
            refused.append(line)  # of two versions of one package, Python imports the first
    return pins, refused


def local_packages(text: str) -> dict[str, str]:
    r"""Return the packages that were installed from a folder on the recording machine, and exist only there.

    `capture.environment.requirements` writes such a folder in a comment.

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


def is_from_git(version: str) -> bool:
    """Return whether `installable_packages` gave a URL in place of a version."""
    return version.startswith("git+")


def _pin(requirement: Requirement) -> str | None:
    """Return the exact version or the URL of a requirement; None if it is anything but an accepted pin."""
    if requirement.extras or requirement.marker is not None:
        return None
    if requirement.url is not None:
        safe = _GIT_URL.fullmatch(requirement.url) and "/../" not in requirement.url
        return requirement.url if safe else None
    versions = [part.version for part in requirement.specifier if part.operator == "=="]
    if len(requirement.specifier) != 1 or not versions or not _VERSION.fullmatch(versions[0]):
        return None
    try:
        Version(versions[0])
    except InvalidVersion:
        return None
    return versions[0]
