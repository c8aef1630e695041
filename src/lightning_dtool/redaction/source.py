"""Redaction of credentials in Python source, notebooks and patches.

In valid Python, only text inside string literals and comments is replaced, so that the code still runs.
"""

import ast
import io
import json
import re
import tokenize
from collections.abc import Callable, Iterator
from functools import lru_cache

from lightning_dtool.redaction.names import (
    PLACEHOLDER,
    REDACTED,
    VOCABULARY,
    hints_at_secret,
    is_holder,
    is_name_of_secret,
    is_secret_name,
    looks_generated,
    looks_random,
    spaced,
)
from lightning_dtool.redaction.places import hide_places
from lightning_dtool.redaction.shapes import has_shape, hide_shapes
from lightning_dtool.redaction.text import changed_lines, redact_lines, redact_text
from lightning_dtool.values.parsing import parse

_WEAK_NAME = re.compile(
    r"(^|[_\-.\s])(tokens?|auth|authorization|bearer|pass|credentials?|creds?|\w*keys?|pw|pwd|sas|webhook\w*)$",
    re.IGNORECASE,
)
"""Names that do not always mean a credential in source code. Their values must look like credentials, too."""

_NAMES = (
    r"(?:passw|passp|passc|pwd|secret|token|_?key|credential|creds|auth|bearer|cookie|salt|signature|dsn|webhook"
    r"|connection_?string|licen[cs]e|kennwort|contrase|mnemonic|\w*pass\b|\bpw\b|_pw\b|\bpin\b|_pin\b|\bsas\b)"
)

_SUSPICIOUS = re.compile(
    # A name, an optional closing quote or bracket, an optional type annotation, an operator, and the start of a value.
    rf"{_NAMES}\w*[\"']?\s*\]?\s*(?::\s*[\w.\[\]| ]{{1,40}}?)?(?:[=:,]|!=)\s*[({{\[]?\s*\w?\\?[\"'\w\\]"
    # An option in a list of arguments, a sentence, a parameter of a URL, a command, a call.
    r"|[\"']--?[a-z][\w-]*[\"'],\s*[\"']"
    r"|(?:pass\w*|kennwort|pwd|pw|token|secret|pin|login|credentials?|licen[cs]e|key)\b[^\n\d]{1,40}\d"
    r"|(?:pass\w*|token|secret|key)[^\"'\n]{0,40}%s|class\s+\w*(?:secret|cred)"
    r"|://[^/\s\"']+@|[?&][\w-]+=[^\s{]|#\s*[%!?]|\bset_pass\w*\(|\b(?:login|connect|authenticate)\("
    r"|\b(?:curl|wget|sshpass|mysql\w*|mariadb|mongo\w*|docker|podman|redis-cli|openssl|htpasswd)\s"
)
"""Matches lower-cased code that may contain a credential. Most files do not match and need no further search."""

_IN_TEXT = re.compile(
    r"(?P<name>(?<![\w.-])[\w.-]*\w)(?P<sign>=|\\?[\"']\s*[:=]\s*\\?[\"']|:[ \t]+)(?P<value>[^'\"\s,;&()\[\]\\]{4,})"
)

_URL_IN_CODE = re.compile(r"(?<=://)(?P<user>[^/\s:@\"']*:)?(?P<value>[^/\s\"']+)(?=@)")

_LOOKUPS = frozenset({"get", "getenv", "setdefault", "pop", "putenv", "setenv", "setattr", "getattr", "Field"})
"""Functions that take a name and a value or default."""

_STRING = re.compile(r"(?P<prefix>[A-Za-z]{0,2})(?P<quote>'''|\"\"\"|'|\")(?P<body>[\s\S]*)(?P=quote)\Z")


def is_suspicious(text: str) -> bool:
    """Return True if source code may contain a credential. This is quick and has false positives."""
    return bool(_SUSPICIOUS.search(text.lower())) or has_shape(text)


def _has_more(text: str) -> bool:
    """Return True if there is something to redact apart from literals that are assigned to a name."""
    lines = (line for line in text.split("\n") if _SUSPICIOUS.search(line.lower()))
    return has_shape(text) or any(_redact_fragment(line) != line or re.search(r"#[ \t]*[%!?]", line) for line in lines)


def redact_source(text: str) -> tuple[str, list[int]]:
    """Return Python source with its credentials replaced.

    Only text inside string literals and comments is replaced, and the number of lines stays the same. The code still
    runs, and tracebacks point to the same lines. If the text, or the result, is not valid Python, credentials are
    replaced anywhere in the text, as in any other text.

    Args:
        text: Python source.

    Returns:
        The text, and the numbers of the lines where something was replaced.

    Example:
        >>> redact_source('login(api_key="a1b2c3d4")  # pad_token="[PAD]"')
        ('login(api_key="[redacted]")  # pad_token="[PAD]"', [1])
    """
    if not is_suspicious(text):
        return text, []
    try:
        named = _named_literals(text)
        # Most suspicious files have no credential, and tokenizing a file is slow.
        if not any(is_credential(*literal) for literal in named.values()) and not _has_more(text):
            return text, []
        edits = list(_edits(text, {place: name for place, (name, _) in named.items()}))
    except (tokenize.TokenError, SyntaxError, ValueError, RecursionError, MemoryError):
        return redact_lines(text)  # not valid Python
    starts = [0]
    for line in io.StringIO(text, newline="\n"):
        starts.append(starts[-1] + len(line))
    pieces, done = [], 0
    for (row, column), (end_row, end_column), new in edits:
        pieces += [text[done : starts[row - 1] + column], new]
        done = starts[end_row - 1] + end_column
    redacted = "".join([*pieces, text[done:]])
    if not _is_python(redacted):
        return redact_lines(text)  # redaction is more important than code that runs
    return redacted, changed_lines(text, redacted)


def redact_notebook(text: str) -> tuple[str, list[int]]:
    """Return a notebook (the JSON of an ipynb file) with the credentials in its cells replaced.

    Args:
        text: The file's content.

    Returns:
        The content, with its JSON formatted anew, and the numbers of the lines that differ.
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
    return redacted, changed_lines(text, redacted)


def redact_patch(patch: str) -> tuple[str, list[int]]:
    """Return a git patch with its credentials replaced. Python files and other files are redacted differently.

    If a removed line or a context line changes, the patch no longer applies.

    Args:
        patch: The output of `git diff`.

    Returns:
        The patch, and the numbers of the lines where something was replaced.
    """
    redacted = "".join(
        # A binary patch is base85, which may match a pattern by chance.
        part if "\nGIT binary patch\n" in part else _redact_file_patch(part)
        for part in re.split(r"^(?=diff --git )", patch, flags=re.MULTILINE)
    )
    return redacted, changed_lines(patch, redacted)


def _redact_file_patch(part: str) -> str:
    """Redact the part of a patch that belongs to one file."""
    start = part.find("\n@@") + 1
    head, body = part[:start], part[start:]
    if not re.search(r"\.pyi?\"?$", head.partition("\n")[0]):
        return head + redact_text(body)
    if not is_suspicious(body):
        return part
    # A patch has no complete statements. Only private keys span lines, so everything else is searched line by line.
    return head + "\n".join(map(_redact_fragment, hide_shapes(body).split("\n")))


_NAMED_LITERAL = re.compile(
    r"(?P<name>[\w-]+)(?P<sign>[\"']?\s*\]?\s*(?::\s*[\w.\[\]| ]+?)?\s*(?:[=:,]|!=)\s*(?:\w+\s*=\s*)?\w{0,2})"
    r"(?P<quote>[\"'])(?P<value>[^\"']+)(?P=quote)"
)


def _redact_fragment(line: str) -> str:
    """Redact a single line of Python or a comment."""

    def hide(match: "re.Match[str]") -> str:
        # A quoted name before a comma may not be an assignment: `f("--token", help="…")`.
        hidden = is_credential(match["name"], match["value"])
        if hidden and "," in match["sign"]:
            hidden = looks_random(match["value"])
        return f"{match['name']}{match['sign']}{match['quote']}{REDACTED}{match['quote']}" if hidden else match[0]

    return redact_certain(_NAMED_LITERAL.sub(hide, line))


def _is_python(text: str) -> bool:
    try:
        parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


Place = tuple[int, int]


def _edits(text: str, names: dict[Place, str]) -> Iterator[tuple[Place, Place, str]]:
    """Yield the replacements in Python source: start, end and new text."""
    name, previous = "", ""
    for token in tokenize.generate_tokens(io.StringIO(text, newline="\n").readline):
        kind, old = tokenize.tok_name[token.type], token.string
        new = old
        if kind == "STRING":
            # In `"a" "b"`, both parts belong to the same name.
            name = names.get(token.start, name if previous == "STRING" else "")
            new = _redact_literal(old, name)
        elif kind.endswith("_MIDDLE"):  # an f-string, from Python 3.12 on
            new = redact_certain(old)
        elif kind == "COMMENT":
            is_magic = re.match(r"#\s*[%!?]", old)  # a shell command of a notebook
            new = redact_text(old) if is_magic else _redact_fragment(old)
        if new != old:
            yield token.start, token.end, new
        if kind not in ("NL", "COMMENT"):
            previous = kind


def _named_literals(text: str) -> dict[Place, tuple[str, str]]:
    """Return the name and the value of each literal that is assigned to a name, by the position of the literal."""
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
        elif isinstance(node, ast.Dict) and is_holder(name):
            for key, held in zip(node.keys, node.values, strict=True):
                give(f"secrets.{_name_of(key)}", held)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):  # "…".encode()
            give(name, node.func.value)
        elif isinstance(node, ast.BinOp):
            give(name, node.left)
            give(name, node.right)

    for node in ast.walk(parse(text)):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                give(_name_of(target), node.value)
                if isinstance(target, ast.Tuple | ast.List) and isinstance(node.value, ast.Tuple | ast.List):
                    for each, element in zip(target.elts, node.value.elts, strict=False):
                        give(_name_of(each), element)
        elif isinstance(node, ast.ClassDef) and is_holder(node.name):
            for statement in node.body:
                if isinstance(statement, ast.Assign | ast.AnnAssign):
                    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                    for target in targets:
                        give(f"secrets.{_name_of(target)}", statement.value)
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            give(_name_of(node.target), node.value)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                give(_name_of(key), value)
        elif isinstance(node, ast.Compare):
            for value in node.comparators:
                give(_name_of(node.left), value)
        elif isinstance(node, ast.Tuple | ast.List):
            if len(node.elts) == 2 and isinstance(node.elts[0], ast.Constant):
                give(_name_of(node.elts[0]), node.elts[1])
            _give_options(node.elts, give)
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


_COMMANDS = re.compile(r"curl|wget|sshpass|mysql\w*|mariadb|docker|podman|redis-cli|mongo\w*")


_TOLD = re.compile(r"(?i)\b(?:pass\w*|token|secret|key|pin|login|credentials?)\b[^%]{0,20}%[sr]")


def _give_options(elements: list[ast.expr], give: Callable[[str | None, ast.AST | None], None]) -> None:
    """Give names to the values of options in a list of arguments, as in `["curl", "-u", "me:…"]`."""
    texts = [node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "" for node in elements]
    for number in range(1, len(texts)):
        option, value = texts[number - 1], texts[number]
        if not re.fullmatch(r"--?[A-Za-z][\w-]*", option) or value.startswith("--"):
            continue
        is_command = any(_COMMANDS.fullmatch(text) for text in texts[:number])
        if option in ("-u", "--user", "-p", "-a") and is_command and re.search(r"\d", value.rpartition(":")[2]):
            give("password", elements[number])
        else:
            give(option.lstrip("-"), elements[number])


def _give_arguments(call: ast.Call, give: Callable[[str | None, ast.AST | None], None]) -> None:
    """Give names to literals in calls such as `getenv("TOKEN", "…")` and `add_argument("--token", default="…")`."""
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
    if function in ("login", "connect", "authenticate", "sign_in"):  # connect("host", "user", "…")
        for value in call.args[1:]:
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and looks_generated(value.value):
                give("password", value)
    if texts and isinstance(texts[0], str) and "%" in texts[0] and _TOLD.search(texts[0]):  # log("token %s", "…")
        for value in call.args[1:]:
            give("key", value)
    if function == "login":  # wandb.login(key="…")
        for value in (*call.args, *(keyword.value for keyword in call.keywords if keyword.arg in ("key", "token"))):
            give("api_key", value)


def _name_of(node: ast.AST | None) -> str | None:
    """Return `name` for each of `name`, `x.name`, `x["name"]` and `"name"`."""
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
    if "f" not in match["prefix"].lower() and is_credential(name, body):
        body = REDACTED + "".join(re.findall(r"\\?\n", body))  # as many lines as before
    else:
        body = redact_certain(body)
    return f"{match['prefix']}{match['quote']}{body}{match['quote']}"


def is_credential(name: str, value: str) -> bool:
    """Return True if a literal looks like a credential, judging by its name and its value."""
    words = spaced(name)
    if not words or VOCABULARY.search(words) or PLACEHOLDER.fullmatch(value) or REDACTED in value:
        return False
    if is_name_of_secret(name, value):
        return False
    if not is_secret_name(name):
        return hints_at_secret(name) and looks_generated(value)
    if is_holder(name.rpartition(".")[0]) and not is_secret_name(name.rpartition(".")[2]):
        return looks_generated(value)
    if _WEAK_NAME.search(words) and not re.search(r"api|access|secret", words, re.IGNORECASE):
        return looks_random(value)
    return True


# Cached, because most texts are the same in every checkpoint of a run.
@lru_cache(maxsize=4096)
def redact_certain(text: str) -> str:
    """Redact a literal or a comment, but only what is certainly a credential: code may depend on other text."""
    text = _URL_IN_CODE.sub(_redact_url, hide_shapes(text))
    return hide_places(_IN_TEXT.sub(_redact_in_text, text))


def _redact_url(match: "re.Match[str]") -> str:
    return match[0] if PLACEHOLDER.fullmatch(match["value"]) else f"{match['user'] or ''}{REDACTED}"


def _redact_in_text(match: "re.Match[str]") -> str:
    name, value, sign = match["name"], match["value"], match["sign"]
    if REDACTED[:-1] in value or value == name or PLACEHOLDER.fullmatch(value):
        return match[0]
    inner = value.partition("=")
    if inner[1] and not is_credential(name, value):  # --env=PASSWORD=…
        hidden = is_credential(inner[0], inner[2])
        return f"{name}{sign}{inner[0]}={REDACTED}" if hidden else match[0]
    # In a text, a name that hints must stand before something that looks generated.
    if VOCABULARY.search(spaced(name)) or not (is_credential(name, value) or _ends_in_secret(name)):
        return match[0]
    is_code = match.string[match.end() : match.end() + 1] in ("(", "[") or re.match(
        r"(self|args|os|cfg|config)\.", value
    )
    is_prose = sign.strip() == ":" and not looks_random(value)
    return match[0] if is_code or is_prose else f"{name}{sign}{REDACTED}"


def _ends_in_secret(name: str) -> bool:
    """Return True for a name in a text, such as the parameter of a URL, whose value is always a credential."""
    return (
        is_secret_name(name) and re.search(r"(passw|passp|pwd|secret|token|key|signature)\w*$", name, re.I) is not None
    )
