"""The user's and the libraries' functions that compute a loss, and the values that the code of a loss reads.

No function is changed to see its calls. While PyTorch executes an operation, the Python frames show in which functions
it is executed and which arguments these were given.
"""

import argparse
import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule

from lightning_dtool.capture.loss_graph import MAX_CALLS, NotedCall, tensors_in
from lightning_dtool.capture.loss_settings import MAX_WEIGHTS, encode_arguments, plain_attributes
from lightning_dtool.capture.source_text import recorded_source
from lightning_dtool.record import Gaps, as_text
from lightning_dtool.redaction.record import redact_mapping
from lightning_dtool.values.attributes import is_constant
from lightning_dtool.values.definitions import class_path, closure, defaults, is_library, is_users, names_used
from lightning_dtool.values.writing import encode

_MAX_FRAMES = 60
"""Number of Python frames in which functions are looked for."""

_MAX_CONSTANTS = 200
"""Maximum number of values that are recorded for one piece of code."""

_MAX_FUNCTIONS = 50
"""Maximum number of functions and methods in which values are looked for."""

LIBRARIES = ("torch", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "lightning_dtool")
"""Libraries whose frames do not identify a place in the user's code."""

_OF_EVERY_METRIC = ("torchmetrics.metric", "torchmetrics.utilities")
"""Modules whose frames are those of every metric."""

_TRAINERS = ("lightning", "pytorch_lightning", "lightning_fabric")

_CALL = torch.nn.Module._call_impl.__code__
"""The code through which every module is called."""


def training_step_of(module: LightningModule) -> Any:
    """Return the function that the Trainer calls as `training_step`: that of the class, or one assigned to the object.

    Args:
        module: The LightningModule.
    """
    step = vars(module).get("training_step", type(module).training_step)
    while isinstance(step, functools.partial):
        step = step.func
    step = inspect.unwrap(step)
    return getattr(step, "__func__", step)


def source_of_training_step(module: LightningModule, gaps: Gaps) -> str | None:
    """Return the source code of `training_step`.

    Args:
        module: The LightningModule.
        gaps: Receives a gap if the source is not available or not complete.
    """
    source = recorded_source(training_step_of(module), gaps.at("loss.training_step"))
    if source is None:
        reason, remedy = "the source code of the method is not available", "define the class in a file"
        gaps.at("loss.training_step").add(reason, remedy)
    return source


def code_of(module: LightningModule) -> set[types.CodeType]:
    """Return the code of all methods that the user wrote in the class of a LightningModule, and of their closures.

    A `training_step` that is assigned to the object is one of them.
    """
    found: set[types.CodeType] = set()
    step = training_step_of(module)
    waiting = [step.__code__] if isinstance(step, types.FunctionType) else []
    waiting += [
        function.__code__
        for base in type(module).__mro__
        if base.__module__.partition(".")[0] not in (*LIBRARIES, "builtins")
        for value in vars(base).values()
        if isinstance(function := inspect.unwrap(getattr(value, "__func__", value)), types.FunctionType)
    ]
    while waiting:
        code = waiting.pop()
        if code not in found:
            found.add(code)
            waiting += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return found


def functions_held(module: LightningModule) -> dict[types.CodeType, str]:
    """Return the names of the attributes of a LightningModule that are functions, by their code."""
    held: dict[types.CodeType, str] = {}
    for name, value in vars(module).items():
        function = value.func if isinstance(value, functools.partial) else value
        if isinstance(function, types.FunctionType):
            held[function.__code__] = as_text(name)
    return held


def functions_running(methods: set[types.CodeType]) -> list[types.FrameType]:
    """Return the frames of the functions that are being executed, outermost first.

    Args:
        methods: The code of the LightningModule. Functions that it calls are returned, but not itself. If the operation
            is executed inside a module, the functions and methods that its `forward` calls are returned.
    """
    frame: types.FrameType | None = sys._getframe(1)
    found: list[types.FrameType] = []
    for _ in range(_MAX_FRAMES):
        if frame is None or frame.f_code in methods or frame.f_code is _CALL:
            break
        library = str(frame.f_globals.get("__name__")).partition(".")[0]
        if library in _TRAINERS:
            return []
        # Python's own frames are those of decorators.
        # Those of a metric's base class are part of its call.
        if (
            library not in ("torch", "lightning_dtool", "lightning_utilities")
            and library not in sys.stdlib_module_names
            and not str(frame.f_globals.get("__name__")).startswith(_OF_EVERY_METRIC)
        ):
            found.append(frame)
        frame = frame.f_back
    else:
        return []
    if frame is None:  # another thread
        return []
    found = [each for each in found if each.f_code.co_name != "forward"]
    found.reverse()
    return found


class Calls:
    """The calls of functions in one batch. It tells whether two operations are executed in the same call.

    Args:
        held: The names of the attributes that hold functions, by their code.
    """

    def __init__(self, held: Mapping[types.CodeType, str]) -> None:
        self._held = held
        self._calls: dict[Any, NotedCall] = {}
        self._current: dict[int, tuple[types.CodeType, int, int, NotedCall]] = {}

    def note(self, running: list[types.FrameType]) -> tuple[NotedCall | None, NotedCall | None]:
        """Return the call of the function that computes a loss, and the outermost call if it is new.

        The function is the outermost that is given predictions, which are tensors with a graph. If there is none, it is
        the outermost function, such as one that is given the model and a batch.

        Args:
            running: The frames of the functions that are being executed, outermost first.

        Returns:
            Two calls, each of which may be None. The second is the first call or contains it.
        """
        ids = {id(frame) for frame in running}
        self._current = {number: known for number, known in self._current.items() if number in ids}
        if not running:
            return None, None
        known = [call for frame in running if (call := self._known(frame)) is not None]
        if known and known[-1].covers:
            return known[-1], None
        given = [frame for frame in running if _is_given_predictions(frame)]
        if not given and known:
            return known[-1], None
        outer = known[0] if known else None
        new = None
        if outer is None and running[0] not in given:
            outer, new = self._add(running[0], covers=False)
        if not given:
            return outer, new
        # A decorator passes on all arguments, perhaps except for `self`.
        named = [frame for frame in given if _named_parameters(frame.f_code) and not _is_wrapper(frame, running)]
        call, added = self._add((named or given)[0], covers=True)
        if outer is None:
            return call, added
        if added is not None:
            outer.inner.append(added)
        return call, new

    def forget(self) -> None:
        """Forget the calls, before a backward pass."""
        self._current.clear()

    def _known(self, frame: types.FrameType) -> NotedCall | None:
        code, caller, position, call = self._current.get(id(frame), (None, 0, 0, None))
        # A new frame may be at the address of an old one. Then its code starts again.
        if code is not frame.f_code or caller != _caller(frame) or position > frame.f_lasti or call is None:
            return None
        self._current[id(frame)] = (code, caller, frame.f_lasti, call)
        return call

    def _add(self, frame: types.FrameType, *, covers: bool) -> tuple[NotedCall | None, NotedCall | None]:
        """Return the call of a function, and the same call if no equal one has been seen."""
        if len(self._calls) >= MAX_CALLS:
            return None, None
        described = _describe(frame, covers)
        described.attribute = self._held.get(frame.f_code)
        call = self._calls.setdefault(described.key(), described)
        self._current[id(frame)] = (frame.f_code, _caller(frame), frame.f_lasti, call)
        return call, call if call is described else None


def _caller(frame: types.FrameType) -> int:
    """Return the place in the calling code."""
    return frame.f_back.f_lasti if frame.f_back is not None else 0


def place_of(frame: types.FrameType | None) -> int:
    """Return a number that identifies a place in the user's code.

    Args:
        frame: The frame in which the code is executed.
    """
    places: list[int] = []
    while frame is not None and len(places) < 2 * _MAX_FRAMES:
        # Frames of libraries are ignored, because an optimizer calls its closure from several places.
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in LIBRARIES:
            places += (id(frame.f_code), frame.f_lasti)
        frame = frame.f_back
    return hash(tuple(places))


def takes_pair(call: NotedCall) -> bool:
    """Return whether a function is given two tensors or more, such as predictions and targets."""
    return sum(isinstance(value, Mapping) and "shape" in value for value in call.arguments.values()) > 1


def _named_parameters(code: types.CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _is_wrapper(frame: types.FrameType, running: list[types.FrameType]) -> bool:
    """Return whether a function passes all that it is given to one that it was made with, as those of decorators do."""
    code = frame.f_code
    if not (code.co_flags & inspect.CO_VARARGS and code.co_flags & inspect.CO_VARKEYWORDS):
        return False
    held = [frame.f_locals[name] for name in code.co_freevars if name in frame.f_locals]
    wrapped = {inspect.unwrap(value).__code__ for value in held if isinstance(value, types.FunctionType)}
    return any(each.f_code in wrapped for each in running)


def _parameters(code: types.CodeType) -> tuple[str, ...]:
    variadic = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + variadic]


def _is_given_predictions(frame: types.FrameType) -> bool:
    values = frame.f_locals
    return any(
        tensor.grad_fn is not None
        for name in _parameters(frame.f_code)
        if name in values
        for tensor in tensors_in(values[name])
    )


def _describe(frame: types.FrameType, covers: bool) -> NotedCall:
    """Describe the call of a function: its name, arguments and source, and the values that its code reads."""
    code, values, gaps = frame.f_code, frame.f_locals, Gaps()
    module = str(frame.f_globals.get("__name__"))
    arguments = {name: values[name] for name in _parameters(code) if name in values}
    owner = next(iter(arguments.values()), None) if code.co_argcount else None
    is_method = hasattr(type(owner), code.co_name) and code.co_varnames[0] == "self"
    name = getattr(code, "co_qualname", None) or (  # from Python 3.11 on
        f"{type(owner).__qualname__}.{code.co_name}" if is_method else code.co_name
    )
    if is_method:
        arguments.update(plain_attributes(owner))
    # A model, a configuration or a batch is described elsewhere.
    described = {
        name: {"type": class_path(type(value))} if isinstance(value, torch.nn.Module) else value
        for name, value in arguments.items()
        if not (name == "self" and is_method)
    }
    if not covers:
        described = {name: value for name, value in described.items() if is_constant(value)}
    call = NotedCall(as_text(f"{module}:{name}"), "function", None, encode_arguments(described, gaps), gaps)
    call.known, call.covers, call.place = False, covers, place_of(frame.f_back)
    if not is_library(module):
        call.source = recorded_source(code, gaps.at("source"))
        read = {name: frame.f_globals[name] for name in names_used(code) if name in frame.f_globals}
        read |= {name: values[name] for name in code.co_freevars if name in values}
        call.constants = _encoded({name: value for name, value in sorted(read.items()) if is_constant(value)}, gaps)
    return call


# -- the values that training_step reads ------------------------------------------------------------------


def constants_read(module: LightningModule, gaps: Gaps) -> dict[str, Any]:
    """Return the plain values that `training_step` reads, by name.

    These are attributes of the LightningModule (`self.smoothing`), variables of its modules (`SMOOTHING`), variables of
    enclosing functions, and default values of arguments (`dice.eps`), including those that the user's other methods and
    functions read when `training_step` calls them.

    Args:
        module: The LightningModule.
        gaps: Receives a gap at `loss.constants` for each object whose values are not described.
    """
    found: dict[str, Any] = {}
    for function, owner in _reachable(module):
        code = function.__code__
        names = names_used(code)
        prefix = "" if function.__module__ == type(module).__module__ else f"{function.__module__}."
        for name in names & set(function.__globals__):
            found.setdefault(f"{prefix}{name}", function.__globals__[name])
        found.update(closure(function))
        if owner is not None:
            own = {**vars(module), **module._buffers}
            found.update({f"self.{name}": own[name] for name in names if name in own and name != "training"})
        if function.__name__ != "training_step":
            found.update({f"{function.__qualname__}.{name}": value for name, value in defaults(function).items()})
    kept = {name: value for name, value in sorted(found.items()) if is_constant(value) or _is_configuration(value)}
    place = gaps.at("loss.constants")
    for name in sorted(set(found) - set(kept)):
        if _may_hold_constants(found[name]):
            reason = f"values that this {class_path(type(found[name]))} holds are not recorded"
            place.at(name).add(reason, "make them hyperparameters")
    if len(kept) > _MAX_CONSTANTS:
        place.add(f"only the first {_MAX_CONSTANTS} of {len(kept)} values are recorded")
    return redact_mapping(_encoded(dict(list(kept.items())[:_MAX_CONSTANTS]), place), place)


def _reachable(module: LightningModule) -> Iterator[tuple[types.FunctionType, LightningModule | None]]:
    """Yield `training_step`, and the user's methods and functions that it calls by name, directly or indirectly."""
    waiting: list[tuple[Any, LightningModule | None]] = [(training_step_of(module), module)]
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_FUNCTIONS:
        found, owner = waiting.pop()
        function = inspect.unwrap(found) if isinstance(found, types.FunctionType) else found
        if not isinstance(function, types.FunctionType) or id(function) in seen or not is_users(function):
            continue
        seen.add(id(function))
        yield function, owner
        for name in sorted(names_used(function.__code__)):
            if isinstance(called := function.__globals__.get(name), types.FunctionType):
                waiting.append((called, None))
            if owner is not None:
                method = next((vars(base)[name] for base in type(module).__mro__ if name in vars(base)), None)
                waiting.append((getattr(method, "__func__", method), owner))


def _is_configuration(value: object) -> bool:
    return isinstance(value, argparse.Namespace | types.SimpleNamespace) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )


def _may_hold_constants(value: object) -> bool:
    """Return whether a value is an object of the user's, such as a configuration, and no part of the training."""
    if isinstance(value, type | types.ModuleType | torch.nn.Module | torch.Tensor | np.ndarray) or callable(value):
        return False
    return is_users(type(value))


def _encoded(values: Mapping[str, Any], gaps: Gaps) -> dict[str, Any]:
    return {as_text(name): encode(value, gaps.at(name)) for name, value in values.items() if not _is_data(value)}


def _is_data(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return value.grad_fn is not None or value.numel() > MAX_WEIGHTS
    return isinstance(value, np.ndarray) and value.size > MAX_WEIGHTS
