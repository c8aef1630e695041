"""The search of files for what looks like a credential or names a person, before a dataset is published."""

import io
import json
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from lightning_dtool.redaction.names import REDACTED, is_secret
from lightning_dtool.redaction.secret_files import is_secret_file
from lightning_dtool.redaction.source import redact_patch, redact_source
from lightning_dtool.redaction.text import redact_text
from lightning_dtool.zip_entries import compression_fault, read_entry

MAX_BYTES = 64 * 2**20
"""Maximum size in bytes of a file that is searched."""

_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error)
"""What `zipfile` raises for a damaged archive, beside errors of Python."""

_MAX_DEPTH = 3
"""Maximum number of archives inside of one another."""

_MAX_SHOWN = 160

_EMAIL = re.compile(
    r"(?<![\w.+/:-])(?!git@)[A-Za-z0-9][\w.+-]*@(?!(?:[\w-]+\.)*example\.(?:com|org|net))"
    r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b"
)
_HOME = re.compile(r"(?:/home/|/Users/|\b[A-Za-z]:\\+Users\\+)(?!runner\b|user\b|me\b|USER\b)[\w.-]+")


@dataclass(frozen=True)
class Found:
    """Something that may not be meant to be published."""

    kind: str
    """`credential`, `e-mail address`, `home folder`, `file of credentials` or `not searched`."""
    file: str
    """The file, and after a `!` that inside of an archive."""
    place: str
    """The line, or the path of a value. Empty for a whole file."""
    text: str
    """What was found. Of a credential, only what surrounds it."""


def scan_file(name: str, content: bytes, depth: int = 0) -> Iterator[Found]:
    """Yield what is found in a file. No code of the file runs.

    Args:
        name: The file's path, which says what kind of file it is.
        content: Its content.
        depth: The number of archives around it.
    """
    if is_secret_file(name.rpartition("!")[2]):
        yield Found("file of credentials", name, "", "its name is that of a file with credentials")
    if content[:4] == b"PK\x03\x04":
        yield from scan_archive(name, io.BytesIO(content), depth)
    elif name.endswith(".pkl"):
        yield from _scan_pickle(name, content)
    elif b"\0" not in content[:8192]:
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
        yield from _scan_text(name, text)


def scan_archive(name: str, archived: IO[bytes], depth: int = 0) -> Iterator[Found]:
    """Yield what is found in the files of a zip archive, such as a checkpoint, whose tensors are not read.

    Args:
        name: The archive's path.
        archived: The archive.
        depth: The number of archives around it.
    """
    try:
        with zipfile.ZipFile(archived) as archive:
            for member in archive.infolist():
                inner = f"{name}!{member.filename}"
                if re.search(r"/data/\d+$", member.filename):  # the numbers of a tensor
                    continue
                if depth >= _MAX_DEPTH or member.file_size > MAX_BYTES:
                    yield Found("not searched", inner, "", "it is too large, or too deep inside of archives")
                    continue
                fault = compression_fault([member])
                if fault is not None:
                    yield Found("not searched", inner, "", fault)
                    continue
                yield from scan_file(inner, read_entry(archive, member), depth + 1)
    except (*_DAMAGED, NotImplementedError, RuntimeError, OSError, EOFError, ValueError) as error:
        yield Found("not searched", name, "", f"the archive cannot be read: {type(error).__name__}")


def _scan_pickle(name: str, content: bytes) -> Iterator[Found]:
    """Search the texts of a pickle, such as the hyperparameters of a checkpoint, without unpickling it."""
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if isinstance(argument, str) and "UNICODE" in opcode.name:
                texts.append(argument)
            elif opcode.name not in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
                texts.append("")
    except Exception as error:  # genops raises many kinds of errors for a damaged pickle
        yield Found("not searched", name, "", f"the pickle cannot be read: {type(error).__name__}")
    # The value of a name follows it.
    for before, text in zip(["", *texts], texts, strict=False):
        if text:
            yield from _scan_value(name, before or "a text", before, text)


def _scan_text(name: str, text: str) -> Iterator[Found]:
    bare = name.rpartition("!")[2]
    if bare.endswith((".json", ".ipynb")):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            pass
        else:
            yield from _scan_json(name, content)
            return
    if bare.endswith(".patch"):
        if "\nGIT binary patch\n" in text:
            yield Found("not searched", name, "", "it has changes of binary files")
        redacted = redact_patch(text)[0]
    else:
        redacted = redact_source(text)[0] if bare.endswith(".py") else redact_text(text)
    for number, (old, new) in enumerate(zip(text.split("\n"), redacted.split("\n"), strict=False), 1):
        yield from _of_line(name, f"line {number}", old, new)


def _scan_json(name: str, value: Any, path: str = "", key: str = "", depth: int = 0) -> Iterator[Found]:
    if depth > 200:
        yield Found("not searched", name, path[:_MAX_SHOWN], "it is too deep")
    elif isinstance(value, dict):
        for each, inner in value.items():
            yield from _scan_json(name, inner, f"{path}.{each}" if path else each, each, depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _scan_json(name, inner, f"{path}[{index}]", key, depth + 1)
    elif isinstance(value, str):
        yield from _scan_value(name, path, "" if path.startswith("gaps[") else key, value)


def _scan_value(name: str, place: str, key: str, value: str) -> Iterator[Found]:
    if "\n" not in value and REDACTED not in value and is_secret(key, value):
        yield Found("credential", name, place, f"{key}: {REDACTED}")
        return
    redacted = redact_text(value)
    for old, new in zip(value.split("\n"), redacted.split("\n"), strict=False):
        yield from _of_line(name, place, old, new)


def _of_line(name: str, place: str, old: str, new: str) -> Iterator[Found]:
    if old != new and old.count(REDACTED) < new.count(REDACTED):
        yield Found("credential", name, place, new.strip()[:_MAX_SHOWN])
    for kind, pattern in (("e-mail address", _EMAIL), ("home folder", _HOME)):
        for text in dict.fromkeys(match[0] for match in pattern.finditer(new)):
            yield Found(kind, name, place, text[:_MAX_SHOWN])
