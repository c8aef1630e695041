"""Fingerprints of data that is not a dtool dataset: digests of the content that is quick to read."""

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from lightning_dtool.record import as_text
from lightning_dtool.values.digests import digest_of_numbers, nbytes

MAX_FINGERPRINT_BYTES = 64 * 2**20
"""Maximum size of data in memory that gets a fingerprint, in bytes."""

MAX_FINGERPRINT_ENTRIES = 10_000
"""Maximum number of tensors and arrays of one attribute that a fingerprint covers."""

_BYTES_OF_A_VALUE = 200
"""Number of bytes that a plain value counts as. Writing a value as text takes as long as hashing this many bytes."""

MAX_FINGERPRINT_FILES = 10_000
"""Maximum number of files in a folder that gets a fingerprint."""


def fingerprint(dataset: Any) -> tuple[str | None, str]:
    """Return a digest of those parts of a dataset's content that are quick to read.

    For data in memory, this covers tensors, arrays and lists of tensors, arrays or plain values. For a folder whose
    files the dataset lists as torchvision's datasets do, it covers the names, sizes and targets of the files.

    Args:
        dataset: Any object. It is not changed, and no sample is requested.

    Returns:
        `sha256:…` or None, and a description of what the digest covers.

    Example:
        >>> fingerprint(torch.utils.data.TensorDataset(torch.zeros(2)))[1]
        'what it holds in memory: tensors'
    """
    kept = getattr(dataset, "__dict__", None)
    if isinstance(dataset, torch.Tensor | np.ndarray | list | tuple) or kept is None:
        kept = {"data": dataset}
    files: Any = kept.get("samples", kept.get("imgs"))
    if _is_file_list(files):
        return _fingerprint_of_files(files, kept.get("root"))
    hasher = hashlib.sha256()
    left = MAX_FINGERPRINT_BYTES
    covered, omitted = [], []
    for name, value in sorted(kept.items()):
        if not isinstance(value, torch.Tensor | np.ndarray | list | tuple) or not len(value):
            continue
        reader = _Reader(left)
        try:
            lines = list(reader.lines(value))
        except _TooMuchError:
            omitted.append(as_text(name))
            continue
        left = reader.left
        covered.append(as_text(name))
        hasher.update(json.dumps([name, lines]).encode())
    if not covered:
        return None, f"nothing ({', '.join(omitted)} is too large or not plain data)" if omitted else "nothing"
    rest = f", not {', '.join(omitted)}" if omitted else ""
    return f"sha256:{hasher.hexdigest()}", f"what it holds in memory: {', '.join(covered)}{rest}"


class _TooMuchError(Exception):
    """The content is too large or has no plain bytes."""


class _Reader:
    """Yields a line of text for each tensor, array or list of plain values, up to a limit of bytes."""

    def __init__(self, left: int) -> None:
        self.left = left
        self._entries = MAX_FINGERPRINT_ENTRIES

    def lines(self, value: Any) -> Iterator[str]:
        self._entries -= 1
        if self._entries < 0:
            raise _TooMuchError
        if isinstance(value, torch.Tensor | np.ndarray):
            self._spend(nbytes(value))
            digest = digest_of_numbers(value)
            if digest is None:
                raise _TooMuchError
            yield digest
        elif isinstance(value, list | tuple):
            self._spend(_BYTES_OF_A_VALUE * len(value))
            if all(type(entry) in (bool, int, float, str) for entry in value):
                self._spend(sum(len(entry) for entry in value if isinstance(entry, str)))
                yield hashlib.sha256(json.dumps(value).encode()).hexdigest()
                return
            yield f"{len(value)} entries"
            for entry in value:
                yield from self.lines(entry)
        elif type(value) in (bool, int, float, str):
            yield json.dumps(value)
        else:
            raise _TooMuchError

    def _spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise _TooMuchError


def _is_file_list(files: Any) -> bool:
    return (
        isinstance(files, list)
        and bool(files)
        and all(isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str) for entry in files[:100])
    )


def _fingerprint_of_files(files: list[tuple[str, Any]], root: Any) -> tuple[str | None, str]:
    """Return a digest over the relative paths, sizes and targets of files. No file is opened."""
    if len(files) > MAX_FINGERPRINT_FILES:
        return None, f"nothing (there are {len(files)} files, more than {MAX_FINGERPRINT_FILES})"
    start = os.fspath(root) if isinstance(root, str | os.PathLike) else None
    lines = []
    for path, target in files:
        name = os.path.relpath(path, start) if start is not None else path
        plain = target if type(target) in (bool, int, float, str) else None
        lines.append(json.dumps([name.replace(os.sep, "/"), os.stat(path).st_size, plain]))
    digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    return f"sha256:{digest}", "the names, sizes and classes of its files, not their content"
