"""Encoded values compared with one another, and their digests."""

import hashlib
import struct
from collections.abc import Callable
from typing import Any

import torch

from lightning_dtool.resuming.plain_state.encoding import Encoded


def equal(one: Encoded, its_table: list[dict[str, Any]], other: Encoded, other_table: list[dict[str, Any]]) -> bool:
    """Return whether two encoded values are the same, bit for bit.

    Args:
        one: An encoded value.
        its_table: The table to which it belongs.
        other: Another encoded value.
        other_table: The table to which that belongs.
    """
    seen: set[tuple[int, int]] = set()

    def same(a: Any, b: Any) -> bool:
        if type(a) is not type(b):
            return False
        if isinstance(a, dict):
            if a.get("kind") == b.get("kind") == "new":
                pair = (a["index"], b["index"])
                if pair in seen:
                    return True
                seen.add(pair)
                return same(its_table[a["index"]], other_table[b["index"]])
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        if isinstance(a, list):
            return len(a) == len(b) and all(map(same, a, b))
        if isinstance(a, torch.Tensor):
            return a.dtype == b.dtype and a.shape == b.shape and _bytes_of(a) == _bytes_of(b)
        if isinstance(a, float):
            return struct.pack("d", a) == struct.pack("d", b)
        return bool(a == b)

    return same(one, other)


def digest(
    encoded: Encoded, table: list[dict[str, Any]], of_tensor: Callable[[torch.Tensor], bytes] | None = None
) -> str:
    """Return a digest of an encoded value, which is the same in every process.

    Args:
        encoded: The value.
        table: The table to which it belongs.
        of_tensor: Returns what counts of the values of a tensor; None for all of them.
    """
    found = hashlib.blake2b(digest_size=16)
    seen: set[int] = set()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            if value.get("kind") == "new":
                found.update(f"new{value['index']}".encode())
                if value["index"] not in seen:
                    seen.add(value["index"])
                    add(table[value["index"]])
                return
            for key, entry in value.items():
                found.update(f"<{key}>".encode())
                add(entry)
        elif isinstance(value, list):
            found.update(f"[{len(value)}]".encode())
            for entry in value:
                add(entry)
        elif isinstance(value, torch.Tensor):
            found.update(f"{value.dtype}{tuple(value.shape)}".encode())
            found.update((of_tensor or _bytes_of)(value))
        else:
            found.update(f"{type(value).__name__}:{value!r};".encode(errors="replace"))

    add(encoded)
    return found.hexdigest()


def _bytes_of(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
