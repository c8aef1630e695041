"""The decorator of public classes and functions."""

from typing import TypeVar

T = TypeVar("T")


def public(obj: T) -> T:
    """Set the module of a class or a function to `lightning_dtool`, the name that users import it from.

    Class paths in records and pickles name that module, so a file can move without breaking them. The name must be in
    `lightning_dtool.__all__`.

    Args:
        obj: The class or function. Put this decorator outermost: `dataclass` looks names up in the module that the
            class was defined in.
    """
    obj.__module__ = "lightning_dtool"
    if isinstance(obj, type) and "__firstlineno__" in vars(obj):
        # From Python 3.13 on `inspect.getsource` would cut that line out of the package's `__init__.py`.
        del obj.__firstlineno__  # type: ignore[attr-defined]
    return obj
