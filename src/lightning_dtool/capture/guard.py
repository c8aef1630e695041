"""Whatever fails while a fact is observed becomes a gap: not a lost record, and never a lost training run."""

from collections.abc import Callable
from typing import TypeVar

from lightning_dtool.record import Gap
from lightning_dtool.values.definitions import as_text

T = TypeVar("T")


def known(fact: str, gaps: list[Gap], observe: Callable[[], T], otherwise: T) -> T:
    """Return what a function observes, or something else and a gap if it fails.

    Args:
        fact: What is observed, as a path into the record.
        gaps: Receives the entry.
        observe: The function.
        otherwise: What stands in the record if it fails.

    Example:
        >>> gaps = []
        >>> known("model.parameters_total", gaps, lambda: 1 // 0, None), gaps[0].reason
        (None, 'it could not be observed: ZeroDivisionError: integer division or modulo by zero')
    """
    try:
        return observe()
    except Exception as error:  # the user's objects are asked, and may answer with anything
        reason = as_text(f"it could not be observed: {type(error).__name__}: {error}")[:500]
        gaps.append(Gap(fact=fact, reason=reason, remedy=""))
        return otherwise
