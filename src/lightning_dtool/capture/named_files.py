"""The files that data in memory names, as the lists of image datasets do."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

MAX_FILES = 10_000
"""Maximum number of files that are looked up."""

MAX_PATH = 1000
"""Maximum length of a text that may be the path of a file."""

_FOLDERS = ("root", "root_dir", "data_dir")
"""Attributes that say where data lies. Data that was moved has the same digest."""

_NO_PATHS = (torch.Tensor, np.ndarray, int, float, dict)


class NamedFiles:
    """Finds the files of several objects, up to a limit."""

    def __init__(self) -> None:
        self.found = 0
        """Number of files that were described."""
        self._root = ""
        self._lookups_left = MAX_FILES

    def enter(self, attributes: Mapping[str, Any]) -> None:
        """Look for files in the folder of a dataset from now on, if its attributes name one."""
        folder = folder_of(attributes)
        self._root = self._root if folder is None else folder

    def is_file(self, value: Any) -> bool:
        """Return whether an object is the path of a file, as far as the limit allows to look."""
        if not is_path(value):
            return False
        path = os.fsdecode(os.fspath(value))
        if not path or len(path) > MAX_PATH or "\0" in path or self._lookups_left <= 0:
            return False
        self._lookups_left -= 1
        return os.path.isfile(os.path.join(self._root, path))

    def lists(self, value: Any) -> bool:
        """Return whether a list or a tuple consists of files, by its first entry: a path, or `(path, …)`."""
        return len(value) > 0 and type(value[0]) not in _NO_PATHS and self.is_file(_path_in(value[0]))

    def describe(self, path: str) -> list[Any]:
        """Return the name and the size of a file. Its folder differs between machines."""
        self.found += 1
        return [os.path.basename(path), os.path.getsize(os.path.join(self._root, path))]

    def describe_all(self, entries: Sequence[Any]) -> Iterator[tuple[str, int | None]]:
        """Yield the path of each file of a list, in their common folder, and its size if there are not too many."""
        self.found += len(entries)
        paths = [_path_in(entry) for entry in entries]
        start = os.path.join(self._root, "") if self._root else _common_folder(paths)
        for path in paths:
            try:
                size = os.stat(os.path.join(self._root, path)).st_size if len(entries) <= MAX_FILES else None
            except OSError:
                size = None
            yield path.removeprefix(start).replace(os.sep, "/"), size


def is_path(value: Any) -> bool:
    """Return whether an object may be a path."""
    return isinstance(value, str | os.PathLike)


def folder_of(attributes: Mapping[str, Any]) -> str | None:
    """Return the folder of a dataset's files. None if its attributes name none.

    Args:
        attributes: The attributes, by name.
    """
    return next((os.fsdecode(attributes[name]) for name in _FOLDERS if is_path(attributes.get(name))), None)


def is_folder(attribute: str, value: Any) -> bool:
    """Return whether an attribute says where data lies."""
    return attribute in _FOLDERS and is_path(value)


def _path_in(entry: Any) -> str:
    """Return the path in an entry of a list of files, such as `(path, target)`. Empty if there is none."""
    first = entry[0] if isinstance(entry, tuple | list) and entry else entry
    return os.fsdecode(os.fspath(first)) if is_path(first) else ""


def _common_folder(paths: list[str]) -> str:
    """Return the longest folder, with a separator at its end, in which all files are."""
    try:
        return os.path.commonpath([os.path.dirname(path) for path in paths]) + os.sep
    except ValueError:  # some of them are relative, or the first is a file and another is not
        return ""
