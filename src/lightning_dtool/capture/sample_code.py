"""The code that makes the samples of a dataset, and what it uses."""

import inspect
import re
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lightning_dtool.capture.reachable import reachable
from lightning_dtool.values.definitions import closure, is_users, names_used
from lightning_dtool.values.surroundings import NOT_CALLED_LATER

_ENTRY_POINTS = ("__getitem__", "__getitems__", "__iter__", "__next__")
"""The methods by which samples are requested."""

_MAX_FUNCTIONS = 200
"""Maximum number of functions of one dataset that are looked at."""

_READS = re.compile(
    r"read|load|open|fetch|download|query|memmap|fromfile|request|listdir|scandir|iterdir|glob(?!al)|execute|connect"
    r"|h5py|zarr|lmdb|sqlite|subprocess|socket|environ|getenv",
    re.IGNORECASE,
)
"""Names of what reads files, databases or a network."""

_READS_NOTHING = re.compile(r"thread|spread|bread|already|ready|overload|workload|is_open|isopen", re.IGNORECASE)


@dataclass(frozen=True)
class SampleCode:
    """The names that the code of a dataset uses when it makes samples.

    Attributes:
        names: The names of functions, attributes and modules.
        globals: The variables of modules among them, by name.
        functions: The functions, or the code of a generator.
        is_visible: Whether all of the code is Python code, so that no name is missing.
    """

    names: frozenset[str]
    globals: dict[str, Any]
    functions: tuple[Any, ...]
    is_visible: bool

    @property
    def reading(self) -> str | None:
        """The first name, in order, of what reads files, databases or a network. None if there is none."""
        return next((name for name in sorted(self.names) if _reads(name)), None)


def sample_code(dataset: Any) -> SampleCode:
    """Return what the code uses that makes the samples of a dataset or of another iterable.

    Methods of the object and functions of the user are followed. Nothing is called.

    Args:
        dataset: The dataset, a function, or a generator.
    """
    if isinstance(dataset, types.GeneratorType):
        code = dataset.gi_code
        return SampleCode(frozenset(names_used(code)), {}, (code,), True)
    if isinstance(dataset, types.FunctionType | types.MethodType):
        return _code_of([dataset], type(dataset))
    cls = type(dataset)
    return _code_of([found for name in _ENTRY_POINTS if (found := _static(cls, name)) is not None], cls)


def reading_of(preparing: Any) -> str | None:
    """Return the name of what a transform, or a part of it, reads with. None if nothing that it uses has such a name.

    Args:
        preparing: A transform, a decoder or another object that is called with a sample.
    """
    for _, part in reachable(preparing):
        if isinstance(part, types.FunctionType | types.MethodType):
            reading = sample_code(part).reading
        else:
            name = getattr(part if inspect.isroutine(part) else type(part), "__name__", "")
            reading = name if _reads(name) else code_of_methods(part).reading if is_users(type(part)) else None
        if reading is not None:
            return reading
    return None


def code_of_methods(value: Any) -> SampleCode:
    """Return what all methods of an object inside a dataset use, as any of them may be called for a sample.

    Args:
        value: The object.
    """
    cls = type(value)
    found = {
        name: entry
        for each in reversed(cls.__mro__)
        if is_users(each)
        for name, entry in vars(each).items()
        if name not in NOT_CALLED_LATER
    }
    return _code_of(function for entry in found.values() for function in _functions_of(entry))


def _reads(name: str) -> bool:
    return _READS.search(_READS_NOTHING.sub("", name)) is not None


def _code_of(entries: Iterable[Any], cls: type | None = None) -> SampleCode:
    waiting = list(entries)
    is_visible = bool(waiting) or cls is None
    seen: dict[types.CodeType, types.FunctionType] = {}
    names: set[str] = set()
    variables: dict[str, Any] = {}
    while waiting:
        functions = list(_functions_of(waiting.pop()))
        is_visible = is_visible and bool(functions) and len(seen) < _MAX_FUNCTIONS
        for function in functions:
            if function.__code__ in seen or len(seen) >= _MAX_FUNCTIONS:
                continue
            seen[function.__code__] = function
            used = names_used(function.__code__)
            names |= used
            for name in used:
                own = _static(cls, name) if cls is not None else None
                if own is not None:
                    waiting += _functions_of(own)
                if name in function.__globals__:
                    value = function.__globals__[name]
                    variables[name] = value
                    waiting += _followed(value)
            for value in closure(function).values():
                waiting += _followed(value)
    return SampleCode(frozenset(names), variables, tuple(seen.values()), is_visible)


def _followed(value: Any) -> Iterator[Any]:
    """Yield the functions of the user that a variable leads to."""
    if isinstance(value, type):
        if is_users(value):
            for each in vars(value).values():
                yield from _functions_of(each)
    elif is_users(value):
        yield from _functions_of(value)


def _functions_of(value: Any) -> Iterator[types.FunctionType]:
    """Yield the Python functions of a method, a property, a decorated function or a function."""
    if isinstance(value, property):
        value = value.fget
    value = (
        getattr(value, "__func__", value) if isinstance(value, types.MethodType | staticmethod | classmethod) else value
    )
    if isinstance(value, types.FunctionType):
        yield value
        inner = inspect.unwrap(value)
        if isinstance(inner, types.FunctionType) and inner is not value:
            yield inner


def _static(cls: type, name: str) -> Any:
    """Return an attribute of a class without running its code."""
    return next((vars(each)[name] for each in cls.__mro__ if name in vars(each)), None)
