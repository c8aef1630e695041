"""The twelve ways in which a file is changed."""

import io
import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fuzz import editing
from fuzz.originals import npy

SECRET = "what-nobody-may-be-told"
"""The content of a file outside of all datasets, to which links lead."""

PLACE = "a link, pipe or folder in its place"

_MANY = 8 * 2**20
_DEEP = 100_000


class _Runs:
    """An object whose unpickling starts a program."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("true",)


def _suffix(relpath: str) -> str:
    return "json" if relpath == ".dtool/dtool" else relpath.rpartition(".")[2]


def _truncated(content: bytes, relpath: str, chance: random.Random) -> bytes:
    return content[: chance.choice([len(content) // 2, max(0, len(content) - 1), chance.randint(0, len(content))])]


def _emptied(content: bytes, relpath: str, chance: random.Random) -> bytes:
    return b""


def _flipped(content: bytes, relpath: str, chance: random.Random) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(chance.choice([1, 4, 64])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _inserted(content: bytes, relpath: str, chance: random.Random) -> bytes:
    at = chance.randint(0, len(content))
    return content[:at] + chance.randbytes(chance.choice([1, 16, 1000])) + content[at:]


def _another_kind(content: bytes, relpath: str, chance: random.Random) -> bytes:
    return chance.choice(_others())


def _huge(content: bytes, relpath: str, chance: random.Random) -> bytes:
    suffix = _suffix(relpath)
    if suffix == "json":
        return chance.choice([b'{"x": "' + b"a" * _MANY + b'"}', b"[" + b"1," * (_MANY // 8) + b"1]", b"9" * 2**20])
    if suffix == "yml":
        anchors = [b"a0: &a0 [x,x,x,x,x,x,x,x,x]"]
        anchors += [b"a%d: &a%d [%s]" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 9)]
        return chance.choice([b"\n".join(anchors), b"description: " + b"a" * _MANY])
    if suffix == "npy":
        claims = npy(np.zeros(8)).replace(b"(8,), }" + b" " * 9, b"(9999999999,), }")
        return chance.choice([claims, npy(np.zeros(2**21))])
    if suffix in ("png", "jpg"):
        buffer = io.BytesIO()
        Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
        return buffer.getvalue()
    if suffix in ("zip", "ckpt"):
        return _bomb("archive/data.pkl" if suffix == "ckpt" else "kit.py")
    return content + b"a" * _MANY


def _nested(content: bytes, relpath: str, chance: random.Random) -> bytes:
    suffix = _suffix(relpath)
    if suffix == "ckpt":
        return _pickled(b"\x80\x02" + b"]" * _DEEP + b"a" * (_DEEP - 1) + b".")
    if suffix == "json" and content.lstrip().startswith(b"{") and chance.random() < 0.5:
        first = next(iter(json.loads(content)), "x")
        return b"{" + json.dumps(first).encode() + b": " + b"[" * _DEEP + b"]" * _DEEP + b"}"
    return b'{"a":' * _DEEP + b"1" + b"}" * _DEEP if chance.random() < 0.5 else b"[" * _DEEP + b"]" * _DEEP


def _not_utf8(content: bytes, relpath: str, chance: random.Random) -> bytes:
    at = chance.choice([0, content.find(b'"') + 1, chance.randint(0, len(content))])
    return content[:at] + chance.choice([b"\xff\xfe\x80", b"\xc3\x28", b"\xed\xa0\x80", b"\x1b[2J\x00"]) + content[at:]


def _edited_by(edit: editing.Edit) -> Callable[[bytes, str, random.Random], bytes]:
    return lambda content, relpath, chance: editing.edited(content, relpath, edit, chance)


CONTENTS: dict[str, Callable[[bytes, str, random.Random], bytes]] = {
    "truncated": _truncated,
    "emptied": _emptied,
    "bytes flipped": _flipped,
    "bytes inserted": _inserted,
    "another kind of file": _another_kind,
    "huge": _huge,
    "deeply nested": _nested,
    "not UTF-8": _not_utf8,
    "values of other types": _edited_by(editing.other_type),
    "keys removed": _edited_by(editing.without_key),
    "keys added": _edited_by(editing.with_key),
}
"""Mutations of the content of a file."""

MUTATIONS = (*CONTENTS, PLACE)


def replace_by_something_else(path: Path, outside: Path, chance: random.Random) -> None:
    """Remove a file and put something there that is no plain file, or nothing.

    Args:
        path: The file.
        outside: A folder outside of the dataset with a file `secret.txt`.
        chance: Chooses what.
    """
    content = path.read_bytes()
    path.unlink()
    chosen = chance.choice(["secret", "same", "dangling", "itself", "endless", "folder", "pipe", "above", "nothing"])
    targets = {
        "secret": outside / "secret.txt",
        "dangling": "nowhere",
        "itself": path,
        "endless": "/dev/zero",
        "above": "..",
    }
    if chosen == "same":
        (outside / "same").write_bytes(content)
        path.symlink_to(outside / "same")
    elif chosen == "folder":
        (path / "x").mkdir(parents=True)
    elif chosen == "pipe":
        os.mkfifo(path)
    elif chosen != "nothing":
        path.symlink_to(targets[chosen])


def prepare_outside(folder: Path) -> None:
    """Make the folder to which links lead."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "secret.txt").write_text(SECRET)


def _others() -> list[bytes]:
    picture, plain, runs = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    torch.save([1, 2], plain)
    torch.save({"state_dict": {}, "x": _Runs()}, runs)
    return [
        picture.getvalue(),
        plain.getvalue(),
        runs.getvalue(),
        pickle.dumps(_Runs()),
        npy(np.arange(3)),
        _bomb("x"),
        b"[1, 2]",
        b'{"schema_version": 1}',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n",
        b"\x7fELF\x02\x01\x01" + bytes(57),
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        b"!!python/object/apply:os.system ['true']\n",
        b"\0" * 300,
    ]


def _bomb(name: str) -> bytes:
    """Return an archive of a few kB with a hundred times as much in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(name, bytes(_MANY))
    return buffer.getvalue()


def _pickled(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()
