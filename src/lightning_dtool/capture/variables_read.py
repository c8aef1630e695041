"""The environment variables that the user's code reads: those it was seen to read, and those that its source names."""

import ast
import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_dtool.capture.environment import MAX_TEXT
from lightning_dtool.record import Gaps, as_text
from lightning_dtool.redaction.record import add_redaction
from lightning_dtool.redaction.text import redact_variable
from lightning_dtool.values.definitions import is_users
from lightning_dtool.values.parsing import parse
from lightning_dtool.watch.variables import read_variables

_MAX_NAMES = 200

_MENTIONS = re.compile(rb"environ|getenv|envvar|oc\.env|BaseSettings")

_RESOLVED = re.compile(r"\$\{oc\.env:\s*([A-Za-z_]\w*)")
"""A variable in a configuration of OmegaConf or Hydra."""

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)

_PREFIX = re.compile(r"[A-Z][A-Z0-9_]*_")

_LOOK_UPS = frozenset({"get", "getenv", "pop", "setdefault"})

_OF_OPTIONS = frozenset({"envvar", "env_var", "auto_env_var", "validation_alias"})
"""Keywords that name the variable of an option (click, typer, configargparse, pydantic-settings)."""

_named: dict[tuple[bool, bytes], frozenset[str]] = {}
"""The names in contents that were searched already in this process, by their digests."""


def capture_variables_read(names: frozenset[str], gaps: Gaps) -> dict[str, str | None]:
    """Return the variables that the user's code reads, with their values when first read. None: it is not set.

    Args:
        names: The names in the source, from `named_variables`. Those that were not seen to be read, as in the workers
            of a loader, have their present value. A name that ends in `*` stands for all variables that begin so.
        gaps: Receives a gap for each value that is redacted or cut.
    """
    found = read_variables()
    for name in names:
        if name.endswith("*"):
            found = {**{each: os.environ[each] for each in _present() if each.startswith(name[:-1])}, **found}
        else:
            found.setdefault(name, os.environ.get(name))
    for name, value in _of_settings():
        found.setdefault(name, value)
    kept = sorted(found)[:_MAX_NAMES]
    if len(kept) < len(found):
        gaps.add(f"only the first {_MAX_NAMES} of {len(found)} variables are recorded")
    return {as_text(name): _shown(name, found[name], gaps) for name in kept}


def _shown(name: str, value: str | None, gaps: Gaps) -> str | None:
    if value is None:
        return None
    text = as_text(value)
    redacted = redact_variable(name, text)
    if redacted != text:
        add_redaction(gaps.at(as_text(name)))
    elif len(text) > MAX_TEXT:
        gaps.at(as_text(name)).add(f"only the first {MAX_TEXT} of its {len(text)} characters are recorded")
    return redacted[:MAX_TEXT]


def _present() -> list[str]:
    return list(os.environ)


def _of_settings() -> Iterator[tuple[str, str | None]]:
    """Yield the variables of the user's classes of settings. pydantic-settings lists all variables and reads none."""
    base = getattr(sys.modules.get("pydantic_settings"), "BaseSettings", None)
    pending: list[Any] = list(base.__subclasses__()) if isinstance(base, type) else []
    present = {name.lower(): name for name in _present()} if pending else {}
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if is_users(kind):
            prefix = str(kind.model_config.get("env_prefix", ""))
            for field in kind.model_fields:
                name = present.get(f"{prefix}{field}".lower(), f"{prefix}{field}".upper())
                yield name, os.environ.get(name)


# -- names in the source --------------------------------------------------------------------------


def named_variables(sources: Mapping[str, bytes]) -> frozenset[str]:
    """Return the names of environment variables that source files and configurations name. This is quick.

    Args:
        sources: The content of the files, by path. A file that mentions no variable is not parsed.

    Returns:
        The names. `PREFIX_*` stands for the variables of a file that lists all of them and looks for a prefix.
    """
    found: set[str] = set()
    for path, content in sources.items():
        is_code = not path.endswith((".yaml", ".yml", ".json", ".ipynb", ".patch"))
        key = is_code, hashlib.sha256(content).digest()
        if key not in _named:
            _named[key] = _named_in(content, is_code)
        found |= _named[key]
    return frozenset(found)


def _named_in(content: bytes, is_code: bool) -> frozenset[str]:
    if not _MENTIONS.search(content):
        return frozenset()
    found = set(_RESOLVED.findall(content.decode("utf-8", "replace")))
    if is_code:
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            found |= set(_names_in(parse(content)))
    return frozenset(found)


def _names_in(tree: ast.AST) -> Iterator[str]:
    lists_all = False
    prefixes: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and _is_environ(node.value) and isinstance(node.ctx, ast.Load):
            yield from _text(node.slice)
        elif isinstance(node, ast.Compare) and any(map(_is_environ, node.comparators)):
            yield from _text(node.left)
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Attribute) and _is_environ(called.value):
                lists_all |= called.attr in ("items", "keys", "copy")
                yield from _text(node.args[0]) if node.args and called.attr in _LOOK_UPS else ()
            elif _last(called) == "getenv" and node.args:
                yield from _text(node.args[0])
            elif _last(called) == "startswith" and node.args:
                prefixes |= {f"{each}*" for each in _text(node.args[0], _PREFIX)}
            lists_all |= any(map(_is_environ, node.args))
            for keyword in node.keywords:
                if keyword.arg in _OF_OPTIONS:
                    parts = keyword.value.elts if isinstance(keyword.value, ast.List | ast.Tuple) else [keyword.value]
                    for part in parts:
                        yield from _text(part)
        elif isinstance(node, ast.comprehension | ast.For):
            lists_all |= _is_environ(node.iter)
    yield from prefixes if lists_all else ()


def _is_environ(node: ast.AST) -> bool:
    return _last(node) == "environ"


def _last(node: ast.AST) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def _text(node: ast.AST, shape: "re.Pattern[str]" = _NAME) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and shape.fullmatch(node.value):
        yield node.value
