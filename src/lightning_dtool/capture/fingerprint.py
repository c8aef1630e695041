"""Fingerprints of data that is not a dtool dataset: digests of the content that is quick to read."""

import hashlib
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lightning_dtool.capture.content import Content, FoundError
from lightning_dtool.capture.tables import blocks_of
from lightning_dtool.values.attributes import attributes_of, has_hidden_state

_MAX_NAMED = 20
"""Maximum number of attributes that are named."""

_DATA = (torch.Tensor, np.ndarray, list, tuple, dict, set, frozenset, str, bytes, range, types.FunctionType)
"""What is data itself, and not an object with attributes that hold data."""


@dataclass(frozen=True)
class Fingerprint:
    """A digest of the content of data that is not a dtool dataset.

    Attributes:
        digest: `sha256:…`; None if it would cover nothing.
        covers: What it covers, in words.
        omits: What it leaves out, in words; empty if it covers everything from which samples are made.
    """

    digest: str | None
    covers: str
    omits: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether the digest covers everything from which samples are made."""
        return self.digest is not None and not self.omits


def fingerprint(dataset: Any, beside: Mapping[str, Any] | None = None) -> Fingerprint:
    """Return a digest of those parts of a dataset's content that are quick to read.

    It covers what the dataset holds in memory: tensors, arrays, tables, plain values, and containers and objects of
    these. Of files that the dataset lists, it covers the names, the sizes, and what the list says of them.

    Args:
        dataset: Any object. It is not changed, and no sample is requested.
        beside: Other objects from which samples are made, by name.

    Returns:
        The digest, what it covers, and what it leaves out: what is too large, what cannot be read without running
        code, and what is read from files or a network while training.

    Example:
        >>> found = fingerprint(torch.utils.data.TensorDataset(torch.zeros(2)))
        >>> found.covers, found.is_complete
        ('what it holds in memory: tensors', True)
    """
    content = Content()
    parts = {**_parts_of(dataset, content), **(beside or {})}
    covered, lines = [], []
    for name, value in parts.items():
        content.holds_data = False
        lines.append([name, content.line_of(value, name)])
        if content.holds_data:
            covered.append(name)
    # If the files are known, it is known what is read.
    omitted = [*content.omitted, *([] if content.files.found else content.reading)]
    if not covered:
        return Fingerprint(None, "nothing", tuple(omitted) or ("the samples, which it does not hold in memory",))
    digest = hashlib.sha256(json.dumps(lines).encode()).hexdigest()
    return Fingerprint(f"sha256:{digest}", _in_words(covered, content.files.found), tuple(omitted))


def holds_data(value: Any) -> bool:
    """Return whether an object holds arrays, tables or other data itself. Datasets inside it do not count.

    Args:
        value: A wrapper around a dataset, or another object.
    """
    content = Content(search=True)
    try:
        for name, part in _parts_of(value, content).items():
            content.line_of(part, name)
    except FoundError:
        return True
    return False


def _parts_of(dataset: Any, content: Content) -> dict[str, Any]:
    """Return the attributes of a dataset by name, or the dataset itself if it is data."""
    is_data = isinstance(dataset, _DATA) or blocks_of(dataset) is not None
    if is_data or attributes_of(dataset) is None or has_hidden_state(type(dataset)):
        return {"data": dataset}
    return content.attributes_of(dataset)


def _in_words(covered: list[str], files: int) -> str:
    more = len(covered) - _MAX_NAMED
    named = ", ".join(covered[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
    about_files = f", and the names and sizes of {files} files, not their content" if files else ""
    return f"what it holds in memory: {named}{about_files}"
