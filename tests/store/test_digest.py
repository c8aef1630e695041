"""Identifiers, hashes of files, and content digests."""

import hashlib
from pathlib import Path

import pytest
from dtoolcore.utils import generate_identifier as dtools_identifier

from lightning_dtool.store import Item, generate_identifier
from lightning_dtool.store.digest import CHUNK, algorithm_of, content_digest, hash_file, same_hash


@pytest.mark.parametrize("relpath", ["hello.txt", "a/b", "ü"])
def test_identifiers_are_dtools(relpath: str) -> None:
    assert generate_identifier(relpath) == dtools_identifier(relpath)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 1])
def test_hash_file(tmp_path: Path, size: int) -> None:
    content = bytes(i % 251 for i in range(size % 1000)) + b"x" * (size - size % 1000)
    path = tmp_path / "x"
    path.write_bytes(content)
    assert hash_file(path, "sha256") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("md5sum_hexdigest", "md5"),
        ("shasum", "sha1"),
        ("sha1sum_hexdigest", "sha1"),
        ("sha256sum_hexdigest", "sha256"),
        ("md5sum_digest", "md5"),
        ("sha512", "sha512"),
        ("crc", None),
        ("sha224sum_hexdigest", None),
        ("sha3_256", None),
        ("sha512_256", None),
    ],
)
def test_dtools_hash_functions(name: str, algorithm: str | None) -> None:
    assert algorithm_of(name) == algorithm


def test_a_hash_may_be_recorded_in_base64() -> None:
    assert same_hash("900150983cd24fb0d6963f7d28e17f72", "900150983CD24FB0D6963F7D28E17F72")
    assert same_hash("900150983cd24fb0d6963f7d28e17f72", "kAFQmDzST7DWlj99KOF/cg==")
    assert not same_hash("900150983cd24fb0d6963f7d28e17f72", "")


def test_the_content_digest_depends_on_the_data_only(make_dataset) -> None:
    one = make_dataset({"a": b"1", "b": b"2"}, "one", annotations={"x": 1})
    same = make_dataset({"b": b"2", "a": b"1"}, "same", tags=("t",))
    other = make_dataset({"a": b"2", "b": b"1"}, "other")
    assert one.content_digest == same.content_digest != other.content_digest
    assert one.content_digest.startswith("sha256:")


def test_the_content_digest_is_fixed_for_ever() -> None:
    items = [Item("i", "b", 1, "h"), Item("j", "a", 2, "g")]
    lines = b'["a", 2, "g"]\n["b", 1, "h"]\n'
    assert content_digest(items) == "sha256:" + hashlib.sha256(lines).hexdigest()
