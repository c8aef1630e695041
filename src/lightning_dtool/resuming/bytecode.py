"""What the code of a function still does, and which of its arguments it uses."""

import dis
from collections.abc import Callable
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any

_ENDING = frozenset(
    (
        "CACHE",
        "JUMP_FORWARD",
        "LOAD_CONST",
        "LOAD_FAST",
        "LOAD_FAST_BORROW",
        "LOAD_SMALL_INT",
        "NOP",
        "NOT_TAKEN",
        "POP_TOP",
        "RETURN_CONST",
        "RETURN_VALUE",
    )
)
"""Instructions that leave a function and change nothing."""

_OPENS_ALL = frozenset(("locals", "vars", "eval", "exec", "globals", "super"))
"""Functions that may use every argument of the function that calls them."""


def nothing_left(frame: FrameType) -> bool:
    """Return True if a function does nothing after the call in which it is, except that it returns.

    Args:
        frame: The frame of the function.
    """
    return _returns_after(frame.f_code, frame.f_lasti)


def raises_at(code: CodeType, offset: int) -> bool:
    """Return True if a function raises an exception at an instruction, by a `raise` of its own.

    Args:
        code: The code of the function.
        offset: The place of the instruction.
    """
    return any(each.offset == offset and each.opname == "RAISE_VARARGS" for each in dis.get_instructions(code))


def uses_argument(function: Callable[..., Any], position: int) -> bool:
    """Return True unless a function is known not to use an argument.

    Args:
        function: A function or a method.
        position: The place of the argument in a call, from 0. The first argument of a method does not count.
    """
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return True
    index = position + (1 if getattr(function, "__self__", None) is not None else 0)
    return index >= code.co_argcount or _uses(code, code.co_varnames[index])


def calls(function: Callable[..., Any], *names: str) -> bool:
    """Return True unless a function is known not to use attributes or variables of some names.

    Args:
        function: A function or a method.
        *names: The names.
    """
    code = getattr(function, "__code__", None)
    return not isinstance(code, CodeType) or any(name in each.co_names for each in _codes(code) for name in names)


@lru_cache(maxsize=256)
def _returns_after(code: CodeType, offset: int) -> bool:
    following = {each.offset: each for each in dis.get_instructions(code)}
    offsets = sorted(place for place in following if place > offset)
    while offsets:
        instruction = following[offsets[0]]
        if instruction.opname not in _ENDING:
            return False
        if instruction.opname.startswith("RETURN"):
            return True
        target = instruction.argval if instruction.opname == "JUMP_FORWARD" else offsets[0] + 1
        offsets = [place for place in offsets if place >= target]
    return False


@lru_cache(maxsize=256)
def _uses(code: CodeType, name: str) -> bool:
    if not _OPENS_ALL.isdisjoint(code.co_names):
        return True
    named = (each.argval for each in dis.get_instructions(code) if not each.opname.startswith(("STORE", "MAKE_CELL")))
    return any(value == name or (isinstance(value, tuple) and name in value) for value in named)


def _codes(code: CodeType) -> list[CodeType]:
    return [code, *(inner for each in code.co_consts if isinstance(each, CodeType) for inner in _codes(each))]
