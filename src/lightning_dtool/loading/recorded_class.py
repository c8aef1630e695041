"""The class that a record names, if it can be had without running code that nobody but the record asks for."""

import importlib
import sys
from typing import NoReturn

from lightning.pytorch import LightningModule

from lightning_dtool.finding.module_files import NotFoundError, find
from lightning_dtool.finding.origins import why_not_run
from lightning_dtool.loading import caller, own_modules
from lightning_dtool.loading.definitions import Definitions, loaded_class
from lightning_dtool.loading.messages import shortened, shown
from lightning_dtool.namespaces import other_namespace, refuse_other_namespace
from lightning_dtool.record import Model
from lightning_dtool.values.definitions import source_digest

_LONGEST_PATH = 200
"""The longest path of a class in a message."""

_LONGEST_REASON = 700


class RefusedError(Exception):
    """A class that is not imported. The message says which rule is against it."""


def recorded_class(model: Model) -> type[LightningModule]:
    """Return the class that a record names. Its module is imported only if nothing but a class of the user's can run.

    The class comes from a module that is loaded, or from one that is found without importing it. The source of the
    latter must define the class, as a LightningModule, and lie in an installed distribution or among the user's own
    code, not in a dataset.

    Args:
        model: The record's section on the module.

    Raises:
        RefusedError: If it cannot be had.
        MixedNamespaceError: If it is one of `pytorch_lightning`.
    """
    module, _, qualname = model.class_path.partition(":")
    names = [*module.split("."), *qualname.split(".")]
    if "<locals>" in names:
        _refuse(model, "is defined inside a function, so it cannot be imported.")
    if not all(name.isidentifier() for name in names):
        _refuse(model, "has a name that no class has, expected module:Class.")
    if module == "__main__":
        return _of_the_script(model, qualname)
    if module not in sys.modules:
        _import(model, module, qualname)
    return _loaded(model, module, qualname)


def _of_the_script(model: Model, qualname: str) -> type[LightningModule]:
    found = loaded_class("__main__", qualname)
    if found is None or not issubclass(found, LightningModule) or found.__module__ != "__main__":
        _refuse(model, "belongs to the script or notebook that trained it, and cannot be imported here.")
    if source_digest(found) != model.source_sha256:
        _refuse(model, "belongs to the script or notebook that trained it; the one of this name here differs from it.")
    return found


def _loaded(model: Model, module: str, qualname: str) -> type[LightningModule]:
    found = loaded_class(module, qualname)
    if found is None:
        _refuse(
            model, f"is not here: the module {module} does not define {qualname}. It may have been renamed or moved."
        )
    refuse_other_namespace(found, "model's class")
    if not issubclass(found, LightningModule):
        _refuse(model, "is not a LightningModule here.")
    return found


def _import(model: Model, module: str, qualname: str) -> None:
    """Import a module, if its files are of the kind that may be run."""
    _check(model, module, qualname)
    own_modules.allow(module, caller.folders())
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a module may raise anything
        _refuse(model, f"cannot be imported here: {shown(error)}.", error)


def _check(model: Model, module: str, qualname: str) -> None:
    if "__main__" in module.split("."):
        _refuse(model, "is in a program: importing a module __main__ would run it.")
    if module.partition(".")[0] in sys.stdlib_module_names:
        _refuse(model, f"is in {module.partition('.')[0]}, which belongs to Python and defines no LightningModule.")
    definitions = Definitions(caller.folders())
    try:
        files = find(module, caller.folders())
        if (reason := why_not_run(files)) is not None:
            _refuse(model, f"is not imported: {reason}")
        found = definitions.class_in(module, qualname)
    except NotFoundError as error:
        _refuse(model, f"cannot be imported here: {error}", error)
    for others in definitions.files.values():
        if (reason := why_not_run(others)) is not None:
            _refuse(model, f"is not imported: {reason}")
    if found is None:
        _refuse(model, f"is not here: {files[-1].path} does not define {qualname}. It may have been renamed or moved.")
    if not definitions.is_lightning_module(found):
        if definitions.is_of_other_namespace:
            raise other_namespace(f"{module}.{qualname}", "model's class")
        _refuse(model, f"is not imported: its bases in {files[-1].path} do not show that it is a LightningModule.")


def _refuse(model: Model, reason: str, error: BaseException | None = None) -> NoReturn:
    path = shortened(model.class_path, _LONGEST_PATH)
    raise RefusedError(f"the model's class {path} {shortened(reason, _LONGEST_REASON)}") from error
