"""Redaction of credentials in the values and texts of a record."""

import functools
import json
import textwrap
from collections.abc import Iterator
from typing import Any

from lightning_dtool.record import Epoch, Gaps, Metrics, Provenance, field_to_json
from lightning_dtool.redaction.known import hide_known, number_known, remember, remember_difference
from lightning_dtool.redaction.names import REDACTED, hints_at_secret, is_holder, is_secret, is_secret_name
from lightning_dtool.redaction.source import is_credential, is_suspicious, redact_certain, redact_source
from lightning_dtool.redaction.text import redact_argv, redact_text


def redact_mapping(values: dict[str, Any], gaps: Gaps) -> dict[str, Any]:
    """Return a nested mapping with its credentials replaced.

    Args:
        values: Strict JSON.
        gaps: Collector at the mapping's place in the record. Receives a gap for each value that is replaced.
    """
    return {key: redact_value(value, gaps.at(key), key) for key, value in values.items()}


def add_redaction(gaps: Gaps) -> None:
    """Add the gap for a redacted value.

    Args:
        gaps: Collector at the value's place in the record.
    """
    gaps.add("it looks like a credential and was redacted", "read it from the environment")


def redact_value(value: Any, gaps: Gaps, name: str = "") -> Any:
    """Return a value with its credentials replaced.

    Args:
        value: Strict JSON.
        gaps: Collector at the value's place in the record. Receives a gap for each part that is replaced.
        name: Name of the value. If it looks like the name of a credential, the whole value is replaced.
    """
    if is_secret(name, value) or (isinstance(value, dict | list) and value and _holds_secret(name, value)):
        add_redaction(gaps)
        for leaf in _leaves(value):
            remember(leaf)
        return REDACTED
    if isinstance(value, dict):
        return redact_mapping(value, gaps)
    if isinstance(value, list):
        return _redact_list(value, gaps, name)
    if not isinstance(value, str):
        return value
    # The value of `source` is code, such as that of a lambda.
    redacted = redact_source(value)[0] if name == "source" else redact_text(value)
    if redacted != value:
        add_redaction(gaps)
        remember_difference(value, redacted)
    return redacted


def _holds_secret(name: str, value: Any) -> bool:
    """Return True if a mapping or a list below a name is a credential, and not a list of numbers such as `tokens`."""
    return is_holder(name) or (is_secret_name(name) and any(is_secret(name, each) for each in _leaves(value)))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _leaves(each)
    else:
        yield value


def _redact_list(values: list[Any], gaps: Gaps, name: str) -> list[Any]:
    if len(values) == 2 and isinstance(values[0], str) and is_secret_name(values[0]):  # a name and its value
        return [values[0], redact_value(values[1], gaps, values[0])]
    # Each option of a list of arguments names the value after it.
    texts = [each if isinstance(each, str) else "" for each in values]
    as_arguments = redact_argv(texts) if any(text.startswith("-") for text in texts) else texts
    redacted = []
    for index, (value, text, argument) in enumerate(zip(values, texts, as_arguments, strict=True)):
        if argument != text:
            add_redaction(gaps.at(f"[{index}]"))
            remember_difference(text, argument)
            redacted.append(argument)
        else:
            redacted.append(redact_value(value, gaps.at(f"[{index}]"), name if hints_at_secret(name) else ""))
    return redacted


_PLAIN_SECTIONS = ("run", "checkpoint", "code", "lineage", "gaps")
"""Sections whose keys may be names of files or modules. There, a key such as `leaves.token` means no credential."""

_SEARCHED = tuple(
    name for name in Provenance.model_fields if name not in ("schema_version", "run", "checkpoint", "gaps")
)


class RecordRedactor:
    """Redacts the records of one run, each as the last step before it is written.

    Most of a record is the same at every checkpoint. What has been searched before is not searched again.
    """

    def __init__(self) -> None:
        self._clean: dict[str, tuple[str, int]] = {}
        self._clean_epochs: list[Epoch] = []

    def redact(self, record: Provenance) -> Provenance:
        """Return a record with the remaining credentials in its texts replaced.

        The sections `run` and `checkpoint` are not searched.

        Args:
            record: The record, after the redaction of its sections.

        Returns:
            The same record if it has no credentials, otherwise a copy with a gap for each place.
        """
        found = Gaps()
        redacted: dict[str, Any] = {}
        for name in _SEARCHED:
            if not self._is_clean(name, getattr(record, name)):
                content = json.loads(field_to_json(getattr(record, name)))
                redacted[name] = _redact_texts(content, found.at(name), name, "")
        gaps = [gap.model_copy(update={"reason": hide_known(_redact_reason(gap.reason))}) for gap in record.gaps]
        if not found and gaps == record.gaps:
            return record
        known = {gap.fact for gap in gaps}
        gaps += [gap for gap in found if gap.fact not in known]
        content = {**record.model_dump(mode="python"), **redacted, "gaps": [gap.model_dump() for gap in gaps]}
        return Provenance.model_validate(content)

    def _is_clean(self, name: str, section: Any) -> bool:
        """Return True if a section has no credentials, and remember it."""
        changed = section
        if isinstance(section, Metrics):
            # A long run has thousands of epochs, and only the last ones are new.
            changed = section.model_copy(update={"history": self._without_clean_epochs(section.history)})
        text = field_to_json(changed)
        if (text, number_known()) == self._clean.get(name):
            return True
        found = Gaps()
        _redact_texts(json.loads(text), found, name, "")
        if found:
            return False
        self._clean[name] = text, number_known()
        if isinstance(section, Metrics):
            self._clean_epochs = section.history
        return True

    def _without_clean_epochs(self, history: list[Epoch]) -> list[Epoch]:
        pairs = enumerate(zip(history, self._clean_epochs, strict=False))
        first = next((index for index, (epoch, clean) in pairs if epoch is not clean), None)
        return history[min(len(history), len(self._clean_epochs)) if first is None else first :]


# Cached, because most gaps are the same in every checkpoint of a run.
@functools.lru_cache(maxsize=1024)
def _redact_reason(reason: str) -> str:
    """Redact the reason of a gap: it may quote an error message, which may contain a credential."""
    return redact_text(reason)


def _redact_texts(value: Any, gaps: Gaps, section: str, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _redact_texts(item, gaps.at(key), section, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_redact_texts(item, gaps.at(f"[{index}]"), section, name) for index, item in enumerate(value)]
    if not isinstance(value, str) or value == REDACTED:
        return value
    if section not in _PLAIN_SECTIONS and is_credential(name, value):
        redacted = REDACTED
    elif "\n" in value:
        redacted = redact_source(textwrap.dedent(value))[0] if is_suspicious(value) else value
        if redacted == textwrap.dedent(value):
            redacted = value
    else:
        redacted = redact_certain(value)
    redacted = hide_known(redacted)
    if redacted != value:
        add_redaction(gaps)
    return redacted
