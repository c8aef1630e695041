"""A parser for a recorded requirements.txt."""

from collections.abc import Iterator

from packaging.requirements import InvalidRequirement, Requirement


def read_requirements(text: str) -> Iterator[tuple[str, Requirement | None]]:
    r"""Yield the lines of a requirements.txt without comments and empty lines.

    Args:
        text: The file's content.

    Yields:
        The unchanged line, and the requirement parsed from it. None if the line is not a requirement but, for example,
        an option. A version that PEP 440 does not allow (`==2024-custom`) is read as `===2024-custom`.

    Example:
        >>> [(line, parsed and parsed.name) for line, parsed in read_requirements("# pinned\nsix==1.16.0\n-e .\n")]
        [('six==1.16.0', 'six'), ('-e .', None)]
    """
    for line in map(str.strip, text.splitlines()):
        if line and not line.startswith("#"):
            yield line, _parsed(line) or _parsed(line.replace("==", "===", 1))


def _parsed(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None
