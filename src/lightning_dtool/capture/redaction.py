"""No secret in a record: what looks like a credential is replaced before it is written."""

import re
from typing import Any

REDACTED = "[redacted]"

_SECRET_NAME = re.compile(
    r"(^|[_\-.])(pass(word|wd|phrase)?|secret|token|api[_\-]?key|access[_\-]?key([_\-]?id)?|private[_\-]?key|credentials?|auth)$",
    re.IGNORECASE,
)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")


def is_secret_name(name: str) -> bool:
    """Return True if something of this name is likely to be a credential.

    >>> is_secret_name("wandb_api_key"), is_secret_name("num_tokens")
    (True, False)
    """
    return bool(_SECRET_NAME.search(name))


def redact_text(text: str) -> str:
    """Return a text without the credentials that URLs in it carry.

    >>> redact_text("https://me:hunter2@git.example.org/lab/leaves.git")
    'https://[redacted]@git.example.org/lab/leaves.git'
    """
    return _URL_CREDENTIALS.sub(f"{REDACTED}@", text)


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


def _redact_value(key: str, value: Any, where: str, found: list[str]) -> Any:
    if is_secret_name(key) and value not in (None, ""):
        found.append(where)
        return REDACTED
    if isinstance(value, dict):
        return redact_mapping(value, where, found)
    if isinstance(value, list):
        return [_redact_value("", item, f"{where}[{index}]", found) for index, item in enumerate(value)]
    return redact_text(value) if isinstance(value, str) else value
