"""Source code of classes and functions for a record, with bounded length and credentials replaced."""

from typing import Any

from lightning_dtool.record import Gaps, as_text
from lightning_dtool.redaction.source import redact_source
from lightning_dtool.values.definitions import source_of
from lightning_dtool.values.writing import MAX_TEXT


def recorded_source(obj: Any, gaps: Gaps) -> str | None:
    """Return an object's source code.

    Args:
        obj: A class, a function or a method.
        gaps: Collector at the place of the source in the record. Receives a gap if the source is redacted or cut.

    Returns:
        The source without common indentation. None if it is not available, for which the caller adds a gap.
    """
    source = source_of(obj)
    if source is None:
        return None
    text, redacted = redact_source(as_text(source))
    if redacted:
        reason = f"what looks like a credential was redacted in {len(redacted)} of its lines"
        gaps.add(reason, "read it from the environment")
    if len(text) > MAX_TEXT:
        reason = f"only the first {MAX_TEXT} of its {len(text)} characters are recorded"
        gaps.add(reason, "split it up")
    return text[:MAX_TEXT]
