"""Parts of messages: names and errors that may be of any length."""

from collections.abc import Sequence

MAX_NAMED = 10
"""The largest number of names in a message."""

_LONGEST_NAME = 100
"""The longest name in a message."""

_LONGEST = 600
"""The longest message of another error that is repeated in a message."""


def listed(names: Sequence[object]) -> str:
    """Return names, which may be any keys of a file, as a text that is not too long."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(shortened(str(name), _LONGEST_NAME) for name in names[:MAX_NAMED]) + more


def shortened(text: str, length: int) -> str:
    """Return a text, or its beginning if it is longer than allowed."""
    return text if len(text) <= length else f"{text[:length]} …"


def shown(error: BaseException) -> str:
    """Return another package's error as one line that is not too long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {shortened(text, _LONGEST)}".removesuffix(": ")
