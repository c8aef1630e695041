"""Hashes of files, in the forms that dtool uses, and of a dataset's content."""

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import TYPE_CHECKING

from lightning_dtool.store.item import Item

if TYPE_CHECKING:
    from hashlib import _Hash

CHUNK = 1024 * 1024
MD5_HEXDIGEST = "md5sum_hexdigest"
"""dtool's name of the hash function that most stores use."""

_ALGORITHMS = {"md5": "md5", "sha": "sha1", "sha1": "sha1", "sha256": "sha256", "sha512": "sha512"}
# Not any name that begins like these: "sha512_256" and "sha3_256" are other functions.
_HASH_FUNCTION = re.compile(r"(md5|sha|sha1|sha256|sha512)(sum)?(_(hex)?digest)?")


def generate_identifier(relpath: str) -> str:
    """Return dtool's identifier of an item.

    Args:
        relpath: The item's relative path.

    Returns:
        The SHA-1 of the path, in hexadecimal digits.

    Example:
        >>> generate_identifier("hello.txt")
        '3857b672471862eab426eba0622e44bd2cedbd5d'
    """
    return hashlib.sha1(relpath.encode(), usedforsecurity=False).hexdigest()


def generate_identifiers(relpaths: Iterable[bytes]) -> list[str]:
    """Return the identifiers of several items; see `generate_identifier`.

    Args:
        relpaths: The items' relative paths, in UTF-8.
    """
    sha1 = hashlib.sha1
    return [sha1(relpath, usedforsecurity=False).hexdigest() for relpath in relpaths]


def new_hash(algorithm: str, content: bytes = b"") -> "_Hash":
    """Return a new hash object. MD5 also works on systems that forbid it for security.

    Args:
        algorithm: "md5", "sha1", "sha256" or "sha512".
        content: The first bytes to hash. By default none.
    """
    return hash_maker(algorithm)(content)


@cache
def hash_maker(algorithm: str) -> "Callable[[bytes], _Hash]":
    """Return the function that makes hash objects of an algorithm from the first bytes to hash; see `new_hash`.

    Args:
        algorithm: A name for `new_hash`.
    """
    # Not `hashlib.new`, which takes longer than the hash of a small file.
    return partial(getattr(hashlib, algorithm), usedforsecurity=False)


def algorithm_of(hash_function: str) -> str | None:
    """Return the algorithm of a manifest's `hash_function`.

    Args:
        hash_function: dtool's name of a function, such as "md5sum_hexdigest".

    Returns:
        A name for `new_hash`, or None if the function is unknown.
    """
    found = _HASH_FUNCTION.fullmatch(hash_function)
    return None if found is None else _ALGORITHMS[found[1]]


def hash_file(path: str | os.PathLike[str], algorithm: str) -> str:
    """Return the hash of a file's content in hexadecimal digits.

    Args:
        path: The file.
        algorithm: A name for `new_hash`.
    """
    with open(path, "rb", buffering=0) as file:
        return hash_open_file(file, algorithm)


def hash_open_file(file: io.FileIO, algorithm: str) -> str:
    """Return the hash of the rest of an open file in hexadecimal digits.

    Args:
        file: The file, unbuffered.
        algorithm: A name for `new_hash`.
    """
    hasher = new_hash(algorithm)
    buffer = memoryview(bytearray(CHUNK))
    while read := file.readinto(buffer):
        hasher.update(buffer[:read])
    return hasher.hexdigest()


def hash_bytes(content: bytes, algorithm: str) -> str:
    """Return the hash of bytes in hexadecimal digits.

    Args:
        content: The bytes.
        algorithm: A name for `new_hash`.
    """
    return new_hash(algorithm, content).hexdigest()


def same_hash(hexdigest: str, recorded: str) -> bool:
    """Tell whether a hash equals the recorded one. Some brokers record base64 instead of hexadecimal digits.

    Args:
        hexdigest: The computed hash, in hexadecimal digits.
        recorded: The hash in a manifest.
    """
    return (
        recorded == hexdigest
        or recorded.lower() == hexdigest
        or recorded == base64.b64encode(bytes.fromhex(hexdigest)).decode()
    )


def content_digest(items: Iterable[Item]) -> str:
    """Return the identity of data, independent of URI, UUID and metadata.

    Args:
        items: The items, in any order.

    Returns:
        "sha256:" and the SHA-256 over one JSON line `[relpath, size, hash]` per item, sorted by path.
    """
    hasher = new_hash("sha256")
    for item in sorted(items, key=lambda item: item.relpath):
        hasher.update(json.dumps([item.relpath, item.size_in_bytes, item.hash]).encode() + b"\n")
    return f"sha256:{hasher.hexdigest()}"
