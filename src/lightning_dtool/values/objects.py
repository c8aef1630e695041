"""The JSON forms of functions, classes, modules and objects of any class."""

import functools
import importlib
import inspect
import itertools
import sys
import types
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_dtool.record import Gaps, as_text
from lightning_dtool.values.attributes import attributes_of, has_hidden_state
from lightning_dtool.values.definitions import (
    class_path,
    closure,
    defaults,
    digest_of_code,
    is_one_lambda,
    is_users,
    short_repr,
    source_of,
)
from lightning_dtool.values.registry import Content, Registry
from lightning_dtool.values.surroundings import values_around

if TYPE_CHECKING:
    from lightning_dtool.values.reading import Reader
    from lightning_dtool.values.writing import Writer

_RECORDED_ELSEWHERE = (pl.LightningModule, pl.LightningDataModule, pl.Trainer, Dataset, DataLoader)
"""Objects that a transform may refer to and that other parts of a record describe."""

EXTRAS = frozenset(
    {"source", "bytecode", "defaults", "closure", "globals", "constants", "self", "attributes", "children", "mode"}
)
"""Keys that are not needed to read a value back. `encode` adds some of them only to what cannot be imported."""


def register(registry: Registry) -> None:
    """Register functions, classes and modules, and the family of all other objects."""
    registry.add_matching("builtins:type", lambda value: isinstance(value, type), _write_function, _read_function)
    registry.add_matching("builtins:method", _is_bound, _write_method, _read_method)
    registry.add_matching("builtins:function", inspect.isroutine, _write_function, _read_function)
    registry.add(types.ModuleType, _write_module, _read_module, name="builtins:module")
    registry.add_family("builtins:object", lambda cls: True, _write_object, _read_object)


# -- functions and classes ------------------------------------------------------------------------


def _owner(value: Any) -> Any:
    """Return the instance that a method is bound to. None for a function, a class method or a function of a module."""
    owner = getattr(value, "__self__", None)
    return None if isinstance(owner, type | types.ModuleType) else owner


def _is_bound(value: Any) -> bool:
    return inspect.isroutine(value) and _owner(value) is not None


def _write_function(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    owner = getattr(value, "__self__", None)
    if not isinstance(value, type) and isinstance(owner, type):  # a class method is imported by the name of its class
        name = f"{class_path(owner)}.{as_text(value.__name__)}"
    else:
        name = class_path(value)
    if not _is_importable(value, name):
        public = f"torch:{value.__name__}"  # torch's built-in functions do not name their module
        name = public if _is_importable(value, public) else name
    if not _is_importable(value, name):
        writer.add_unreadable(gaps, f"{name} cannot be imported by its name", "define it at the top of a module")
    content: Content = {"name": name}
    if writer.detailed or "<" in name:
        content.update(_code(value, name, writer, gaps))
    return content


def _write_method(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    name, owner = class_path(value), _owner(value)
    content: Content = {"name": name}
    if writer.detailed:
        content["self"] = writer.encode(owner, gaps.at("__self__"))
        content.update(_code(value, name, writer, gaps))
    else:
        gaps.add(f"a method is recorded by its name, without the {class_path(owner)} that it is bound to")
    return {**content, "missing": ["__self__"]}


def _is_importable(value: Any, name: str) -> bool:
    """Return whether a name leads to a value. No import is needed, as the module of an existing value is loaded."""
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found is value or (inspect.isroutine(found) and inspect.isroutine(value) and bool(found == value))


def _code(value: Any, name: str, writer: "Writer", gaps: Gaps) -> Content:
    """Return the source of a user's function or class, and the values that determine its behaviour."""
    if isinstance(value, functools._lru_cache_wrapper):
        value = value.__wrapped__
    function = inspect.unwrap(value) if isinstance(value, types.FunctionType) else getattr(value, "__func__", value)
    if not is_users(function):
        return {}
    content: Content = {}
    source = source_of(value)
    if source is None:
        if writer.detailed:
            gaps.add(f"the source code of {name} is not available", "define it in a file")
    else:
        content["source"] = writer.encode(as_text(source), gaps)
        if "<lambda>" in name and not is_one_lambda(source):
            content["bytecode"] = f"sha256:{digest_of_code(function.__code__)}"
    if writer.detailed:
        # A decorated function has two layers. If both use a name, the value of the outer one is kept: its closure
        # usually contains the inner function with its own values.
        for layer in (function, value) if value is not function else (function,):
            if isinstance(layer, types.FunctionType):
                for part, values in _surroundings(layer, writer, gaps).items():
                    content.setdefault(part, {}).update(values)
        owner = value if isinstance(value, type) else getattr(value, "__self__", None)
        if isinstance(owner, type):  # a class, or the class of a class method
            content.update(_constants(owner, writer, gaps))
    return content


def _surroundings(function: types.FunctionType, writer: "Writer", gaps: Gaps) -> Content:
    """Return the values outside its source that determine what a function does."""
    own = {f"{function.__name__}.{name}" for name in defaults(function)} | set(closure(function))
    around = values_around(function).items()
    parts = {
        "defaults": defaults(function),
        "closure": closure(function),
        "globals": {name: value for name, value in around if name not in own},
    }
    return {part: _encoded_by_name(values, writer, gaps.at(part)) for part, values in parts.items() if values}


def _constants(cls: type, writer: "Writer", gaps: Gaps) -> Content:
    """Return the values that the methods of a class use, beside the attributes of its objects."""
    values = {name: value for name, value in values_around(cls).items() if not writer.is_inside(value)}
    return {"constants": _encoded_by_name(values, writer, gaps.at("constants"))} if values else {}


def _read_function(content: Mapping[str, Any], reader: "Reader") -> Any:
    return reader.imported(content["name"])


def _read_method(content: Mapping[str, Any], reader: "Reader") -> Any:
    raise ValueError("the record does not hold the object that the method is bound to")


def _write_module(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    name = as_text(value.__name__)
    if sys.modules.get(value.__name__) is not value:
        gaps.add(f"the module {name} cannot be imported by its name")
    return {"name": name}


def _read_module(content: Mapping[str, Any], reader: "Reader") -> Any:
    reader.demand_trust(content["name"])
    return importlib.import_module(content["name"])


# -- objects --------------------------------------------------------------------------------------


def _write_object(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    """Write an object as the init parameters that it keeps as attributes. In detail, add its other attributes."""
    cls = type(value)
    if isinstance(value, _RECORDED_ELSEWHERE):
        writer.add_unreadable(gaps, f"only the class of a {class_path(cls)} is recorded", "build it in __init__")
        return {"repr": cls.__name__}
    if writer.detailed and cls.__module__.partition(".")[0] == "albumentations":
        try:
            return {"albumentations": writer.encode(value.to_dict(), gaps)}
        except Exception:  # for example a Lambda without a name
            return _by_parameters(value, writer, gaps)
    return _by_parameters(value, writer, gaps)


def _by_parameters(value: Any, writer: "Writer", gaps: Gaps) -> Content:
    cls = type(value)
    kept = attributes_of(value)
    without_parameters = cls.__init__ is object.__init__
    if without_parameters and (kept is None or getattr(cls, "__new__", None) is not object.__new__):
        gaps.add(
            f"only the repr of a {class_path(cls)} is recorded", "pass plain values and build the object in __init__"
        )
        return {"repr": short_repr(value)}
    parameters = list(_init_parameters(cls))
    # An object without attributes does not depend on its arguments: `nn.Identity` takes any. It can be built without
    # those that are optional.
    depends = kept != {} or has_hidden_state(cls)
    if not depends and (writer.detailed or all(variadic for _, variadic in parameters)):
        parameters = []
    kept = kept or {}
    init: Content = {}
    missing = []
    used = set()
    for name, variadic in parameters:
        key = next((key for key in (name, f"_{name}") if key in kept), None)
        if variadic or key is None:
            missing.append(name)
        else:
            used.add(key)
            init[name] = writer.encode(kept[key], gaps.at(name))
    content: Content = {"init": init}
    if missing:
        content["missing"] = missing
    rest = {name: entry for name, entry in kept.items() if name not in used}
    if without_parameters and rest:  # a class without its own `__init__` does not set them from arguments
        content["state"] = _encoded_by_name(rest, writer, gaps)
        rest = {}
    if writer.detailed:
        _add_details(value, content, rest, writer, gaps)
    else:
        _add_lost(value, content, rest, gaps)
    return content


def _add_lost(value: Any, content: Content, rest: Mapping[str, Any], gaps: Gaps) -> None:
    """Add a gap for what the init parameters do not describe."""
    name = class_path(type(value))
    if "missing" in content:
        gaps.add(f"{name} does not keep these parameters: {', '.join(content['missing'])}", "keep them as attributes")
    elif isinstance(value, torch.nn.Module) and any(_is_weight(value, key, entry) for key, entry in rest.items()):
        gaps.add(f"the weights of a {name} are not recorded", "pass plain values and build the object in __init__")
        content["missing"] = ["weights"]


def _is_weight(module: torch.nn.Module, name: str, value: Any) -> bool:
    """Return whether an attribute does not follow from the init parameters. Tensors of transforms in libraries do."""
    if isinstance(value, torch.nn.Module) or name in module._parameters or name in module._buffers:
        return True
    return isinstance(value, torch.Tensor) and is_users(type(module))


def _add_details(value: Any, content: Content, rest: dict[str, Any], writer: "Writer", gaps: Gaps) -> None:
    """Add sources, children and attributes."""
    own = [each for each in type(value).__mro__ if is_users(each)]
    sources = list(filter(None, map(source_of, own)))
    if sources:
        content["source"] = writer.encode(as_text("\n".join(sources)), gaps)
    content.update(_constants(type(value), writer, gaps))
    if len(sources) < len(own):
        gaps.add(f"the source code of {class_path(type(value))} is not available", "define it in a file")
    missing = content.get("missing", [])
    if isinstance(value, torch.nn.Module):
        children = [name for name in value._modules if name in rest]
        if children:  # in a list, because their order matters
            content["children"] = [[name, writer.encode(value._modules[name], gaps.at(name))] for name in children]
        rest = {name: entry for name, entry in rest.items() if name not in value._modules}
        if not value.training:
            content["mode"] = "eval"
        if not (missing or own):  # keep only a library module's tensors, as the rest follows from `init`
            rest = {name: entry for name, entry in rest.items() if isinstance(entry, torch.Tensor)}
    elif not (missing or own):
        return
    if rest:
        content["attributes"] = _encoded_by_name(dict(sorted(rest.items())), writer, gaps)
    elif missing and not content.get("children"):
        reason = f"{class_path(type(value))} does not keep these parameters: {', '.join(missing)}"
        gaps.add(reason, "keep them as attributes")


def _read_object(cls: Any, content: Mapping[str, Any], reader: "Reader") -> Any:
    built = cls(**{name: reader.decode(value) for name, value in content["init"].items()})
    for name, value in content.get("state", {}).items():
        reader.demand_trust(content["type"])
        object.__setattr__(built, name, reader.decode(value))
    return built


def _encoded_by_name(values: Mapping[str, Any], writer: "Writer", gaps: Gaps) -> Content:
    return {as_text(name): writer.encode(value, gaps.at(name)) for name, value in values.items()}


def _init_parameters(cls: type) -> Iterator[tuple[str, bool]]:
    """Yield the parameters of a class's `__init__`, and whether each is variadic."""
    if cls.__init__ is object.__init__:  # type: ignore[misc]
        return
    try:
        parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    except (ValueError, TypeError):  # written in C
        yield "arguments", True
        return
    for name, parameter in itertools.islice(parameters.items(), 1, None):
        yield name, parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
