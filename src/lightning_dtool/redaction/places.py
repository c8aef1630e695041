"""The places where a credential stands in a text: in a URL, a header, a command or a sentence."""

import re
from collections.abc import Callable

from lightning_dtool.redaction.names import PLACEHOLDER, REDACTED, looks_generated, looks_random

_IN_QUERY = re.compile(
    r"(?P<name>[?&;](?:amp;)?(?:sig|signature|x-(?:amz|goog|oss|cos)-(?:signature|credential|security-token)|awsaccesskeyid|"
    r"googleaccessid|ossaccesskeyid|key-pair-id|policy|token|\w*_token|auth|apikey|api_key|api-key|code|key|secret|"
    r"client_secret|pass(?:word)?|pwd|st|sas)=)(?P<value>[^&\s\"'#<>\\)\]}]+)",
    re.IGNORECASE,
)
"""A parameter of a URL: signatures of Azure (SAS), S3, GCS, OSS and CloudFront, and tokens."""

_ALWAYS_IN_QUERY = re.compile(r"x-|sig|aws|google|oss|key-pair|token|api|secret|pass|pwd", re.IGNORECASE)

_HEADER = re.compile(
    r"(?P<head>\b(?:proxy-)?authorization\\?[\"']?\s*[:=]\s*(?:\w{0,2}\\?[\"'])?(?:[A-Za-z-]+[ \t]+)?"
    r"|\b(?:x-[\w-]*(?:key|token|secret|auth)|private-token|job-token|deploy-token|api-key|apikey|(?:set-)?cookie)"
    r"\\?[\"']?\s*[:=]\s*(?:\w{0,2}\\?[\"'])?)(?P<value>[^\s\"'\\,)\]}]{4,})",
    re.IGNORECASE,
)

_OF_COMMANDS = re.compile(
    # curl -u user:X, curl --proxy-user user:X
    r"(?P<before>\b(?:curl|wget|http|https)\b[^\n|]*?\s(?:-u|--user|--proxy-user|-U)[ =]?\s*\\?[\"']?[^\s:\"']+:"
    r"|\bsshpass\s+(?:-\w\s+)*-p\s*\\?[\"']?"
    r"|\b(?:mysql|mysqldump|mysqladmin|mariadb|mongo|mongosh|mongodump)\b[^\n|;]*?\s-p(?=\S)\\?[\"']?"
    r"|\b(?:docker|podman|helm|az|oc|skopeo|twine|7z[ar]?|unzip|mosquitto_pub)\b[^\n|;]*?\s-[pP]\s*\\?[\"']?"
    r"|\b(?:redis-cli)\b[^\n|;]*?\s-a\s+\\?[\"']?"
    r"|\b(?:openssl)\b[^\n|;]*?\bpass:"
    r"|\b(?:ldap(?:search|modify|add))\b[^\n|;]*?\s-w\s+\\?[\"']?"
    r"|\bhtpasswd\s+-\w*b\w*\s+\S+\s+\S+\s+"
    r"|\bnet\s+use\s+\S+\s+(?:\\\\\S+\s+)?(?=\S*\d)"
    r"|\b(?:wandb|huggingface-cli|hf|neptune|comet|lightning|kaggle)\s+(?:auth\s+)?login\s+(?:--\w+\s+)*\\?[\"']?(?=[\w-]*\d))"
    r"(?P<value>[^\s\"'\\;|&)]{4,})"
)

_SENTENCE = re.compile(
    r"(?P<before>\b(?:pass(?:word|wd|phrase|code)?|passwort|kennwort|pwd|pw|token|secret|pin|login|credentials?|licen[cs]e|"
    r"(?:[\w-]+[ _-])?key)(?:\s+(?:is|was|are|ist|lautet|for\s+\w+|to|of\s+\w+|=|:|%s))*\s*[:=]?\s+[\"'`]?)"
    r"(?P<value>[^\s\"'`,;)\]}]{8,})",
    re.IGNORECASE,
)

_ENDS = ".,;:!?"


def hide_places(text: str) -> str:
    """Return a line or a literal with the credentials in URLs, headers, commands and sentences replaced."""
    lowered = text.lower()
    if "=" in text and ("?" in text or "&" in text or ";" in text):
        text = _IN_QUERY.sub(_in_query, text)
    if any(name in lowered for name in _OF_HEADERS):
        text = _HEADER.sub(_after("head", _plausible), text)
    if any(name in lowered for name in _COMMANDS):
        text = _OF_COMMANDS.sub(_after("before", _plausible), text)
    if any(name in lowered for name in _NOUNS):
        text = _SENTENCE.sub(_after("before", _told), text)
    return text


_OF_HEADERS = ("authorization", "x-", "-token", "api-key", "apikey", "cookie")
_COMMANDS = (
    "curl", "wget", "http ", "https ", "sshpass", "mysql", "mariadb", "mongo", "docker", "podman", "helm", "az ", "oc ",
    "skopeo", "twine", "7z", "unzip", "mosquitto", "redis-cli", "openssl", "ldap", "htpasswd", "net use", "login",
)  # fmt: skip
_NOUNS = ("pass", "kennwort", "pwd", "pw", "token", "secret", "pin", "login", "credential", "licen", "key")


def _in_query(match: "re.Match[str]") -> str:
    value = match["value"]
    always = _ALWAYS_IN_QUERY.match(match["name"].lstrip("?&;").removeprefix("amp;"))
    hidden = not _is_template(value) and (always or looks_generated(value))
    return f"{match['name']}{REDACTED}" if hidden else match[0]


def _after(group: str, accept: "Callable[[str], bool]") -> "Callable[[re.Match[str]], str]":
    def replaced(match: "re.Match[str]") -> str:
        value = match["value"]
        return f"{match[group]}{REDACTED}" if accept(value.rstrip(_ENDS)) else match[0]

    return replaced


def _is_template(value: str) -> bool:
    """Return True for a variable of a shell, a format or a template, also if its end is cut off."""
    return REDACTED[:-1] in value or re.match(r"[{$<%*]|\.\.\.|…", value) is not None


def _plausible(value: str) -> bool:
    return not _is_template(value) and not PLACEHOLDER.fullmatch(value) and bool(re.search(r"\d", value))


def _told(value: str) -> bool:
    """Return True if a word of a sentence looks like a credential."""
    kinds = sum(bool(re.search(kind, value)) for kind in (r"[a-z]", r"[A-Z]", r"[!#*?&^~+]"))
    if _is_template(value) or not looks_random(value) or re.search(r"[./:=(@]", value):
        return False
    return looks_generated(value) or (kinds >= 2 and not re.search(r"[a-z]{5}", value))
