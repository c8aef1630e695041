"""The differences between two texts, and between the source files of two runs, as unified diffs."""

import difflib
from collections.abc import Mapping

from lightning_dtool.results.differences.difference import Difference, Kind

MAX_LINES = 5000
"""The largest number of lines of a text that is compared line by line."""


def source_differences(a: Mapping[str, bytes], b: Mapping[str, bytes]) -> list[Difference]:
    """Return the files that differ, each with its patch.

    Args:
        a: The files of the first run, by path.
        b: The files of the second run, by path.
    """
    found = []
    for path in sorted({*a, *b}):
        one, two = a.get(path), b.get(path)
        if one == two:
            continue
        kind: Kind = "added" if one is None else "removed" if two is None else "changed"
        found.append(_file_difference(path, kind, one or b"", two or b""))
    return found


def patch(name: str, a: str, b: str) -> str:
    """Return the change of a text as a unified diff, or a remark if it is too long. Empty if the texts are equal.

    Args:
        name: The name of the text, for the header of the diff.
        a: The first text.
        b: The second text.
    """
    one, two = a.splitlines(), b.splitlines()
    if max(len(one), len(two)) > MAX_LINES:
        return f"{len(one)} lines -> {len(two)} lines, too long to compare line by line"
    lines = difflib.unified_diff(one, two, f"a/{name}", f"b/{name}", lineterm="")
    return "\n".join(lines) or ("only line endings differ" if a != b else "")


def _file_difference(path: str, kind: Kind, a: bytes, b: bytes) -> Difference:
    place = f"code.files[{path}]"
    sizes = (None if kind == "added" else f"{len(a)} bytes", None if kind == "removed" else f"{len(b)} bytes")
    texts = [_text(content) for content in (a, b)]
    if texts[0] is None or texts[1] is None:
        return Difference(place, kind, *sizes, "not text")
    return Difference(place, kind, *sizes, patch=patch(path, texts[0], texts[1]))


def _text(content: bytes) -> str | None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
