"""A LightningModule made from a checkpoint's content, with errors that say what to pass instead.

The steps are those of Lightning's `load_from_checkpoint`. They are taken one by one, because an error of the
constructor, of a hook and of the weights need different remedies.
"""

import inspect
import warnings
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping, MutableMapping
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_dtool.errors import LightningDtoolError, ModuleLoadError, ProvenanceWarning
from lightning_dtool.loading.by_cli import (
    CLASS_PATH,
    CLI_KEYS,
    INSTANTIATOR,
    instantiated,
    named_subclass,
    plain_arguments,
)
from lightning_dtool.loading.messages import MAX_NAMED, listed, shown
from lightning_dtool.loading.weights import state_dict_of
from lightning_dtool.namespaces import refuse_other_namespace

_PAST_KEYS = ("hparams", "module_arguments")
"""Where Lightning before 1.0 saved hyperparameters."""


class Built(NamedTuple):
    """A module with its weights.

    Attributes:
        module: The module.
        missing: Names of weights that the checkpoint does not hold. The module keeps what its constructor made.
        unexpected: Names of weights in the checkpoint that the module does not have.
        by_class: True if the class's own `load_from_checkpoint` made it, so that the names are not known.
    """

    module: LightningModule
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    by_class: bool = False


def build(
    cls: type[LightningModule],
    checkpoint: MutableMapping[str, Any],
    *,
    strict: bool | None,
    recorded: Mapping[str, Any],
    overrides: Mapping[str, Any],
    namespace: bool,
    by_cli: bool,
    lacking: Collection[str],
    uri: str,
) -> Built:
    """Make a module and load its weights.

    Args:
        cls: The class.
        checkpoint: The content of the file. The module's hook `on_load_checkpoint` may change it.
        strict: Require that the names of the weights match. None means the module's `strict_loading`.
        recorded: Arguments of the constructor from the record, for those that the file does not hold.
        overrides: Hyperparameters that replace the saved ones.
        namespace: Whether a constructor that takes all hyperparameters in one argument expects a `Namespace`, not a
            mapping.
        by_cli: Whether to make the module as LightningCLI does, if the hyperparameters say that it made it. This
            imports and calls what they name. Without it, they are passed as plain values.
        lacking: Names of weights that the file never held, according to the record.
        uri: The dataset's URI, for errors.

    Raises:
        ModuleLoadError: If the constructor or a hook fails, or the weights do not fit.
        NotACheckpointError: If the file holds no weights.
    """
    module = _made(cls, checkpoint, recorded, overrides, namespace, by_cli, uri)
    checkpoint.setdefault(cls.CHECKPOINT_HYPER_PARAMS_KEY, {}).update(overrides)
    if module._strict_loading is not None and strict is not None and strict != module.strict_loading:
        raise ModuleLoadError(
            f"strict={strict} contradicts {cls.__qualname__}.strict_loading, which is {module.strict_loading}. Leave"
            " strict out.",
            uri=uri,
        )
    strict = module.strict_loading if strict is None else strict
    if is_overridden("configure_model", module):
        _call(module.configure_model, (), f"configure_model of {cls.__qualname__}", uri)
    _call(module.on_load_checkpoint, (checkpoint,), f"on_load_checkpoint of {cls.__qualname__}", uri)
    state = state_dict_of(checkpoint, uri)
    try:
        keys = module.load_state_dict(state, strict=strict)
    except LightningDtoolError:
        raise
    except Exception as error:
        raise ModuleLoadError(_mismatch(module, state, strict, lacking, error), uri=uri) from error
    device = next((value.device for value in state.values() if isinstance(value, torch.Tensor)), None)
    if device is not None and device.type not in ("cpu", "meta"):
        module = module.to(device)
    # A class may return something of its own.
    return Built(module, tuple(getattr(keys, "missing_keys", ())), tuple(getattr(keys, "unexpected_keys", ())))


def warn_of_differences(built: Built, uri: str, stacklevel: int) -> None:
    """Warn of weights that were not in the checkpoint, or that the module does not have.

    Args:
        built: The module.
        uri: The dataset's URI.
        stacklevel: As in `warnings.warn`, for the caller of this function.
    """
    name = type(built.module).__qualname__
    if built.missing:
        warnings.warn(
            f"{uri}: the checkpoint does not hold all weights of {name}. As its constructor made them, perhaps at"
            f" random, are: {listed(built.missing)}. Load them from where the training had them.",
            ProvenanceWarning,
            stacklevel=stacklevel + 1,
        )
    if built.unexpected:
        warnings.warn(
            f"{uri}: the checkpoint holds weights that {name} does not have, and that are left out:"
            f" {listed(built.unexpected)}.",
            ProvenanceWarning,
            stacklevel=stacklevel + 1,
        )


def argument_for_all(checkpoint: Mapping[str, Any], uri: str) -> str | None:
    """Return the name of the argument in which the constructor takes all hyperparameters, or None.

    Args:
        checkpoint: The content of the file.
        uri: The dataset's URI, for errors.

    Raises:
        ModuleLoadError: If the file gives something else than a name.
    """
    key = LightningModule.CHECKPOINT_HYPER_PARAMS_NAME
    name = checkpoint.get(key)
    if name is not None and not isinstance(name, str):
        raise ModuleLoadError(
            f"its {key} is a {type(name).__name__}, expected the name of an argument. {_REMEDY}", uri=uri
        )
    return name


def _made(
    cls: type[LightningModule],
    checkpoint: Mapping[str, Any],
    recorded: Mapping[str, Any],
    overrides: Mapping[str, Any],
    namespace: bool,
    by_cli: bool,
    uri: str,
) -> LightningModule:
    """Call the constructor with the saved hyperparameters, and with what was recorded where they lack."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    any_keyword = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    named = [parameter for parameter in parameters if parameter.kind not in _VARIADIC]
    names = [parameter.name for parameter in named]
    saved = _saved(cls, checkpoint, uri)
    # A constructor may take all hyperparameters in one mapping.
    whole = argument_for_all(checkpoint, uri)
    in_one = bool(whole) and whole in names
    unknown = [name for name in overrides if name not in names and name not in saved]
    if unknown and not any_keyword and not in_one:
        raise ModuleLoadError(
            f"{cls.__qualname__} has no argument {listed(unknown)}; its constructor takes {listed(names) or 'none'}.",
            uri=uri,
        )
    saved.update(overrides)
    saved = {whole: Namespace(**saved) if namespace else saved} if in_one else dict(saved)
    arguments = {**recorded, **saved, **overrides}
    held = list(arguments)
    if not any_keyword:
        arguments = {name: value for name, value in arguments.items() if name in (*names, *CLI_KEYS)}
    try:
        if by_cli and arguments.get(INSTANTIATOR) is not None:
            return instantiated(cls, arguments, uri)
        for key in CLI_KEYS:
            arguments.pop(key, None)
        positional = [parameter.name for parameter in named if parameter.kind is inspect.Parameter.POSITIONAL_ONLY]
        given = [arguments.pop(name) for name in positional if name in arguments]
        module = cls(*given, **arguments)
    except LightningDtoolError:
        raise
    except (Exception, SystemExit) as error:  # a constructor may raise anything; parsers of arguments exit
        required = [
            parameter.name
            for parameter in named
            if parameter.default is inspect.Parameter.empty and parameter.name not in held
        ]
        by_place = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.VAR_POSITIONAL]
        raise ModuleLoadError(_constructor_failed(cls, required, held, by_place, error), uri=uri) from error
    refuse_other_namespace(module, "module")
    return module


_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def saved_hyperparameters(cls: type[LightningModule], checkpoint: Mapping[str, Any], uri: str) -> dict[Any, Any]:
    """Return the saved hyperparameters, also those of old versions of Lightning.

    Args:
        cls: The class.
        checkpoint: The content of the file.
        uri: The dataset's URI, for errors.

    Raises:
        ModuleLoadError: If they are no mapping.
    """
    saved: dict[Any, Any] = {}
    for key in (*_PAST_KEYS, cls.CHECKPOINT_HYPER_PARAMS_KEY):
        values = checkpoint.get(key, {})
        if not isinstance(values, Mapping):
            raise ModuleLoadError(
                f"its {key} are {type(values).__name__}, expected a mapping of names to values. {_REMEDY}",
                uri=uri,
            )
        saved.update(values)
    return saved


def needs_cli(
    cls: type[LightningModule], checkpoint: Mapping[str, Any], overrides: Mapping[str, Any], uri: str
) -> bool:
    """Return whether hyperparameters ask Lightning to make the module as LightningCLI does.

    Args:
        cls: The class.
        checkpoint: The content of the file.
        overrides: Hyperparameters that replace the saved ones.
        uri: The dataset's URI, for errors.

    Raises:
        ModuleLoadError: If they are no mapping.
    """
    return not {*saved_hyperparameters(cls, checkpoint, uri), *overrides}.isdisjoint(CLI_KEYS)


def without_cli(
    cls: type[LightningModule], checkpoint: dict[str, Any], overrides: Mapping[str, Any], uri: str
) -> tuple[type[LightningModule], dict[str, Any]]:
    """Return a class and a checkpoint that Lightning makes without LightningCLI, from plain values alone.

    Args:
        cls: The class.
        checkpoint: The content of the file.
        overrides: Hyperparameters that replace the saved ones.
        uri: The dataset's URI, for errors.

    Raises:
        UnsafeCheckpointError: If objects would have to be made from the hyperparameters.
        ModuleLoadError: If they name another function or class than LightningCLI saves.
    """
    saved = saved_hyperparameters(cls, checkpoint, uri)
    instantiator = overrides.get(INSTANTIATOR, saved.get(INSTANTIATOR))
    if instantiator is None:
        saved = {key: value for key, value in saved.items() if key not in CLI_KEYS}
    else:
        cls = named_subclass(cls, saved.get(CLASS_PATH), uri)
        saved = plain_arguments(cls, {**saved, INSTANTIATOR: instantiator}, overrides, uri)
    kept = {key: value for key, value in checkpoint.items() if key not in _PAST_KEYS}
    return cls, {**kept, cls.CHECKPOINT_HYPER_PARAMS_KEY: saved}


def _saved(cls: type[LightningModule], checkpoint: Mapping[str, Any], uri: str) -> Any:
    """Return the saved hyperparameters, as the type that they had."""
    saved = saved_hyperparameters(cls, checkpoint, uri)
    # The type of an OmegaConf configuration; older versions of Lightning saved its name.
    kind = checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_TYPE)
    if kind is None:
        return saved
    try:
        return AttributeDict(saved) if isinstance(kind, str) else kind(saved)
    except Exception as error:  # it may be anything
        raise ModuleLoadError(
            f"its hyperparameters cannot be made a {listed([kind])}, which it says that they were: {shown(error)}."
            f" {_REMEDY}",
            uri=uri,
        ) from error


_REMEDY = "Pass the class and all arguments of its constructor: load_module(cls=..., ...)."


def _constructor_failed(
    cls: type[LightningModule], missing: list[str], given: list[str], by_place: list[str], error: BaseException
) -> str:
    if missing:
        example = ", ".join(f"{name}=..." for name in missing[:MAX_NAMED])
        return (
            f"{cls.__qualname__} cannot be made, because the checkpoint and its record do not hold the argument"
            f"{'s' if len(missing) > 1 else ''} {listed(missing)} of its constructor (save_hyperparameters was not"
            f" called, or ignored {'them' if len(missing) > 1 else 'it'}). Pass what the training used:"
            f" load_module({example})."
        )
    remedy = "Pass other values, or what it expects in addition, by name: load_module(name=...)."
    if by_place:
        remedy += (
            f" Values of *{by_place[0]} have no names: pass a subclass whose constructor gives them to it:"
            " load_module(cls=...)."
        )
    return (
        f"the constructor of {cls.__qualname__} failed: {shown(error)}. It was called with"
        f" {listed(given) or 'no arguments'}. {remedy} If the class has changed since the training, pass the one that"
        " was used then: load_module(cls=...)."
    )


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], what: str, uri: str) -> None:
    try:
        function(*arguments)
    except LightningDtoolError:
        raise
    except (Exception, SystemExit) as error:
        raise ModuleLoadError(
            f"{what} failed: {shown(error)}. No Trainer is attached here. If it needs one, or another part of the"
            " checkpoint, override it in a subclass, and pass that: load_module(cls=...).",
            uri=uri,
        ) from error


def _mismatch(
    module: LightningModule, state: Mapping[str, Any], strict: bool, lacking: Collection[str], error: Exception
) -> str:
    name = type(module).__qualname__
    try:
        own = torch.nn.Module.state_dict(module)  # a method of the class may leave out what its checkpoints lack
    except Exception:  # a hook of the class
        return f"load_state_dict of {name} failed: {shown(error)}. {_OTHER_CLASS}"
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} ({_shape(state[key])} in the checkpoint, {_shape(own[key])} in the module)"
        for key in state
        if key in own and _shape(state[key]) != _shape(own[key])
    ]
    facts = [
        f"{title}: {listed(keys)}"
        for title, keys in (
            ("only in the module", missing),
            ("only in the checkpoint", unexpected),
            ("of another shape", shapes),
        )
        if keys
    ]
    if not facts:
        return f"load_state_dict of {name} failed: {shown(error)}. {_OTHER_CLASS}"
    remedies = []
    if unexpected and is_overridden("setup", module):
        remedies.append(
            "Only a Trainer calls setup. If layers are made there, make them in configure_model, or in the constructor"
            " of a subclass, and pass that: load_module(cls=...)."
        )
    if strict and not unexpected and not shapes and lacking and set(missing) <= set(lacking):
        remedies.append(
            "The training saved the checkpoint without them. To load it: load_module(strict=False). Then load the"
            " others from where the training had them."
        )
    else:
        remedies.append("Pass the hyperparameters that the training used: load_module(name=...).")
        if (missing or unexpected) and not shapes and strict:
            remedies.append("To leave out what does not match: load_module(strict=False).")
        remedies.append(_OTHER_CLASS)
    return f"the weights do not fit {name}. {'; '.join(facts)}. {' '.join(remedies)}"


_OTHER_CLASS = "If the class has changed since, pass the one that was used then: load_module(cls=...)."


def _shape(value: Any) -> list[int] | None:
    if not isinstance(value, torch.Tensor) or torch.nn.parameter.is_lazy(value) or value.is_nested:
        return None
    return list(value.shape)
