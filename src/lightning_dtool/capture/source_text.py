"""The source code of a class or a function for a record: bounded, and without credentials."""

import textwrap
from typing import Any

from lightning_dtool.record import Gaps, as_text
from lightning_dtool.redaction.source import redact_source
from lightning_dtool.values.definitions import source_of
from lightning_dtool.values.writing import MAX_TEXT


def recorded_source(obj: Any, gaps: Gaps) -> str | None:
    """Return an object's source code.

    Args:
        obj: A class, a function or a method.
        where: The source's place in the record; gaps name it.
        gaps: Receives a gap if something was left out.

    Returns:
        The source without the indentation of its place, or None where there is none; for that the caller adds a gap.
    """
    source = source_of(obj)
    if source is None:
        return None
    # What is indented is no Python by itself, and credentials are found best in what is.
    text, redacted = redact_source(as_text(textwrap.dedent(source)))
    if redacted:
        reason = f"what looks like a credential was redacted in {len(redacted)} of its lines"
        gaps.add(reason, "read it from the environment")
    if len(text) > MAX_TEXT:
        reason = f"of its {len(text)} characters the first {MAX_TEXT} are recorded"
        gaps.add(reason, "split it up")
    return text[:MAX_TEXT]
