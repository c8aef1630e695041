"""The arguments with which LightningModules and LightningDataModules are made.

Lightning keeps the arguments of `__init__` only if the class calls `save_hyperparameters`. Both kinds of modules have
the base class `HyperparametersMixin`. Its `__new__`, which is set here, receives the arguments before `__init__` can
change them, and writes them as strict JSON at once, so that none of them is kept alive. Other modules are unaffected.
"""

import copy
import copyreg
import inspect
import sys
import types
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from lightning_dtool.random_states import random_states_kept

POSITIONAL = "*args"
"""Key of the arguments that a class takes without names."""

_NAMESPACES = ("lightning.pytorch", "pytorch_lightning")


@dataclass
class Arguments:
    """The arguments of one module.

    Attributes:
        encoded: The arguments by name as strict JSON, with defaults. Those of `**kwargs` have their own names, those of
            `*args` are a list named `*args`.
        given: The names of the arguments that were passed, without those that have their defaults.
        torch_seed: The initial seed of torch's generator at that moment.
        initialised: Whether `__init__` was called. It is not when an object is unpickled.
    """

    encoded: dict[str, Any]
    given: frozenset[str]
    torch_seed: int
    initialised: bool = False


# Not a WeakKeyDictionary, because a user's class may define `__eq__` and so have no hash.
_arguments: MutableMapping[object, Arguments] = WeakIdKeyDictionary()


def install() -> None:
    """Observe the modules that are made from now on. Lightning need not be imported yet."""
    waiting = True
    for namespace in _NAMESPACES:
        defined = sys.modules.get(f"{namespace}.core.mixins.hparams_mixin")
        if defined is not None and (base := getattr(defined, "HyperparametersMixin", None)) is not None:
            _watch(base)
            waiting = waiting and namespace != _NAMESPACES[0]
    if waiting:
        _watch_when_imported()


def arguments_of(module: object) -> Arguments | None:
    """Return the arguments with which a module was made. None if they are not known.

    They are known if `install` was called before, if `__init__` was called, and if the class has no `__new__` of its
    own, which may change them. A copy has the arguments of its original; an unpickled object has none.

    Args:
        module: A LightningModule or LightningDataModule.
    """
    found = _arguments.get(module)
    return found if found is not None and found.initialised else None


def _watch_when_imported() -> None:
    """Wait for the definition of the class LightningModule, which is a subclass of `torch.nn.Module`."""

    def __init_subclass__(cls: Any, **kwargs: Any) -> None:  # noqa: N807
        super(torch.nn.Module, cls).__init_subclass__(**kwargs)
        if cls.__name__ == "LightningModule" and cls.__module__ in [f"{name}.core.module" for name in _NAMESPACES]:
            for base in cls.__mro__:
                if base.__name__ == "HyperparametersMixin":
                    _watch(base)

    torch.nn.Module.__init_subclass__ = classmethod(__init_subclass__)  # type: ignore[assignment, arg-type]


def _watch(base: Any) -> None:
    """Observe the construction of all subclasses of `HyperparametersMixin`."""
    if isinstance(vars(base)["__init__"], _Init):
        return

    # By position only, because a user's class may have an argument `cls`.
    def __new__(cls: type, /, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        inherited: Callable[..., Any] = super(base, cls).__new__
        # Like `object`, which ignores the arguments if the class has its own `__init__`.
        made = inherited(cls) if inherited is object.__new__ else inherited(cls, *args, **kwargs)
        # A class with its own `__new__` may pass on other arguments than it was given.
        if cls.__new__ is __new__:
            _note(made, args, kwargs, sys._getframe(1))
        return made

    base.__new__ = staticmethod(__new__)
    base.__init__ = _Init(base.__init__)


class _Init:
    """`HyperparametersMixin.__init__`, which notes for which objects it is called.

    It is a descriptor that returns the original method. A function that calls the original would add a frame, at which
    the search of `save_hyperparameters` for the arguments ends.

    Args:
        original: The method.
    """

    def __init__(self, original: types.FunctionType) -> None:
        self._original = original

    def __get__(self, module: object | None, owner: type | None = None) -> Any:
        if module is not None and (noted := _arguments.get(module)) is not None:
            noted.initialised = True
        return self._original.__get__(module, owner)


def _note(made: object, args: Sequence[Any], kwargs: Mapping[str, Any], caller: types.FrameType) -> None:
    try:
        original = None if args or kwargs else _original_of_copy(caller)
        noted = _arguments.get(original) if original is not None else _encoded(type(made), made, args, kwargs)
        if noted is not None:
            _arguments[made] = noted
    except Exception:  # a user's class may raise anything; `__init__` then raises it where the user expects it
        return


def _original_of_copy(caller: types.FrameType) -> object | None:
    """Return the object that `copy.copy` or `copy.deepcopy` is copying, if one of them called `__new__`."""
    outer = caller.f_back
    if caller.f_code is not copyreg.__newobj__.__code__ or outer is None:  # type: ignore[attr-defined]
        return None
    is_copy = outer.f_code is copy._reconstruct.__code__  # type: ignore[attr-defined]
    return outer.f_locals.get("x") if is_copy else None


def _encoded(cls: Any, made: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments | None:
    # It imports Lightning, which is loaded by now.
    from lightning_dtool.record import Gaps
    from lightning_dtool.values.writing import encode_all

    signature = inspect.signature(types.MethodType(cls.__init__, made))
    bound = signature.bind(*args, **kwargs)
    given = set(bound.arguments)
    bound.apply_defaults()
    values: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        value = bound.arguments[parameter.name]
        if parameter.kind is parameter.VAR_KEYWORD:
            values.update(value)
            given.update(value)
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            values[parameter.name] = value
        elif value:
            values[POSITIONAL] = list(value)
            given.add(POSITIONAL)
    with random_states_kept():
        encoded = encode_all(values, Gaps())
    return Arguments(encoded, frozenset(given & values.keys()), torch.initial_seed())
