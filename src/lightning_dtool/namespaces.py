"""The check that objects come from `lightning`, and not from `pytorch_lightning`."""

from lightning_dtool.errors import MixedNamespaceError


def refuse_other_namespace(obj: object, role: str) -> None:
    """Raise if an object comes from `pytorch_lightning` instead of `lightning`.

    Both distributions contain the same classes under different names, so `isinstance` fails between them: a Trainer of
    one silently ignores a DataModule of the other.

    Args:
        obj: A Trainer, LightningModule, DataModule, callback or plug-in; or a class of one.
        role: What the object is used as, for the message, such as `"trainer"`.

    Raises:
        MixedNamespaceError: If a class of `obj` is defined in `pytorch_lightning`.

    Example:
        >>> refuse_other_namespace(object(), "trainer")
    """
    found = obj if isinstance(obj, type) else type(obj)
    for cls in found.__mro__:
        if cls.__module__.partition(".")[0] == "pytorch_lightning":
            raise other_namespace(f"{found.__module__}.{found.__qualname__}", role)


def other_namespace(name: str, role: str) -> MixedNamespaceError:
    """Return the error about an object from `pytorch_lightning`.

    Args:
        name: The full name of its class.
        role: What it is used as, as for `refuse_other_namespace`.
    """
    return MixedNamespaceError(
        f"The {role} ({name}) comes from `pytorch_lightning`, and lightning_dtool works with `lightning`. The two do"
        " not recognise each other's classes. Write `import lightning as L` instead of `import pytorch_lightning as pl`"
        " throughout."
    )
