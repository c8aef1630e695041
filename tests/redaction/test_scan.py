"""What is found in files before they are published, and what is not."""

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from typing import Any

import pytest

from lightning_dtool.redaction.scan import scan_file

SECRET = "Zq7Kx8fT3mW2"


class Evil:
    """An object that runs code if it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise AssertionError",)


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def kinds(name: str, content: bytes) -> list[tuple[str, str, str]]:
    return [(found.kind, found.file, found.place) for found in scan_file(name, content)]


def test_texts_archives_and_pickles_are_searched_without_running_code() -> None:
    hparams = pickle.dumps({"lr": 0.1, "api_key": SECRET, "x": Evil()})
    inner = zipped(**{"train.py": f'x = 1\npassword = "{SECRET}"\n'.encode(), "archive/data.pkl": hparams})
    content = zipped(**{"inner.zip": inner, "archive/data/0": SECRET.encode()})
    assert kinds("a.zip", content) == [
        ("credential", "a.zip!inner.zip!train.py", "line 2"),
        ("credential", "a.zip!inner.zip!archive/data.pkl", "api_key"),
    ]
    assert not any(SECRET in found.text for found in scan_file("a.zip", content))


def test_persons_and_files_of_credentials_are_found() -> None:
    record = {"code": {"working_directory": "/home/ann/leaves"}, "note": "ask ann@uni-x.org", "uri": "git@github.com:x"}
    assert kinds("provenance.json", json.dumps(record).encode()) == [
        ("home folder", "provenance.json", "code.working_directory"),
        ("e-mail address", "provenance.json", "note"),
    ]
    assert kinds("deploy/.env", b"A=1\n") == [("file of credentials", "deploy/.env", "")]


def test_harmless_and_redacted_files_are_not_listed() -> None:
    for name, content in {
        "provenance.json": json.dumps({"model": {"key": "train_loss", "token": "[redacted]", "lr": 0.1}}).encode(),
        "train.py": b'pad_token = "[PAD]"\npassword = "[redacted]"\n',
        "README.yml": b"owner: me@example.org\npath: /data/leaves\n",
        "x.bin": b"\0password=abc",
    }.items():
        assert kinds(name, content) == []


def test_damaged_and_deep_archives_are_said_to_be_unsearched() -> None:
    assert kinds("a.zip", b"PK\x03\x04nothing")[0][0] == "not searched"
    deep = b"x"
    for _ in range(6):
        deep = zipped(a=deep)
    assert [found.kind for found in scan_file("a.zip", deep)] == ["not searched"]
    assert kinds("a.pkl", b"\x80\x05X")[0][0] == "not searched"
    assert kinds("a.json", b"[" * 100_000) == []
    assert kinds("git.patch", b"diff --git a/x b/x\nGIT binary patch\npassword=abcdefgh\n")[0][0] == "not searched"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_an_archive_that_is_damaged_in_any_compression_is_said_to_be_unsearched(method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as opened:
        opened.writestr("net.py", bytes(range(256)) * 40)
    content = bytearray(buffer.getvalue())
    content[50:90] = b"\xff" * 40
    (found,) = scan_file("a.zip", bytes(content))
    assert found.kind == "not searched"
    assert found.file == ("a.zip" if method == zipfile.ZIP_DEFLATED else "a.zip!net.py")


def test_an_entry_that_unpacks_to_more_than_it_says_takes_no_memory() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_BZIP2) as opened:
        opened.writestr("net.py", bytes(300 * 2**20))
    # 100 bytes, in the two places that state the size.
    content = buffer.getvalue().replace(struct.pack("<I", 300 * 2**20), struct.pack("<I", 100))
    tracemalloc.start()
    (found,) = scan_file("a.zip", content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.kind, found.file) == ("not searched", "a.zip!net.py")
    assert peak < 50 * 2**20
