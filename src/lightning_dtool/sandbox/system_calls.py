"""System calls that Python's standard library does not offer."""

import ctypes
import os


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library.

    Args:
        name: Its name.
        *arguments: Its arguments. Whole numbers are passed as `long`.

    Returns:
        What it returned.

    Raises:
        OSError: If it failed.
        AttributeError: If the library has no such function.
    """
    given = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(ctypes.CDLL(None, use_errno=True)[name](*given))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
