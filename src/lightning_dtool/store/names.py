"""The rules for names of datasets, overlays, annotations, tags and items, and for values of metadata."""

import json
import re
from typing import Any

from lightning_dtool.errors import InvalidNameError, MetadataValueError

LONGEST_NAME = 80
"""The maximum number of characters that dtool allows in a name."""

_NAME = re.compile(rf"[0-9a-zA-Z_.-]{{1,{LONGEST_NAME}}}")
_FOREIGN = re.compile(r"[^0-9a-zA-Z_.-]")
_LARGEST_INTEGER = 2**63


def check_name(kind: str, name: object, *, dots: bool = True) -> str:
    r"""Return the name if every storage broker can use it.

    dtool's own check lets "x\n", "." and ".." slip through; a dot in the name of an annotation or an
    overlay makes a dataset on S3 unreadable.

    Args:
        kind: The kind of name, for the message: "dataset", "tag", …
        name: The name.
        dots: Whether a dot may occur in it. True by default.

    Returns:
        The name.

    Raises:
        InvalidNameError: If it is not 1 to 80 of these characters: letters, digits, `-`, `_` and (if allowed) `.`; or
            if it is `.` or `..`.
    """
    allowed = "letters, digits, '-', '_' and '.'" if dots else "letters, digits, '-' and '_' (no dots)"
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in {".", ".."} or (not dots and "." in name):
        raise InvalidNameError(f"invalid {kind} name {name!r}: expected 1 to {LONGEST_NAME} characters from {allowed}")
    return name


def fitting_name(stem: str, tail: str = "", *, longest: int = LONGEST_NAME) -> str:
    """Return a name that dtool allows.

    Args:
        stem: The beginning. Characters that dtool does not allow become "_", and what does not fit is cut off.
        tail: The end, which is kept whole, such as a number that makes the name unique.
        longest: How many characters the name may have. 80 by default, which is dtool's limit.

    Example:
        >>> fitting_name("my net", "-epoch3")
        'my_net-epoch3'
    """
    return _FOREIGN.sub("_", stem)[: longest - len(tail)] + tail


def relpath_fault(relpath: object) -> str | None:
    """Return why an item's relative path is not safe to use below a directory.

    Args:
        relpath: The path, from a manifest or a caller.

    Returns:
        The reason, or None if the path is safe.
    """
    if not isinstance(relpath, str):
        return "it is not a string"
    if not relpath:
        return "it is empty"
    if "\0" in relpath or "\\" in relpath:
        return "it contains a NUL character or a backslash"
    if relpath.startswith("/"):
        return "it is absolute"
    parts = relpath.split("/")
    if "" in parts:
        return "it has an empty part"
    if "." in parts or ".." in parts:
        return "it has a part '.' or '..'"
    try:
        relpath.encode("utf-8")
    except UnicodeEncodeError:
        return "it cannot be written in UTF-8"
    return None


def check_relpath(relpath: object) -> str:
    """Return the relative path of a new item if it is safe.

    Args:
        relpath: A Unix-like relative path, such as "leaves/oak.png".

    Returns:
        The path.

    Raises:
        InvalidNameError: If it is empty or absolute, has a part that is empty, `.` or `..`, contains a backslash or a
            NUL character, or cannot be written in UTF-8.
    """
    fault = relpath_fault(relpath)
    if fault is not None:
        raise InvalidNameError(
            f"invalid item path {relpath!r}: {fault}; use a relative path such as 'leaves/oak.png'",
            item=relpath if isinstance(relpath, str) else None,
        )
    return str(relpath)


def check_value(kind: str, name: str, value: Any) -> Any:
    """Return a value if it is strict JSON, which every reader and dserver understand.

    Args:
        kind: "annotation" or "overlay".
        name: The name of the annotation or overlay, for the message.
        value: The value.

    Returns:
        The value.

    Raises:
        MetadataValueError: For NaN and infinities, integers beyond 8 bytes, keys that are not strings, and
            everything else that JSON cannot represent.
    """
    fault = _value_fault(value)
    if fault is not None:
        raise MetadataValueError(f"{kind} {name!r} cannot hold {fault}; write it as a string or leave it out")
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise MetadataValueError(f"{kind} {name!r} is not strict JSON: {exc}; use plain values") from exc
    return value


def _value_fault(value: Any) -> str | None:
    """Return what in a value is not strict JSON although `json.dumps` accepts it."""
    pending = [value]
    seen: set[int] = set()
    while pending:
        part = pending.pop()
        if isinstance(part, (dict, list, tuple)):
            if id(part) in seen:
                continue
            seen.add(id(part))
        if isinstance(part, dict):
            strange = next((key for key in part if not isinstance(key, str)), None)
            if strange is not None or None in part:
                return f"the key {strange!r}, which is not a string"
            pending.extend(part.values())
        elif isinstance(part, (list, tuple)):
            pending.extend(part)
        elif isinstance(part, int) and not -_LARGEST_INTEGER <= part < _LARGEST_INTEGER:
            return f"the integer {str(part)[:30]}, which needs more than 8 bytes"
    return None
