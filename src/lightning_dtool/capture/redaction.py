"""No secret in a record: what looks like a credential is replaced before it is written."""

import re
from typing import Any

from lightning_dtool.record import Gap

REDACTED = "[redacted]"

_SECRET_NAME = re.compile(
    r"(^|[_\-.\s])(pass(word|wd|phrase)?|pwd|(client[_\-]?)?secret([_\-]?(access[_\-]?)?key)?|bearer|token|"
    r"api[_\-]?key|access[_\-]?key([_\-]?id)?|private[_\-]?key|credentials?|auth(orization)?)$",
    re.IGNORECASE,
)
_VOCABULARY = re.compile(
    r"(^|[_\-.])(pad|bos|eos|unk|sep|cls|mask|start|end|stop|special|image|class)[_\-]token$", re.I
)
"""Tokens of a language model, which nobody needs to hide."""

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")
_ASSIGNED = re.compile(
    r"(?P<name>\w*(?:passw(?:or)?d|passphrase|secret(?:_?key)?|token|api_?key|access_?key(?:_?id)?|signature))"
    r"(?P<sign>['\"]?\s*[=:]\s*['\"]?)(?P<value>[^'\"\s,;&)\]}]+)",
    re.IGNORECASE,
)
"""`password=…` inside a text: the query of a URL, a repr, a configuration."""

_SHAPES = re.compile(
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{20,}|\bhf_[A-Za-z0-9]{20,}"
    r"|\bsk-[\w-]{20,}|\bxox[abprs]-[\w-]{10,}|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*|(?i:(?<=\bbearer\s))[\w.~+/=-]{8,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)"
)
"""What well-known services' keys look like."""


def is_secret_name(name: str) -> bool:
    """Return True if something of this name is likely to be a credential.

    >>> is_secret_name("wandb_api_key"), is_secret_name("num_tokens")
    (True, False)
    """
    words = _CAMEL.sub("_", name).strip()
    return bool(_SECRET_NAME.search(words)) and not _VOCABULARY.search(words)


def redact_text(text: str) -> str:
    """Return a text without the credentials in it: in URLs, in assignments, and those that look like a known key.

    >>> redact_text("https://me:hunter2@git.example.org/lab/leaves.git")
    'https://[redacted]@git.example.org/lab/leaves.git'
    """
    text = _SHAPES.sub(REDACTED, _URL_CREDENTIALS.sub(f"{REDACTED}@", text))
    return _ASSIGNED.sub(_redact_assigned, text)


def _redact_assigned(match: "re.Match[str]") -> str:
    hidden = match["value"] if _VOCABULARY.search(match["name"]) else REDACTED
    return f"{match['name']}{match['sign']}{hidden}"


def redact_argv(argv: list[str]) -> list[str]:
    """Return command line arguments without the values of secret options.

    >>> redact_argv(["train.py", "--api-key=abc", "--token", "abc", "--lr", "0.1"])
    ['train.py', '--api-key=[redacted]', '--token', '[redacted]', '--lr', '0.1']
    """
    redacted: list[str] = []
    hide_next = False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        secret = is_secret_name(name)
        if hide_next and not argument.startswith("-"):
            redacted.append(REDACTED)
        elif secret and equals:
            redacted.append(f"{name}={REDACTED}")
        else:
            redacted.append(redact_text(argument))
        hide_next = secret and not equals and argument.startswith("-")
    return redacted


def redact_mapping(values: dict[str, Any], where: str, found: list[str]) -> dict[str, Any]:
    """Return a nested mapping with the values of secret names replaced.

    Args:
        values: Strict JSON.
        where: The mapping's place in the record.
        found: Receives the place of every value that was replaced.
    """
    return {key: _redact_value(key, value, f"{where}.{key}", found) for key, value in values.items()}


def redaction_gap(where: str) -> Gap:
    """Return the entry that says of a value that it was replaced."""
    return Gap(fact=where, reason="it looks like a credential and was redacted", remedy="read it from the environment")


def _redact_value(key: str, value: Any, where: str, found: list[str]) -> Any:
    if is_secret_name(key) and value not in (None, "") and not isinstance(value, bool):
        found.append(where)
        return REDACTED
    if isinstance(value, dict):
        return redact_mapping(value, where, found)
    if isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str) and is_secret_name(value[0]):  # a name and its value
            return [value[0], _redact_value(value[0], value[1], where, found)]
        return [_redact_value("", item, f"{where}[{index}]", found) for index, item in enumerate(value)]
    if not isinstance(value, str) or (redacted := redact_text(value)) == value:
        return value
    found.append(where)
    return redacted
