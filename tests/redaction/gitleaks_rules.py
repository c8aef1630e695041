"""Makes `redaction/gitleaks.json` from gitleaks' published patterns: `gitleaks_rules.py gitleaks.toml`.

Only rules whose shape alone tells are taken: those that need the name of a service nearby would search every text for
words such as "square". gitleaks' patterns are in the syntax of Go.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import tomllib

TARGET = Path(__file__).parents[2] / "src" / "lightning_dtool" / "redaction" / "gitleaks.json"

LEFT_OUT = {
    "curl-auth-header", "curl-auth-user", "freemius-secret-key", "kubernetes-secret-yaml", "nuget-config-password",
    "private-key", "sidekiq-sensitive-url",  # places: this package has its own
    "sourcegraph-access-token", "vault-service-token",  # they match any SHA-1, and attributes of objects
    "aws-amazon-bedrock-api-key-short-lived",  # only its beginning
}  # fmt: skip

_NEAR_A_NAME = r"(?:[ \t\w.-]{0,20})"
_END = re.compile(r"\(\?:\[\\x60'\"\\s;\]\|\\\\\[nr\]\|\$(?:\|\\b)?\)$")


def rules(text: str) -> list[dict[str, Any]]:
    """Return the rules that are taken, in Python's syntax."""
    taken = []
    for rule in tomllib.loads(text)["rules"]:
        pattern = rule.get("regex")
        if pattern is None or _NEAR_A_NAME in pattern or rule["id"] in LEFT_OUT:
            continue
        pattern = _END.sub(r"(?!\\w)", pattern).replace(r"\z", r"\Z").replace("[[:alnum:]]", "[0-9A-Za-z]")
        pattern = with_local_flags(pattern)
        re.compile(pattern)
        taken.append(
            {"id": rule["id"], "regex": pattern, "keywords": rule["keywords"], "entropy": rule.get("entropy", 0)}
        )
    return taken


def with_local_flags(pattern: str) -> str:
    """Return a pattern in which `(?i)` stands only for the rest of its group, as Python writes it."""
    while (at := pattern.find("(?i)", 1)) > 0:
        depth, end, in_class = 0, at + 4, False
        while end < len(pattern):
            character = pattern[end]
            if character == "\\":
                end += 1
            elif character == "[":
                in_class = True
            elif character == "]":
                in_class = False
            elif not in_class and character == "(":
                depth += 1
            elif not in_class and character == ")":
                if not depth:
                    break
                depth -= 1
            end += 1
        pattern = f"{pattern[:at]}(?i:{pattern[at + 4 : end]}){pattern[end:]}"
    return pattern


if __name__ == "__main__":
    content = {"source": "gitleaks, config/gitleaks.toml", "licence": "MIT (gitleaks.LICENSE)"}
    found = rules(Path(sys.argv[1]).read_text(encoding="utf-8"))
    TARGET.write_text(json.dumps({**content, "rules": found}, indent=1) + "\n", encoding="utf-8")
