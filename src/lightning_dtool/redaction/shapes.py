"""The shapes of the keys of well-known services, which are credentials under any name.

Most are gitleaks' published patterns (`gitleaks.json`, MIT). The others are of services that gitleaks knows only beside
the name of the service, and of keys that it leaves out.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from lightning_dtool.redaction.names import REDACTED

_OWN = re.compile(
    r"\b(?:AKIA|ASIA|ABIA|ACCA)(?=[0-9A-Z]*\d|[0-9A-Z]{16}\b)[0-9A-Z]{10,}\b"  # AWS
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

_MARKERS = (
    "akia", "asia", "abia", "acca", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-", "glft-",
    "glsoat-", "glrt-", "glagent-", "glcbt-", "glimt-", "glptt-", "gloas-", "hf_", "api_org_", "sk-", "gsk_", "r8_",
    "xox", "xapp-", "hooks.slack", "/api/webhooks/", "aiza", "ya29.", "gocspx-", "k_live_", "k_test_", "whsec_", "sg.",
    "npm_", "pypi-ag", "dop_v1_", "dapi", "wandb_v1_", "eyj", "accountkey=", "private key", ":aa", "bearer", "basic",
)  # fmt: skip
"""Substrings in lower case that are quick to find. The keys that `_OWN` matches contain one.

Exception: Telegram tokens whose secret does not begin with "AA", which are not found.
"""


@dataclass(frozen=True)
class _Rule:
    pattern: "re.Pattern[str]"
    keywords: tuple[str, ...]
    entropy: float
    """Minimum entropy in bits per character. A match with less is a placeholder, such as `ghp_xxxx…`."""


@cache
def _published() -> tuple[_Rule, ...]:
    content = json.loads(files(__package__).joinpath("gitleaks.json").read_text(encoding="utf-8"))
    return tuple(
        _Rule(re.compile(rule["regex"]), tuple(rule["keywords"]), rule["entropy"]) for rule in content["rules"]
    )


def has_shape(text: str) -> bool:
    """Return True if a text contains a key with the shape of a well-known service's."""
    return hide_shapes(text) != text


def hide_shapes(text: str) -> str:
    """Return a text with each key of a well-known service replaced."""
    lowered = text.lower()
    if any(marker in lowered for marker in _MARKERS):
        text = _OWN.sub(keep_lines, text)
    for rule in _published():
        if any(keyword in lowered for keyword in rule.keywords):
            text = rule.pattern.sub(_replace_by(rule), text)
    return text


def _replace_by(rule: _Rule) -> "Callable[[re.Match[str]], str]":
    def replaced(match: "re.Match[str]") -> str:
        group = 1 if rule.pattern.groups and match[1] else 0
        secret = match[group]
        if REDACTED in secret or _entropy(secret) < rule.entropy:
            return match[0]
        start, end = match.start(group) - match.start(), match.end(group) - match.start()
        return f"{match[0][:start]}{REDACTED}{match[0][end:]}"

    return replaced


def _entropy(text: str) -> float:
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


def keep_lines(match: "re.Match[str]") -> str:
    """Return the replacement of a match, with the same number of lines. Lines of a patch keep their signs."""
    return REDACTED + re.sub(r"(\n[+\- ]?)[^\n]*", r"\1", match[0][len(match[0].partition("\n")[0]) :])
