"""From a checkpoint and its record to a LightningModule with its weights, as far as the user trusts the checkpoint."""

import builtins
import pickle
import sys
import types
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.migration import migrate_checkpoint  # type: ignore[attr-defined]

from lightning_dtool.errors import (
    LightningDtoolError,
    ModuleLoadError,
    NotACheckpointError,
    ProvenanceWarning,
    UnsafeCheckpointError,
)
from lightning_dtool.loading.archive import is_compressed
from lightning_dtool.loading.arguments import is_namespace, recorded_arguments, warn_of_defaults
from lightning_dtool.loading.building import Built, argument_for_all, build, needs_cli, without_cli
from lightning_dtool.loading.by_cli import CLI_KEYS, is_made_by_cli
from lightning_dtool.loading.caller import is_command_line
from lightning_dtool.loading.messages import MAX_NAMED, listed, shown
from lightning_dtool.loading.own_loader import has_own_loader, load_by_class, written_again
from lightning_dtool.loading.recorded_class import RefusedError, recorded_class
from lightning_dtool.loading.recorded_source import call, import_class, import_object, objects_from_source
from lightning_dtool.loading.unread import names_within, unread
from lightning_dtool.loading.weights import load_safely, read_checkpoint, unknown_names
from lightning_dtool.namespaces import refuse_other_namespace
from lightning_dtool.record import Provenance
from lightning_dtool.values.definitions import source_digest

_TRAINERS = frozenset(
    {"callbacks", "datamodule_hyper_parameters", "loops", "lr_schedulers", "optimizer_states", "precision_plugin"}
)
"""The parts of a checkpoint that belong to the Trainer and to the DataModule. A module is made without them."""


class Source(NamedTuple):
    """A checkpoint that a module is made from.

    Attributes:
        uri: The dataset's URI.
        path: The verified file.
        record: The record.
        source_zip: A function that returns the verified `source.zip`.
    """

    uri: str
    path: Path
    record: Provenance
    source_zip: Callable[[], Path]


def load_module(
    source: Source,
    cls: type[LightningModule] | None,
    *,
    map_location: Any,
    strict: bool | None,
    weights_only: bool,
    trust_source: bool,
    overrides: Mapping[str, Any],
    stacklevel: int,
) -> Built:
    """Make the LightningModule of a checkpoint and load its weights.

    Args:
        source: The checkpoint.
        cls: The class, or None for the one that the record names.
        map_location: As in `torch.load`.
        strict: As in `load_from_checkpoint`.
        weights_only: Load safely.
        trust_source: Allow running the recorded source.
        overrides: Hyperparameters that replace the saved ones.
        stacklevel: As in `warnings.warn`, for the caller of this function.

    Raises:
        ModuleLoadError: If the class cannot be loaded, or the module cannot be made.
        UnsafeCheckpointError: If a safe load refuses the file.
        MixedNamespaceError: If the class comes from `pytorch_lightning`.
    """
    found, known = _classes(source, cls, trust_source, overrides, stacklevel + 1)
    # A class from `pytorch_lightning` would fail much later, with an error that is hard to understand.
    refuse_other_namespace(found, "cls")
    if has_own_loader(found):
        options: dict[str, Any] = {"map_location": map_location, "strict": strict, "weights_only": weights_only}
        return Built(_by_class(source, found, known, overrides, trust_source, options), by_class=True)
    if weights_only:
        checkpoint = _safe_content(source, known, map_location, overrides, trust_source)
    else:
        checkpoint = load_unsafely(source, known, map_location, trust_source)
    if not isinstance(checkpoint, dict):
        raise NotACheckpointError(
            f"expected a Lightning checkpoint, found a {type(checkpoint).__name__}.", uri=source.uri
        )
    try:
        checkpoint, _ = migrate_checkpoint(checkpoint)
    except Exception as error:  # for example a version that is none
        raise ModuleLoadError(
            f"Lightning cannot bring the checkpoint up to its version: {shown(error)}. The weights alone can be loaded:"
            " load_state_dict().",
            uri=source.uri,
        ) from error
    by_cli = is_made_by_cli(source.record) and (trust_source or not weights_only)
    if not by_cli and needs_cli(found, checkpoint, overrides, source.uri):
        found, checkpoint = without_cli(found, checkpoint, overrides, source.uri)
        overrides = _without_cli_keys(overrides)
    hyperparameters = checkpoint.get(found.CHECKPOINT_HYPER_PARAMS_KEY)
    saved = hyperparameters if isinstance(hyperparameters, Mapping) else {}
    whole = argument_for_all(checkpoint, source.uri)
    given = {*saved, *overrides, whole}
    recorded = recorded_arguments(source.record, found, given, trust_source)
    warn_of_defaults(recorded.missing, found, source.uri, stacklevel=stacklevel + 1)
    return build(
        found,
        checkpoint,
        strict=strict,
        recorded=recorded.values,
        overrides=overrides,
        namespace=is_namespace(source.record, whole),
        by_cli=by_cli,
        lacking=source.record.checkpoint.missing_keys,
        uri=source.uri,
    )


def load_unsafely(
    source: Source, known: Mapping[str, Any], map_location: Any, trust_source: bool, mmap: bool = True
) -> Any:
    """Load the file with pickle, which runs what it names.

    Args:
        source: The checkpoint.
        known: Classes to use instead of those that would be imported, by full name.
        map_location: As in `torch.load`.
        trust_source: Whether the user allowed running the recorded source, for errors.
        mmap: Memory-map the file.

    Raises:
        ModuleLoadError: If it cannot be unpickled here.
    """
    try:
        return torch.load(
            source.path,
            map_location=map_location,
            weights_only=False,
            mmap=mmap and zipfile.is_zipfile(source.path),
            pickle_module=_pickle_with(known) if known else None,
        )
    except LightningDtoolError:
        raise
    except (Exception, SystemExit) as error:  # unpickling runs any code
        remedy = "Install or import what defines it."
        if not trust_source and any(_recorded_path(source.record, name) for name in _unknown(source)):
            remedy = (
                "It needs classes of the training script. If you trust the origin of the checkpoint, take them from its"
                " recorded source: load_module(weights_only=False, trust_source=True)."
            )
        raise ModuleLoadError(
            f"the checkpoint cannot be unpickled here: {shown(error)}. {remedy}", uri=source.uri
        ) from error


def _classes(
    source: Source,
    cls: type[LightningModule] | None,
    trust_source: bool,
    overrides: Mapping[str, Any],
    stacklevel: int,
) -> tuple[type[LightningModule], dict[str, Any]]:
    """Return the module's class, and with trust the other classes of the training's code that the file names."""
    class_path = source.record.model.class_path
    found = cls if cls is not None else _recorded(source, trust_source, overrides, stacklevel + 1)
    if not trust_source and found is not None:
        return found, {}
    names = _unknown(source)
    known: dict[str, Any] = {name: value for name in names if (value := _of_torch(name)) is not None}
    from_source = {}
    for name in names:
        path = _recorded_path(source.record, name)
        if path is None:
            continue
        # `__main__` is this process's script here, and not the one that trained.
        value = None if path.startswith("__main__:") or found is None else import_object(path)
        if value is None:
            from_source[name] = path
        else:
            known[name] = value
    if found is None or from_source:
        wanted = class_path if found is None else None
        made = objects_from_source(
            wanted,
            from_source.values(),
            source.record.code,
            source.source_zip(),
            source.uri,
            _to_pass(source.record, overrides),
        )
        found = made[class_path] if found is None else found
        known.update({name: made[path] for name, path in from_source.items() if path in made})
    return found, known


def _recorded(
    source: Source, trust_source: bool, overrides: Mapping[str, Any], stacklevel: int
) -> type[LightningModule] | None:
    """Return the class that the record names. None if with trust it is to be made from the recorded source."""
    model = source.record.model
    try:
        found = recorded_class(model)
    except RefusedError as refused:
        trusted = import_class(model.class_path) if trust_source else None
        if trusted is None and not (trust_source and _has_source(source)):
            remedy = _class_remedy(source, _to_pass(source.record, overrides))
            raise ModuleLoadError(f"{refused} {remedy}", uri=source.uri) from refused.__cause__
        if trusted is None:
            return None
        found = trusted
    if source_digest(found) != model.source_sha256:
        changed = "has changed since the checkpoint was written" if model.source_sha256 else "was not recorded"
        warnings.warn(
            f"{source.uri}: the source of {model.class_path} {changed}. The weights are loaded into the class that is"
            " here; what was recorded is in source.zip.",
            ProvenanceWarning,
            stacklevel=stacklevel + 1,
        )
    return found


def _has_source(source: Source) -> bool:
    return source.record.model.class_path.partition(":")[0] in source.record.code.modules


def _class_remedy(source: Source, arguments: Sequence[str]) -> str:
    if is_command_line():
        passed = "Name the class with --class MODULE:CLASS, or put the folder of its module into PYTHONPATH."
        trust = "--trust-source"
    else:
        passed = f"Pass the class: {call('cls', *arguments)}."
        trust = call("trust_source", *arguments)
    if not _has_source(source):
        return f"{passed} Its source was not recorded."
    return f"{passed} Or, if you trust the origin of this checkpoint, run its recorded source: {trust}."


def _to_pass(record: Provenance, overrides: Mapping[str, Any]) -> list[str]:
    """Return the arguments of the constructor that neither the file nor the record holds and nobody has passed."""
    found = [gap.fact.removeprefix(_ARGUMENTS) for gap in record.gaps if gap.fact.startswith(_ARGUMENTS)]
    names = [name.partition(".")[0].partition("[")[0] for name in found]
    return [name for name in dict.fromkeys(names) if name.isidentifier() and name not in overrides][:MAX_NAMED]


_ARGUMENTS = "model.arguments."


def _unknown(source: Source) -> set[str]:
    try:
        return unknown_names(source.path, source.uri)
    except UnsafeCheckpointError:  # loading raises it again, unless it is unsafe
        return set()


def _recorded_path(record: Provenance, name: str) -> str | None:
    """Return `module:qualified.name` for a full name, if the module's source was recorded."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        if module in record.code.modules:
            return f"{module}:{'.'.join(parts[length:])}"
    return None


def _of_torch(name: str) -> Any:
    """Return one of torch's own module classes, for modules among the hyperparameters of a trusted checkpoint."""
    module_name, _, cls = name.rpartition(".")
    found = vars(sys.modules[module_name]).get(cls) if module_name in sys.modules else None
    is_module = isinstance(found, type) and issubclass(found, torch.nn.Module)
    return found if is_module and name.startswith("torch.nn.modules.") else None


def _safe_content(
    source: Source, known: Mapping[str, Any], map_location: Any, overrides: Mapping[str, Any], trust_source: bool
) -> Any:
    """Load what a module needs, and refuse it if there are objects that a safe load does not make."""
    if known:
        checkpoint = read_checkpoint(source.path, map_location=map_location, known=known, uri=source.uri)
    else:
        checkpoint = load_safely(source.path, map_location=map_location, uri=source.uri)
    if not isinstance(checkpoint, dict):
        return checkpoint
    data = source.record.data.datamodule
    others = _TRAINERS | ({data.class_path.rpartition(":")[2]} if data is not None else set())
    needed = {key: value for key, value in checkpoint.items() if key not in others}
    key = LightningModule.CHECKPOINT_HYPER_PARAMS_KEY
    hyperparameters = needed.get(key)
    if isinstance(hyperparameters, dict):
        needed[key] = {name: value for name, value in hyperparameters.items() if name not in overrides}
        checkpoint[key] = dict(needed[key])
    refused = unread(needed)
    if refused:
        raise UnsafeCheckpointError(_refusal(source, refused, names_within(needed), trust_source), uri=source.uri)
    return {name: value for name, value in checkpoint.items() if name in needed or not unread(value)}


def _refusal(source: Source, refused: Mapping[str, str], names: set[str], trust_source: bool) -> str:
    named = listed([f"{place} ({name})" for place, name in sorted(refused.items())])
    prefix = f"{LightningModule.CHECKPOINT_HYPER_PARAMS_KEY}."
    arguments = sorted({place.removeprefix(prefix).partition(".")[0] for place in refused if place.startswith(prefix)})
    remedies = []
    if arguments and all(place.startswith(prefix) for place in refused):
        remedies.append(f"Pass them: load_module({', '.join(f'{name}=...' for name in arguments[:MAX_NAMED])}).")
    recorded = [name for name in names if _recorded_path(source.record, name)]
    if recorded and not trust_source:
        remedies.append(
            "If you trust the origin of the checkpoint, take the classes of the training script from its recorded"
            " source: load_module(trust_source=True)."
        )
    if all(map(_may_be_harmless, names)):
        remedies.append(
            "If you know that these types are harmless, allow them:"
            f" torch.serialization.add_safe_globals([{', '.join(sorted(names))}])."
        )
    with_source = ", trust_source=True" if recorded or trust_source else ""
    remedies.append(
        "If you trust the checkpoint as you would trust a program, unpickle it:"
        f" load_module(weights_only=False{with_source})."
    )
    return f"a safe load does not make these objects, which the module needs: {named}. {' '.join(remedies)}"


_NEVER_HARMLESS = frozenset({"__main__", "functools", "importlib", "operator", "os", "posix", "subprocess"})
"""Modules whose functions a message does not advise to allow. What `__main__` defines is not here."""


def _may_be_harmless(name: str) -> bool:
    module, _, rest = name.partition(".")
    if module == "builtins":  # `getattr` makes a safe load run anything
        return isinstance(vars(builtins).get(rest), type) and rest not in ("filter", "map", "type")
    return module not in _NEVER_HARMLESS


def _by_class(
    source: Source,
    cls: type[LightningModule],
    known: Mapping[str, Any],
    overrides: Mapping[str, Any],
    trust_source: bool,
    options: dict[str, Any],
) -> LightningModule:
    if not options["weights_only"]:
        return load_by_class(cls, source.path, overrides=overrides, uri=source.uri, **options)
    content = load_safely(source.path, uri=source.uri)
    by_cli = trust_source and is_made_by_cli(source.record)
    if not by_cli and isinstance(content, dict) and needs_cli(cls, content, overrides, source.uri):
        content = _safe_content(source, known, "cpu", overrides, trust_source)
        content = without_cli(cls, content, overrides, source.uri)[1]
        with written_again(content) as path:
            return load_by_class(cls, path, overrides=_without_cli_keys(overrides), uri=source.uri, **options)
    # The class may unpickle the file without care. What torch's safe load accepts is harmless also then.
    if _loads_safely(source.path):
        return load_by_class(cls, source.path, overrides=overrides, uri=source.uri, **options)
    with written_again(_safe_content(source, known, "cpu", overrides, trust_source)) as path:
        return load_by_class(cls, path, overrides=overrides, uri=source.uri, **options)


def _without_cli_keys(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in overrides.items() if name not in CLI_KEYS}


def _loads_safely(path: Path) -> bool:
    if is_compressed(path):
        return False
    try:
        torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception:  # the content may be anything
        return False
    return True


def _pickle_with(known: Mapping[str, Any]) -> Any:
    """Return a stand-in for the module `pickle` that finds some classes elsewhere than by their names."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found = known.get(f"{module}.{name}")
            return super().find_class(module, name) if found is None else found

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    return types.SimpleNamespace(__name__="pickle", Unpickler=Unpickler, load=load)
