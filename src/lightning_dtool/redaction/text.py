"""No secret in a record: what looks like a credential is replaced before it is written.

Three detectors work together: the *name* of a value (`api_key`), the *shape* of a text (the keys of well-known
services have prefixes of their own), and its *place* (`user:password@host`, `password=…`). Nothing here looks
anything up: no network, no list of words, a few milliseconds for a project. Source code has rules of its own, in
`redact_source`, because what is left must still run.
"""

import ast
import io
import json
import re
import textwrap
import tokenize
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from lightning_dtool.record import Gap, Provenance
from lightning_dtool.values.encoding import encode_all
from lightning_dtool.values.parsing import parse

REDACTED = "[redacted]"

_SECRET_NAME = re.compile(
    r"(^|[_\-.\s])(pass(word|wd|phrase)?s?|pwd|(client[_\-]?)?secrets?([_\-]?(access[_\-]?)?keys?)?|bearer|token|"
    r"api[_\-]?keys?|access[_\-]?keys?([_\-]?id)?|(private|account|session|license|auth|service|storage)[_\-]?key|"
    r"(api|access|auth|refresh|bearer)[_\-]?tokens|credentials?|auth(orization)?|"
    r"connection[_\-]?string|webhook([_\-]?url)?)\d*$",
    re.IGNORECASE,
)
_VOCABULARY = re.compile(
    r"(^|[_\-.])(pad|bos|eos|unk|sep|cls|mask|start|end|stop|special|image|class)[_\-]token$", re.I
)
"""Tokens of a language model, which nobody needs to hide."""

_WEAK_NAME = re.compile(
    r"(^|[_\-.\s])(tokens?|auth|authorization|bearer|pass|credentials?|key|pw|cookie|salt|signature|dsn|webhook\w*)$",
    re.IGNORECASE,
)
"""Names that source code also gives to things that are no credentials: there the value must look like one."""

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")
_ASSIGNED = re.compile(
    r"(?P<name>\w*(?:passw(?:or)?d|passphrase|secret(?:_?key)?|token|api_?key|a(?:ccess|ccount)_?key(?:_?id)?|signature))"
    r"(?P<sign>['\"]?\s*[=:]\s*['\"]?)(?P<value>[^'\"\s,;&)\]}]+)",
    re.IGNORECASE,
)
"""`password=…` inside a text: the query of a URL, a repr, a configuration."""

_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b"  # AWS
    r"|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bgl(?:pat|dt|ft|soat|rt|agent|cbt|imt|ptt|oas)-[\w-]{20,}"
    r"|\bhf_[A-Za-z0-9]{20,}|\bapi_org_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|\bsk-(?=[\w-]*\d)[\w-]{20,}|\bgsk_[A-Za-z0-9]{20,}|\br8_[A-Za-z0-9]{20,}"  # language models for hire
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
"""What well-known services' keys look like."""

_PLACEHOLDER = re.compile(
    r"\W*|.*[{}<>%$].*|(?i:x+|none|null|your\W.*|change\W?me)|[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", re.DOTALL
)
"""No credential: nothing, a template, a stand-in, or the name of an environment variable."""


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
    text = _SHAPES.sub(_keep_lines, _URL_CREDENTIALS.sub(f"{REDACTED}@", text))
    return _ASSIGNED.sub(_redact_assigned, text)


def _keep_lines(match: "re.Match[str]") -> str:
    """Replace a text that may go over lines: their number stays, and in a patch the sign at the beginning of each."""
    return REDACTED + re.sub(r"(\n[+\- ]?)[^\n]*", r"\1", match[0][len(match[0].partition("\n")[0]) :])


def _redact_assigned(match: "re.Match[str]") -> str:
    known = REDACTED in match["value"] or f"{match['value']}]" == REDACTED
    hidden = match["value"] if known or _VOCABULARY.search(match["name"]) else REDACTED
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


def secrets_in_hyperparameters(hparams: Mapping[Any, Any]) -> list[str]:
    """Return the names of hyperparameters that hold what looks like a credential.

    The record leaves their values out, but a Lightning checkpoint holds them as they are, and must.

    Args:
        hparams: `LightningModule.hparams`, or those of a LightningDataModule.

    Example:
        >>> secrets_in_hyperparameters({"lr": 0.1, "logger": {"api_key": "a1b2c3"}})
        ['logger.api_key']
    """
    found: list[str] = []
    redact_mapping(encode_all(hparams, "", []), "", found)
    return [name.removeprefix(".") for name in found]


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
    if not isinstance(value, str):
        return value
    # A `source` is code: a lambda's, say.
    redacted = redact_source(value)[0] if key == "source" else redact_text(value)
    if redacted != value:
        found.append(where)
    return redacted


# -- source code --------------------------------------------------------------------------------

_NAMES = (
    r"(?:passw|passp|pwd|secret|token|api_?key|access_?key|(?:private|account|session|license|auth|service|storage)_?key"
    r"|credential|auth|bearer|cookie|salt|signature|dsn|webhook|connection_?string|\bpass\b|\bpw\b|\bkey\b)"
)
_SUSPICIOUS = re.compile(
    # A name, then at most a closing quote or bracket and a type, then a sign, and something that may be a value.
    rf"{_NAMES}\w*[\"']?\s*\]?\s*(?::\s*[\w.\[\]| ]{{1,40}}?)?(?:[=:,]|!=)\s*\\?[^\s]"
    r"|://[^/\s\"']+@|#\s*[%!?]|\bset_pass\w*\(|\blogin\("
)
"""Code (in lower case) that is worth a closer look; most files have none, and cost no more than this search."""

_MARKERS = (
    "AKIA", "ASIA", "ABIA", "ACCA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-", "glft-",
    "glsoat-", "glrt-", "glagent-", "glcbt-", "glimt-", "glptt-", "gloas-", "hf_", "api_org_", "sk-", "gsk_", "r8_",
    "xox", "xapp-", "hooks.slack", "/api/webhooks/", "AIza", "ya29.", "GOCSPX-", "k_live_", "k_test_", "whsec_", "SG.",
    "npm_", "pypi-Ag", "dop_v1_", "dapi", "wandb_v1_", "eyJ", "AccountKey=", "PRIVATE KEY", ":AA",
)  # fmt: skip
"""Every text that has a key's shape has one of these in it, or a word before it: to look for them is far cheaper."""

_IN_TEXT = re.compile(
    r"(?P<name>\b[\w-]*(?:passw(?:or)?d|passphrase|pwd|secret(?:[_-]?key)?|token|api[_-]?key|access[_-]?key(?:[_-]?id)?|"
    r"account[_-]?key|signature))(?P<sign>=|\\?[\"']\s*[:=]\s*\\?[\"']|:[ \t]+)(?P<value>[^'\"\s,;&()\[\]\\]{4,})",
    re.IGNORECASE,
)
_URL_IN_CODE = re.compile(r"(?<=://)(?P<user>[^/\s:@\"']*:)?(?P<value>[^/\s\"']+)(?=@)")

_LOOKUPS = frozenset({"get", "getenv", "setdefault", "pop", "putenv", "setenv", "setattr", "getattr", "Field"})
"""Functions that take a name and a value."""

_STRING = re.compile(r"(?P<prefix>[A-Za-z]{0,2})(?P<quote>'''|\"\"\"|'|\")(?P<body>[\s\S]*)(?P=quote)\Z")


def _has_shape(text: str, lowered: str) -> bool:
    marked = any(marker in text for marker in _MARKERS) or "bearer " in lowered or "basic " in lowered
    return marked and bool(_SHAPES.search(text))


def _is_suspicious(text: str) -> bool:
    lowered = text.lower()
    return bool(_SUSPICIOUS.search(lowered)) or _has_shape(text, lowered)


def _has_more(text: str) -> bool:
    """Return True if there is something to hide besides literals that are given to a name."""
    lines = (line for line in text.split("\n") if _SUSPICIOUS.search(line.lower()))
    return _has_shape(text, text.lower()) or any(
        _redact_fragment(line) != line or re.search(r"#[ \t]*[%!?]", line) for line in lines
    )


def redact_source(text: str) -> tuple[str, list[int]]:
    """Return Python source without the credentials in it.

    Only the insides of string literals and comments are replaced, and no line is added or lost: what could be run
    can still be run, and tracebacks point at the same lines.

    Args:
        text: Python source.

    Returns:
        The text, and the numbers of the lines where something was replaced.

    Example:
        >>> redact_source('login(api_key="a1b2c3d4")  # pad_token="[PAD]"')
        ('login(api_key="[redacted]")  # pad_token="[PAD]"', [1])
    """
    if not _is_suspicious(text):
        return text, []
    try:
        named = _named_literals(text)
        # Most suspicions come to nothing, and to cut a file into tokens is what takes long.
        if not any(_is_credential(*literal) for literal in named.values()) and not _has_more(text):
            return text, []
        edits = list(_edits(text, {place: name for place, (name, _) in named.items()}))
    except (tokenize.TokenError, SyntaxError, ValueError, RecursionError, MemoryError):
        return redact_lines(text)  # it is not Python, or only a part of it
    starts = [0]
    for line in io.StringIO(text, newline="\n"):
        starts.append(starts[-1] + len(line))
    pieces, done = [], 0
    for (row, column), (end_row, end_column), new in edits:
        pieces += [text[done : starts[row - 1] + column], new]
        done = starts[end_row - 1] + end_column
    redacted = "".join([*pieces, text[done:]])
    if not _is_python(redacted):
        return redact_lines(text)  # hiding the secret is worth more than keeping the code
    return redacted, _changed_lines(text, redacted)


def redact_lines(text: str) -> tuple[str, list[int]]:
    r"""Return a text of any kind without the credentials in it, and the numbers of the lines that have changed.

    >>> redact_lines("lr: 0.1\napi_key: a1b2c3")
    ('lr: 0.1\napi_key: [redacted]', [2])
    """
    redacted = redact_text(text)
    return redacted, _changed_lines(text, redacted)


def redact_notebook(text: str) -> tuple[str, list[int]]:
    """Return a notebook (the JSON of an ipynb file) without the credentials in its cells.

    Args:
        text: The file's content.

    Returns:
        The content, and the numbers of the lines where something was replaced.
    """
    try:
        content = json.loads(text)
        for cell in content["cells"]:
            source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
            redacted = (redact_source if cell.get("cell_type") == "code" else redact_lines)(source)[0]
            if redacted != source:
                cell["source"] = redacted.splitlines(keepends=True)
    except (ValueError, TypeError, KeyError, AttributeError):
        return redact_lines(text)
    redacted = json.dumps(content, indent=1, ensure_ascii=False)
    return redacted, _changed_lines(text, redacted)


def redact_patch(patch: str) -> tuple[str, list[int]]:
    """Return a git patch without the credentials in it: Python by its rules, other files by those of any text.

    A patch with a replacement in a line that it removes, or in its context, no longer applies.

    Args:
        patch: What `git diff` printed.

    Returns:
        The patch, and the numbers of the lines where something was replaced.
    """
    redacted = "".join(
        # base85, in which a detector would find what is not there
        part if "\nGIT binary patch\n" in part else _redact_file_patch(part)
        for part in re.split(r"^(?=diff --git )", patch, flags=re.MULTILINE)
    )
    return redacted, _changed_lines(patch, redacted)


def _changed_lines(old: str, new: str) -> list[int]:
    if old == new:
        return []
    both = zip(old.split("\n"), new.split("\n"), strict=False)
    return [number for number, (before, after) in enumerate(both, 1) if before != after]


def _redact_file_patch(part: str) -> str:
    """Return the part of a patch that is about one file."""
    start = part.find("\n@@") + 1
    head, body = part[:start], part[start:]
    if not re.search(r"\.pyi?\"?$", head.partition("\n")[0]):
        return head + redact_text(body)
    if not _is_suspicious(body):
        return part
    # A patch has no whole statements: a private key goes over lines, all else is found line by line.
    return head + "\n".join(map(_redact_fragment, _SHAPES.sub(_keep_lines, body).split("\n")))


_NAMED_LITERAL = re.compile(
    r"(?P<name>[\w-]+)(?P<sign>[\"']?\s*\]?\s*(?::\s*[\w.\[\]| ]+?)?\s*(?:[=:,]|!=)\s*(?:\w+\s*=\s*)?\w{0,2})"
    r"(?P<quote>[\"'])(?P<value>[^\"']+)(?P=quote)"
)


def _redact_fragment(line: str) -> str:
    """Return a line of Python, or of a comment, that stands alone."""

    def hide(match: "re.Match[str]") -> str:
        # A name in quotes and a comma are no assignment for sure: `f("--token", help="…")`.
        hidden = _is_credential(match["name"], match["value"])
        if hidden and "," in match["sign"]:
            hidden = _looks_random(match["value"])
        return f"{match['name']}{match['sign']}{match['quote']}{REDACTED}{match['quote']}" if hidden else match[0]

    return _redact_inside(_NAMED_LITERAL.sub(hide, line))


def _is_python(text: str) -> bool:
    try:
        parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


Place = tuple[int, int]


def _edits(text: str, names: dict[Place, str]) -> Iterator[tuple[Place, Place, str]]:
    """Yield what has to be replaced in Python source: from, to, and the new text."""
    name, previous = "", ""
    for token in tokenize.generate_tokens(io.StringIO(text, newline="\n").readline):
        kind, old = tokenize.tok_name[token.type], token.string
        new = old
        if kind == "STRING":
            # `"a" "b"` is one value: the second part belongs to the same name.
            name = names.get(token.start, name if previous == "STRING" else "")
            new = _redact_literal(old, name)
        elif kind.endswith("_MIDDLE"):  # of an f-string, from Python 3.12 on
            new = _redact_inside(old)
        elif kind == "COMMENT":
            is_magic = re.match(r"#\s*[%!?]", old)  # a shell command of a notebook
            new = redact_text(old) if is_magic else _redact_fragment(old)
        if new != old:
            yield token.start, token.end, new
        if kind not in ("NL", "COMMENT"):
            previous = kind


def _named_literals(text: str) -> dict[Place, tuple[str, str]]:
    """Return the literals of a module that are given to a name, with that name, by the literals' places."""
    lines = text.split("\n")
    named: dict[Place, tuple[str, str]] = {}

    def give(name: str | None, node: ast.AST | None) -> None:
        if name is None or node is None:
            return
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            column = len(lines[node.lineno - 1].encode()[: node.col_offset].decode(errors="replace"))
            value = node.value if isinstance(node.value, str) else node.value.decode(errors="replace")
            place = node.lineno, column
            if place not in named or is_secret_name(name):
                named[place] = name, value
        elif isinstance(node, ast.BoolOp):  # os.getenv("TOKEN") or "…"
            for operand in node.values:
                give(name, operand)
        elif isinstance(node, ast.IfExp):
            give(name, node.body)
            give(name, node.orelse)
        elif isinstance(node, ast.Tuple | ast.List | ast.Set):
            for element in node.elts:
                give(name, element)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):  # "…".encode()
            give(name, node.func.value)
        elif isinstance(node, ast.BinOp):
            give(name, node.left)
            give(name, node.right)

    for node in ast.walk(parse(text)):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                give(_name_of(target), node.value)
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            give(_name_of(node.target), node.value)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                give(_name_of(key), value)
        elif isinstance(node, ast.Compare):
            for value in node.comparators:
                give(_name_of(node.left), value)
        elif isinstance(node, ast.Tuple | ast.List) and len(node.elts) == 2:
            if isinstance(node.elts[0], ast.Constant):
                give(_name_of(node.elts[0]), node.elts[1])
        elif isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            for argument, default in zip(reversed(positional), reversed(node.defaults), strict=False):
                give(argument.arg, default)
            for argument, default_or_none in zip(node.kwonlyargs, node.kw_defaults, strict=True):
                give(argument.arg, default_or_none)
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                give(keyword.arg, keyword.value)
            _give_arguments(node, give)
    return named


def _give_arguments(call: ast.Call, give: Callable[[str | None, ast.AST | None], None]) -> None:
    """Tell of calls that take a name and a value: `getenv("TOKEN", "…")`, `add_argument("--token", default="…")`."""
    function = _name_of(call.func) or ""
    texts = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    names = [text.lstrip("-") for text in texts if isinstance(text, str) and is_secret_name(text.lstrip("-"))]
    for name in names[:1]:
        for keyword in call.keywords:
            if keyword.arg in ("default", "value"):
                give(name, keyword.value)
        if function in _LOOKUPS:
            for argument in call.args[1:]:
                if not (isinstance(argument, ast.Constant) and argument.value == name):
                    give(name, argument)
    if is_secret_name(function) and function.startswith("set_"):  # keyring.set_password("service", "me", "…")
        give(function, call.args[-1] if call.args else None)
    if function == "login":  # wandb.login(key="…")
        for value in (*call.args, *(keyword.value for keyword in call.keywords if keyword.arg in ("key", "token"))):
            give("api_key", value)


def _name_of(node: ast.AST | None) -> str | None:
    """Return the last name of `name`, `x.name`, `x["name"]` and `"name"`."""
    if isinstance(node, ast.Subscript):
        node = node.slice
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _redact_literal(literal: str, name: str) -> str:
    match = _STRING.match(literal)
    if match is None:
        return literal
    body = match["body"]
    if "f" not in match["prefix"].lower() and _is_credential(name, body):
        body = REDACTED + "".join(re.findall(r"\\?\n", body))  # as many lines as before
    else:
        body = _redact_inside(body)
    return f"{match['prefix']}{match['quote']}{body}{match['quote']}"


def _is_credential(name: str, value: str) -> bool:
    """Return True for a literal that stands for a credential, by the name that it is given to and by its looks."""
    words = _CAMEL.sub("_", name).strip()
    if not words or _VOCABULARY.search(words) or _PLACEHOLDER.fullmatch(value) or REDACTED in value:
        return False
    if _WEAK_NAME.search(words) and not re.search(r"api|access|secret", words, re.IGNORECASE):
        return _looks_random(value) and ("key" not in words.lower() or _looks_generated(value))
    return is_secret_name(name)


def _looks_random(value: str) -> bool:
    plain = len(value) >= 8 and re.fullmatch(r"[\w.~+/=:@!#?&*^-]+", value) and value[0] not in "/.~"
    return bool(plain and re.search(r"\d", value) and re.search(r"[A-Za-z]", value))


def _looks_generated(value: str) -> bool:
    """Return True for what no person has thought up, as the name `key` alone says nothing."""
    return len(value) >= 24 and len(re.findall(r"\d", value)) >= 4 and len(re.findall(r"[\W_]", value)) <= 2


# Most texts of a record are the same in each checkpoint of a run.
@lru_cache(maxsize=4096)
def _redact_inside(text: str) -> str:
    """Return the text of a literal or a comment: only what is a credential for certain, for code may need the rest."""
    text = _SHAPES.sub(_keep_lines, text)
    text = _URL_IN_CODE.sub(_redact_url, text)
    return _IN_TEXT.sub(_redact_in_text, text)


def _redact_url(match: "re.Match[str]") -> str:
    return match[0] if _PLACEHOLDER.fullmatch(match["value"]) else f"{match['user'] or ''}{REDACTED}"


def _redact_in_text(match: "re.Match[str]") -> str:
    value, sign = match["value"], match["sign"]
    is_code = match.string[match.end() : match.end() + 1] in ("(", "[") or re.match(
        r"(self|args|os|cfg|config)\.", value
    )
    is_prose = sign.strip() == ":" and not _looks_random(value)
    known = _PLACEHOLDER.fullmatch(value) or _VOCABULARY.search(match["name"]) or value == match["name"]
    return match[0] if is_code or is_prose or known else f"{match['name']}{sign}{REDACTED}"


# -- a whole record -----------------------------------------------------------------------------

_PLAIN_SECTIONS = ("run", "checkpoint", "code", "lineage", "gaps")
"""Sections in which a name is a file's or a module's: `leaves.token` is no credential."""


def redact_record(record: Provenance) -> Provenance:
    """Return a record without credentials in any of its texts: the last look, before it is written.

    Args:
        record: The record, whose sections have been through their own redaction.

    Returns:
        The same record if there was nothing to hide; else a copy, with an entry in `gaps` for each place.
    """
    content = record.model_dump(mode="python")
    found: list[str] = []
    redacted = {
        name: section if name in ("run", "checkpoint", "gaps") else _redact_texts(section, name, "", found)
        for name, section in content.items()
    }
    if not found:
        return record
    known = {gap.fact for gap in record.gaps}
    gaps = [*record.gaps, *(redaction_gap(place) for place in found if place not in known)]
    return Provenance.model_validate({**redacted, "gaps": [gap.model_dump() for gap in gaps]})


def _redact_texts(value: Any, where: str, name: str, found: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _redact_texts(item, f"{where}.{key}", key, found) for key, item in value.items()}
    if isinstance(value, list):
        return [_redact_texts(item, f"{where}[{index}]", name, found) for index, item in enumerate(value)]
    if not isinstance(value, str) or value == REDACTED:
        return value
    if where.partition(".")[0] not in _PLAIN_SECTIONS and _is_credential(name, value):
        redacted = REDACTED
    elif "\n" in value:
        redacted = redact_source(textwrap.dedent(value))[0] if _is_suspicious(value) else value
        if redacted == textwrap.dedent(value):
            redacted = value
    else:
        redacted = _redact_inside(value)
    if redacted != value:
        found.append(where)
    return redacted
