"""Redaction of credentials in any text, line by line.

A credential is recognised by the *name* of a value (`names`), by the *shape* of a text (`shapes`), or by its *place*
(`places`, and assignments and options here). Detection uses neither the network nor word lists.
"""

import re

from lightning_dtool.redaction.names import (
    PLACEHOLDER,
    REDACTED,
    hints_at_secret,
    is_holder,
    is_secret,
    is_secret_name,
    looks_generated,
    looks_random,
)
from lightning_dtool.redaction.places import hide_places
from lightning_dtool.redaction.shapes import hide_shapes

_HINT = re.compile(
    r"pass|pwd|pw|kennwort|contrase|secret|token|key|auth|cred|pin|puk|sig|cookie|salt|dsn|bearer|basic|login|curl|wget|mysql|maria|"
    r"http|://|webhook|connection|session|licen|sas|otp|mnemonic|seed|redis|mongo|docker|podman|helm|twine|"
    r"7z|openssl|net use|cvv|nonce|az |oc |code=|policy="
)
"""Matches each line in lower case in which a name or a place may mean a credential."""

_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")

_ASSIGNED = re.compile(
    r"(?P<name>(?<![\w.-])[\w.-]*\w)(?P<sign>\\?[\"']?\s*\]?\s*(?::=|=>|={1,2}|:)\s*)"
    r"(?:(?P<quote>\\?[\"'])(?P<quoted>[^\"'\\\n]*)(?P=quote)|(?P<plain>[^'\"\s,;&)\]}]+))"
)
"""Assignments such as `password=…` inside a text: in the query of a URL, a repr or a configuration."""

_OPTION = re.compile(r"(?P<name>(?<!\S)--?[A-Za-z][\w.-]*)(?P<sign>[ \t]+)(?P<quote>[\"']?)(?P<value>[^\s\"']+)")

_BY_WORDS = re.compile(r"(?P<before>\b(?:ENV|ARG|setx|setenv|set -\w+)\s+(?P<name>\w+)\s+[\"']?)(?P<value>[^\s\"'=]+)")
"""Assignments without a sign: in a Dockerfile, in csh and fish, and on Windows."""

_OPENED = re.compile(
    r"(?P<sign>[+\- ]?)(?P<indent>[ \t]*)(?:- )?[\"']?(?P<name>[\w.-]+)[\"']?[ \t]*[:=][ \t]*"
    r"(?P<block>[|>][+-]?\d?|[{(\[\\])?[ \t]*\r?"
)
"""A key of YAML or JSON whose value begins on the next line."""

_ENTRY = re.compile(
    r"(?P<before>[ \t]*(?:- )?(?:[\"']?[\w .-]+[\"']?[ \t]*[:=][ \t]*)?)(?P<value>\S[^\n]*?)(?P<end>[,;]?\r?)"
)


def redact_text(text: str) -> str:
    """Return a text with its credentials replaced: by name, by shape and by place.

    >>> redact_text("https://me:hunter2@git.example.org/lab/leaves.git")
    'https://[redacted]@git.example.org/lab/leaves.git'
    """
    text = hide_shapes(_URL_CREDENTIALS.sub(f"{REDACTED}@", text) if "://" in text else text)
    if not _HINT.search(text.lower()):
        return text
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if _HINT.search(line.lower()):
            lines[number] = _redact_line(line)
            opened = _OPENED.fullmatch(line) if number + 1 < len(lines) else None
            if opened and (is_secret_name(opened["name"]) or is_holder(opened["name"])):
                _redact_below(lines, number + 1, opened)
    return "\n".join(lines)


def _redact_line(line: str) -> str:
    line = _ASSIGNED.sub(_redact_assigned, line)
    line = _OPTION.sub(_redact_option, line)
    line = _BY_WORDS.sub(_redact_by_words, line)
    return hide_places(line)


def _redact_below(lines: list[str], start: int, opened: "re.Match[str]") -> None:
    """Redact the value of a key, or everything that a key such as `secrets` holds, in the lines that are indented."""
    first = True
    for number in range(start, min(start + 200, len(lines))):
        line = lines[number]
        sign = line[: len(opened["sign"])]
        body = line[len(opened["sign"]) :]
        indent = len(body) - len(body.lstrip(" \t"))
        if body.strip() and indent <= len(opened["indent"]):
            return
        entry = _ENTRY.fullmatch(body)
        if entry is None or entry["value"][0] in "#{}[]()":
            continue
        is_pair = re.match(r"[\"']?[\w.-]+[\"']?[ \t]*:([ \t]|\r?$)", body.strip()) is not None
        if is_pair and not is_holder(opened["name"]):
            return  # a mapping below `token:` has keys of its own
        if PLACEHOLDER.fullmatch(entry["value"].strip("\"'")) or entry["value"].endswith(":"):
            continue
        if first or is_holder(opened["name"]) or opened["block"]:
            quote = entry["value"][0] if entry["value"][0] in "\"'" else ""
            before = entry["before"]
            if not is_holder(opened["name"]):
                before = body[:indent]
            lines[number] = f"{sign}{before}{quote}{REDACTED}{quote}{entry['end']}"
        first = False


def redact_lines(text: str) -> tuple[str, list[int]]:
    r"""Return a text with its credentials replaced, and the numbers of the lines that changed.

    >>> redact_lines("lr: 0.1\napi_key: a1b2c3")
    ('lr: 0.1\napi_key: [redacted]', [2])
    """
    redacted = redact_text(text)
    return redacted, changed_lines(text, redacted)


_SHORT_OPTIONS = frozenset({"-p", "-P", "-u", "-U", "-t", "-k", "-w", "-a"})
"""Options that often take a password, a token or a key. Their values are redacted if they look generated."""


def redact_argv(argv: list[str]) -> list[str]:
    """Return command line arguments with the values of secret options replaced.

    >>> redact_argv(["train.py", "--api-key=abc", "--token", "abc", "--lr", "0.1"])
    ['train.py', '--api-key=[redacted]', '--token', '[redacted]', '--lr', '0.1']
    """
    redacted: list[str] = []
    before = ""
    for argument in argv:
        name, equals, value = argument.partition("=")
        bare = name.lstrip("-+~")
        if before and _is_value_of(before, argument):
            redacted.append(REDACTED)
        elif equals and value and (is_secret_name(bare) or _is_hinted(bare, value)) and not _is_number(bare, value):
            redacted.append(f"{name}={REDACTED}")
        else:
            redacted.append(redact_text(argument))
        before = argument if argument.startswith("-") and not equals else ""
    return redacted


def _is_value_of(option: str, argument: str) -> bool:
    """Return True if an argument is the credential that the option before it takes."""
    name = option.lstrip("-")
    if is_secret_name(name):
        is_option = re.fullmatch(r"--[A-Za-z][\w.-]*(=.*)?|-[A-Za-z]", argument) is not None
        return not is_option and not _is_number(name, argument)
    secret = argument.rpartition(":")[2]
    return (option in _SHORT_OPTIONS and looks_generated(secret)) or _is_hinted(name, argument)


def _is_hinted(name: str, value: str) -> bool:
    return hints_at_secret(name) and looks_generated(value)


def _is_number(name: str, value: str) -> bool:
    """Return True for the number of an option such as `--num-pass 3`."""
    try:
        return not is_secret(name, float(value))
    except ValueError:
        return False


def changed_lines(old: str, new: str) -> list[int]:
    """Return the numbers of the lines, from 1, that differ between two texts."""
    if old == new:
        return []
    both = zip(old.split("\n"), new.split("\n"), strict=False)
    return [number for number, (before, after) in enumerate(both, 1) if before != after]


def _redact_assigned(match: "re.Match[str]") -> str:
    value = match["plain"] if match["plain"] is not None else match["quoted"]
    if not value or REDACTED in value or f"{value}]" == REDACTED or _is_code(match, value):
        return match[0]
    # `name` may be dotted; `X-API-Key` and `+secrets.db` are names, too.
    if not is_secret(match["name"], value) or _is_number(match["name"], value):
        nested = value.partition("=")
        if nested[1] and is_secret(nested[0], nested[2]):  # Cookie: session=…
            return match[0].replace(nested[2], REDACTED)
        return match[0]
    quote = match["quote"] or ""
    return f"{match['name']}{match['sign']}{quote}{REDACTED}{quote}"


def _is_code(match: "re.Match[str]", value: str) -> bool:
    """Return True if a value is an expression, a template or the beginning of a sentence."""
    rest = match.string[match.end() :]
    if match["plain"] is None:
        return False
    if rest[:1] in ("(", "[") or re.match(r"(self|args|os|cfg|config)\.|[$<{%]|[|>]$", value):
        return True
    return match["sign"].strip() == ":" and value.isalpha() and re.match(r"[ \t]+[A-Za-z]", rest) is not None


def _redact_option(match: "re.Match[str]") -> str:
    if REDACTED in match["value"] or not _is_value_of(match["name"], match["value"]) or match["value"][0] in "$<{":
        return match[0]
    return f"{match['name']}{match['sign']}{match['quote']}{REDACTED}"


def _redact_by_words(match: "re.Match[str]") -> str:
    hidden = is_secret(match["name"], match["value"]) and not PLACEHOLDER.fullmatch(match["value"])
    return f"{match['before']}{REDACTED}" if hidden else match[0]


def _redact_pair(value: str) -> str:
    """Return the value of a variable. `me:X` is a user's name and a password if X looks like one."""
    user, colon, secret = value.partition(":")
    if colon and re.fullmatch(r"[\w.@-]+", user) and looks_random(secret) and looks_generated(secret):
        return f"{user}:{REDACTED}"
    return redact_text(value)


def redact_variable(name: str, value: str) -> str:
    """Return the value of an environment variable, without what looks like a credential."""
    return REDACTED if is_secret(name, value) and not _is_number(name, value) else _redact_pair(value)
