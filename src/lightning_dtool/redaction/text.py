"""Detection and redaction of credentials in any text.

A credential is recognised by the *name* of a value (`api_key`), by the *shape* of a text (keys of well-known services
have distinctive prefixes), or by its *place* (`user:password@host`, `password=…`). Detection uses neither the network
nor word lists. It takes a few milliseconds for a whole project.
"""

import re

REDACTED = "[redacted]"

_SECRET_NAME = re.compile(
    r"(^|[_\-.\s])(pass(word|wd|phrase)?s?|pwd|(client[_\-]?)?secrets?([_\-]?(access[_\-]?)?keys?)?|bearer|token|"
    r"api[_\-]?keys?|access[_\-]?keys?([_\-]?id)?|(private|account|session|license|auth|service|storage)[_\-]?key|"
    r"(api|access|auth|refresh|bearer)[_\-]?tokens|credentials?|auth(orization)?|"
    r"connection[_\-]?string|webhook([_\-]?url)?)\d*$",
    re.IGNORECASE,
)

VOCABULARY = re.compile(r"(^|[_\-.])(pad|bos|eos|unk|sep|cls|mask|start|end|stop|special|image|class)[_\-]token$", re.I)
"""Names of special tokens of language models, which are not credentials."""

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")

_ASSIGNED = re.compile(
    r"(?P<name>\w*(?:passw(?:or)?d|passphrase|secret(?:_?key)?|token|api_?key|a(?:ccess|ccount)_?key(?:_?id)?|signature))"
    r"(?P<sign>['\"]?\s*[=:]\s*['\"]?)(?P<value>[^'\"\s,;&)\]}]+)",
    re.IGNORECASE,
)
"""Assignments such as `password=…` inside a text: in the query of a URL, a repr or a configuration."""

SHAPES = re.compile(
    r"\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b"  # AWS
    r"|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bgl(?:pat|dt|ft|soat|rt|agent|cbt|imt|ptt|oas)-[\w-]{20,}"
    r"|\bhf_[A-Za-z0-9]{20,}|\bapi_org_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|\bsk-(?=[\w-]*\d)[\w-]{20,}|\bgsk_[A-Za-z0-9]{20,}|\br8_[A-Za-z0-9]{20,}"  # APIs of language models
    r"|\bxox[abeoprs]-[\w-]{10,}|\bxapp-[\w-]{10,}|(?<=hooks\.slack\.com/)[\w/]{20,}"  # Slack
    r"|(?<=/api/webhooks/)\d{5,}/[\w-]{20,}"  # Discord
    r"|\bAIza[\w-]{35}|\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{20,}"  # Google
    r"|\b[rsp]k_(?:live|test)_[0-9A-Za-z]{16,}|\bwhsec_[0-9A-Za-z+/=]{20,}"  # Stripe
    r"|\bSG\.[\w-]{22}\.[\w-]{43}|\bnpm_[A-Za-z0-9]{36}|\bpypi-Ag[\w-]{50,}|\bdop_v1_[a-f0-9]{64}|\bdapi[a-f0-9]{32}\b"
    r"|\bwandb_v1_\w{20,}|\beyJhcGlf[\w+/=-]{20,}"  # Weights & Biases, Neptune
    r"|(?<=AccountKey=)[A-Za-z0-9+/]{40,}={0,2}"  # Azure
    r"|\b\d{8,10}:[A-Za-z0-9_-]{35}\b"  # Telegram
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*"  # JSON Web Token
    r"|(?i:(?<=\bbearer\s)|(?<=\bbasic\s))(?=\S*\d)[\w.~+/=-]{8,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\Z)"
)
"""Shapes of the keys of well-known services."""


def is_secret_name(name: str) -> bool:
    """Return True if a value with this name is likely to be a credential.

    >>> is_secret_name("wandb_api_key"), is_secret_name("num_tokens")
    (True, False)
    """
    words = spaced(name)
    return bool(_SECRET_NAME.search(words)) and not VOCABULARY.search(words)


def spaced(name: str) -> str:
    """Return a name in camel case with its words separated: `api_Key` for `apiKey`."""
    return _CAMEL.sub("_", name).strip()


def redact_text(text: str) -> str:
    """Return a text with its credentials replaced: in URLs, in assignments, and keys of well-known services.

    >>> redact_text("https://me:hunter2@git.example.org/lab/leaves.git")
    'https://[redacted]@git.example.org/lab/leaves.git'
    """
    text = SHAPES.sub(keep_lines, _URL_CREDENTIALS.sub(f"{REDACTED}@", text))
    return _ASSIGNED.sub(_redact_assigned, text)


def redact_lines(text: str) -> tuple[str, list[int]]:
    r"""Return a text with its credentials replaced, and the numbers of the lines that changed.

    >>> redact_lines("lr: 0.1\napi_key: a1b2c3")
    ('lr: 0.1\napi_key: [redacted]', [2])
    """
    redacted = redact_text(text)
    return redacted, changed_lines(text, redacted)


def redact_argv(argv: list[str]) -> list[str]:
    """Return command line arguments with the values of secret options replaced.

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


def keep_lines(match: "re.Match[str]") -> str:
    """Return the replacement of a match, with the same number of lines. Lines of a patch keep their signs."""
    return REDACTED + re.sub(r"(\n[+\- ]?)[^\n]*", r"\1", match[0][len(match[0].partition("\n")[0]) :])


def changed_lines(old: str, new: str) -> list[int]:
    """Return the numbers of the lines, from 1, that differ between two texts."""
    if old == new:
        return []
    both = zip(old.split("\n"), new.split("\n"), strict=False)
    return [number for number, (before, after) in enumerate(both, 1) if before != after]


def _redact_assigned(match: "re.Match[str]") -> str:
    known = REDACTED in match["value"] or f"{match['value']}]" == REDACTED
    hidden = match["value"] if known or VOCABULARY.search(match["name"]) else REDACTED
    return f"{match['name']}{match['sign']}{hidden}"
