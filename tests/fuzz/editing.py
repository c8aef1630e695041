"""Edits of content in the terms of its format: values of other types, keys that are removed, keys that are added."""

import io
import json
import math
import random
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from fuzz.originals import npy

HOSTILE = "\x1b[2J\x9b31m\u202e:smile: [red]\r\b"
"""Characters that would change what a terminal shows."""

_VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    10**400,
    1.5,
    math.nan,
    math.inf,
    "",
    "x",
    HOSTILE,
    "../../outside/secret.txt",
    "/etc/passwd",
    "file:///etc",
    "http://127.0.0.1:9/x",
    "os:system",
    "9" * 5000,
    "\ud800",
    [],
    [None, [1]],
    {},
    {"": {"x": HOSTILE}},
]

_KEYS = ["", "x", "__class__", "_instantiator", "uri", "class_path", "../x", HOSTILE, "k" * 5000, "0"]

Edit = Callable[[Any, random.Random], None]


def other_type(value: Any, chance: random.Random) -> None:
    """Replace a value somewhere in nested dicts and lists by one of another type."""
    holder, key = _place(value, chance)
    if holder is not None:
        held = type(holder[key])
        holder[key] = chance.choice([other for other in _VALUES if type(other) is not held or isinstance(other, str)])


def without_key(value: Any, chance: random.Random) -> None:
    """Remove an entry somewhere in nested dicts and lists."""
    holder, key = _place(value, chance)
    if holder is not None:
        del holder[key]


def with_key(value: Any, chance: random.Random) -> None:
    """Add an entry somewhere in nested dicts and lists."""
    holder = chance.choice(_holders(value) or [None])
    if isinstance(holder, dict):
        holder[chance.choice(_KEYS)] = chance.choice(_VALUES)
    elif holder is not None:
        holder.insert(chance.randint(0, len(holder)), chance.choice(_VALUES))


def edited(content: bytes, relpath: str, edit: Edit, chance: random.Random) -> bytes:
    """Return the content of a file after an edit.

    Args:
        content: The content.
        relpath: The file's path, whose suffix says which format it has.
        edit: `other_type`, `without_key` or `with_key`.
        chance: Chooses the place and the value.
    """
    suffix = "json" if relpath == ".dtool/dtool" else relpath.rpartition(".")[2]
    return _FORMATS.get(suffix, _lines)(content, edit, chance)


def _holders(value: Any) -> list[Any]:
    """Return all dicts and lists in a value. Large lists of numbers count once."""
    found, left = [], [value]
    while left:
        each = left.pop()
        if isinstance(each, dict | list):
            found.append(each)
            left += list(each.values()) if isinstance(each, dict) else each[:20]
    return found


def _place(value: Any, chance: random.Random) -> tuple[Any, Any]:
    places = [
        (holder, key)
        for holder in _holders(value)
        for key in (list(holder) if isinstance(holder, dict) else range(min(len(holder), 20)))
    ]
    return chance.choice(places) if places else (None, None)


# -- formats ------------------------------------------------------------------------------------


def _json(content: bytes, edit: Edit, chance: random.Random) -> bytes:
    if chance.random() < 0.1:
        return json.dumps(chance.choice(_VALUES)).encode()  # another type of the whole
    value = json.loads(content)
    if not isinstance(value, dict | list):
        return json.dumps(chance.choice(_VALUES)).encode()
    edit(value, chance)
    return json.dumps(value).encode()


def _yaml(content: bytes, edit: Edit, chance: random.Random) -> bytes:
    value = yaml.safe_load(content)
    edit(value, chance)
    return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")


def _checkpoint(content: bytes, edit: Edit, chance: random.Random) -> bytes:
    value = torch.load(io.BytesIO(content), weights_only=False)  # an original
    edit(value, chance)
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _array(content: bytes, edit: Edit, chance: random.Random) -> bytes:
    array = np.load(io.BytesIO(content))
    if edit is without_key:
        return npy(array[: chance.randint(0, len(array) - 1)])
    if edit is with_key:
        return npy(np.stack([array] * 2) if chance.random() < 0.5 else np.concatenate([array] * 2))
    header = b"(999999999999,)" if array.ndim == 1 else b"((24, 8"
    shape = str(array.shape).encode()
    choices = [
        npy(np.array([{"x": 1}, None] * 12, dtype=object)),
        npy(array.astype("U8")),
        npy(array.astype("M8[s]")),
        npy(array.astype(complex)),
        npy(np.full_like(array, -7)),
        npy(np.zeros(24, dtype=[("a", "f4"), ("b", "O")])),
        npy(np.float32(3)),
        content.replace(shape, header + b" " * (len(shape) - len(header))),
        content.replace(b"'descr'", chance.choice([b"__imp__", b"'\xff\xfe\xfd\xfc\xfb'"])),
    ]
    return chance.choice(choices)


def _image(content: bytes, edit: Edit, chance: random.Random) -> bytes:
    buffer = io.BytesIO()
    if edit is other_type:
        mode, form = chance.choice(
            [
                ("L", "PNG"),
                ("RGBA", "PNG"),
                ("I;16", "PNG"),
                ("1", "PNG"),
                ("CMYK", "JPEG"),
                ("RGB", "EPS"),
                ("P", "GIF"),
            ]
        )
        Image.new(mode, (8, 8)).save(buffer, form)
        return buffer.getvalue()
    if edit is with_key:
        at = chance.choice([8, 33, len(content) - 12])
        return content[:at] + b"\x7f\xff\xff\xffzTXt" + bytes(64) + content[at:]
    at = chance.randint(8, len(content) - 13)
    return content[:at] + content[at + 12 :]


def _archive(content: bytes, edit: Edit, chance: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    kind = zipfile.ZIP_DEFLATED
    if edit is without_key and entries:
        del entries[chance.choice(list(entries))]
    elif edit is with_key:
        names = [
            "../../outside/evil.py",
            "/tmp/evil.py",
            "a\x00b.py",
            "x" * 4000,
            "d/",
            HOSTILE,
            "C:\\x.py",
            "a/../b.py",
        ]
        entries[chance.choice(names)] = b"raise SystemExit('ran')\n"
    elif entries:
        kind = chance.choice([zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
        entries[chance.choice(list(entries))] = chance.randbytes(3000)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    made = bytearray(buffer.getvalue())
    if kind != zipfile.ZIP_DEFLATED:
        made[100:140] = b"\xff" * 40
    return bytes(made)


def _lines(content: bytes, edit: Edit, chance: random.Random) -> bytes:
    lines = content.split(b"\n")
    at = chance.randrange(len(lines))
    value = json.dumps(chance.choice(_VALUES)).encode()
    if edit is without_key:
        del lines[at]
    elif edit is with_key:
        lines.insert(at, value)
    else:
        fields = lines[at].split(b",")
        fields[chance.randrange(len(fields))] = HOSTILE.encode() if chance.random() < 0.5 else value
        lines[at] = b",".join(fields)
    return b"\n".join(lines)


_FORMATS: dict[str, Callable[[bytes, Edit, random.Random], bytes]] = {
    "json": _json,
    "yml": _yaml,
    "ckpt": _checkpoint,
    "npy": _array,
    "png": _image,
    "jpg": _image,
    "zip": _archive,
}
