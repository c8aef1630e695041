"""A class that the user names on the command line."""

import importlib
import os

from lightning.pytorch import LightningModule

from lightning_dtool.errors import ConfigurationError
from lightning_dtool.loading import caller, own_modules
from lightning_dtool.loading.definitions import loaded_class
from lightning_dtool.loading.messages import shown
from lightning_dtool.namespaces import refuse_other_namespace


def named_class(path: str) -> type[LightningModule]:
    """Import a LightningModule class, also from the working directory. Its module runs.

    Args:
        path: `module:Class`.

    Raises:
        ConfigurationError: If it cannot be imported, or is no LightningModule.
        MixedNamespaceError: If it comes from `pytorch_lightning`.
    """
    module, _, qualname = path.partition(":")
    if not all(name.isidentifier() for name in (*module.split("."), *qualname.split("."))):
        raise ConfigurationError(f"--class is {path!r}, expected MODULE:CLASS, such as net:LeafNet.")
    own_modules.allow(module, caller.folders())
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a module may raise anything
        raise ConfigurationError(
            f"--class {path}: the module cannot be imported from Python's path or from {os.getcwd()}: {shown(error)}."
        ) from error
    found = loaded_class(module, qualname)
    if found is None:
        raise ConfigurationError(f"--class {path}: the module does not define a class {qualname}.")
    refuse_other_namespace(found, "class")
    if not issubclass(found, LightningModule):
        raise ConfigurationError(f"--class {path}: it is not a LightningModule.")
    return found
