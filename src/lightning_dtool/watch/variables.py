"""The environment variables that the user's code reads, also through libraries that read variables for it.

`os.environ` tells nobody which of its variables are read, so the class of `os.environ` is replaced in one place: where
it looks up a name. Functions such as `os.getenv`, and `in`, end there. A look-up takes a microsecond longer, which
counts, because optimizers of torch look up two variables in each step.
"""

import functools
import os
import sys
import threading
from types import CodeType, FrameType
from typing import Any

from lightning_dtool.values.definitions import is_library

_READERS = frozenset(
    {
        "click", "configargparse", "decouple", "dotenv", "dynaconf", "environ", "environs", "jsonargparse", "omegaconf",
        "pydantic_settings", "starlette", "typer",
    }
)  # fmt: skip
"""Libraries that read variables which the user names."""

_PASSED = frozenset({"collections.abc", "os", "posixpath", "ntpath", "string"})
"""Modules of Python that look up a variable for their caller, except in the functions of `_OF_PYTHON`."""

_OF_PYTHON = frozenset({"__iter__", "__repr__", "expanduser", "get_exec_path"})
"""Functions of these modules that list all variables, or read one for a purpose of their own."""

_MAX_NOTED = 1000

_MAX_AT_ONE_PLACE = 32
"""The largest number of variables that one line of code reads. More are taken for a list of all variables."""

_noted: dict[str, str | None] = {}
"""The values when they were first read, by name; None if the variable was not set."""

_places: dict[tuple[CodeType, int], list[str]] = {}
"""The names that were read, by the code and the line that read them."""

_by_libraries: dict[int, CodeType] = {}
"""Functions that read variables for a library, by `id`: the hash of a code object takes longer than all else here."""

_listing = threading.local()
"""The place in the code that lists all variables, as `dict(os.environ)` does before it looks up each of them."""


def read_variables() -> dict[str, str | None]:
    """Return the variables that were read so far, with their values when first read. None: it was not set."""
    return _noted.copy()


def install() -> None:
    """Begin to observe which variables are read."""
    import torch

    kind: Any = os._Environ
    look_up, is_compiling = kind.__getitem__, torch.compiler.is_dynamo_compiling

    @functools.wraps(look_up)
    def getitem(self: Any, key: Any) -> Any:
        if is_compiling():  # torch.compile follows the code of the class, and knows no frames
            return look_up(self, key)
        try:
            value = look_up(self, key)
        except KeyError:
            _note(key, None, sys._getframe(1))
            raise
        if key not in _noted:
            _note(key, value, sys._getframe(1))
        return value

    def keys(self: Any) -> Any:
        if not is_compiling():
            _listing.place = _place(sys._getframe(1))
        return super(kind, self).keys()

    kind.__getitem__ = getitem
    kind.keys = keys


def _note(key: Any, value: Any, frame: FrameType) -> None:
    if not isinstance(key, str) or key in _noted or len(_noted) >= _MAX_NOTED:  # others may be bytes
        return
    reader: FrameType | None = frame
    while reader is not None and reader.f_globals.get("__name__") in _PASSED:
        if reader.f_code.co_name in _OF_PYTHON:
            return
        reader = reader.f_back
    if reader is None or id(reader.f_code) in _by_libraries or _place(frame) == getattr(_listing, "place", None):
        return
    module = str(reader.f_globals.get("__name__"))
    if not _reads_for_the_user(module, key):
        if module.partition(".")[0] not in _READERS and len(_by_libraries) < _MAX_NOTED:
            _by_libraries[id(reader.f_code)] = reader.f_code
        return
    # By line, because the number of an instruction changes once Python specialises it.
    names = _places.setdefault((reader.f_code, reader.f_lineno), [])
    names.append(key)
    if len(names) <= _MAX_AT_ONE_PLACE:
        _noted[key] = value
    for name in names if len(names) == _MAX_AT_ONE_PLACE + 1 else ():
        _noted.pop(name, None)


def _place(frame: FrameType) -> tuple[CodeType, int]:
    return frame.f_code, frame.f_lasti


def _reads_for_the_user(module: str, name: str) -> bool:
    if not is_library(module):
        return True
    root = module.partition(".")[0]
    own = name.startswith("_") or name.upper().startswith((f"{root.upper()}_", "COMP_"))
    return root in _READERS and not own
