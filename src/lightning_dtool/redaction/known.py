"""Credentials that were found under their names, which are replaced in all other places, too.

A script may read a key from a variable `H1` and pass it on as `api_key`: only one of the two names tells.
"""

import os
import re
from functools import cache

from lightning_dtool.redaction.names import REDACTED, is_secret, looks_random

_found: set[str] = set()
"""The values that were found in this process."""


def remember(value: object) -> None:
    """Remember a credential, if it is long and random enough to stand for nothing else."""
    if isinstance(value, str) and looks_random(value):
        _found.add(value)


def remember_difference(text: str, redacted: str) -> None:
    """Remember the credentials that were replaced in a text."""
    pieces = redacted.split(REDACTED)
    if len(pieces) <= 20 and (match := re.fullmatch("(.+?)".join(map(re.escape, pieces)), text, re.DOTALL)):
        for value in match.groups():
            remember(value.rpartition(":")[2] if "://" in text else value)


def number_known() -> int:
    """Return the number of credentials that are known."""
    return len(_found)


def hide_known(text: str) -> str:
    """Return a text with the known credentials replaced."""
    for value in _found | _of_environment():
        if value in text:
            text = text.replace(value, REDACTED)
    return text


@cache
def _of_environment() -> frozenset[str]:
    """Return the values of environment variables whose names mean a credential."""
    return frozenset(value for name, value in os.environ.items() if is_secret(name, value) and looks_random(value))
