"""An observer of the loss that training minimises.

The observer watches only the first training batch. It sees the calls of PyTorch's loss functions with their arguments
(through a TorchFunctionMode), the calls of loss modules and torchmetrics objects (through `torch.nn.Module.__call__`,
so that no module is changed), and the graph of each loss on which `backward` is called. The graph shows which of the
calls are part of the loss, and which operations a loss without such calls consists of.

Watching must change neither bits nor random numbers. Calls are therefore not watched in two cases: if anything may be
compiled, because it would compile again under a mode, and inside PyTorch's transformer layers, which use another kernel
under a mode.
"""

import contextlib
import inspect
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import overrides
from torch.overrides import TorchFunctionMode
from torchmetrics import Metric

from lightning_dtool.capture.loss_graph import MAX_CALLS, NotedCall, lacks_numbers, node_number, tensors_in, walk_graph
from lightning_dtool.capture.loss_settings import (
    bound_arguments,
    encode_arguments,
    is_loss,
    loss_modules,
    loss_settings,
)
from lightning_dtool.capture.places import ModuleCalls, Places
from lightning_dtool.capture.source_text import recorded_source
from lightning_dtool.record import Gaps, Loss, LossCall
from lightning_dtool.values.definitions import class_path

_MAX_GRAPHS = 8
"""Maximum number of different losses of one batch whose operations are recorded."""

_MAX_FRAMES = 60
"""Number of Python frames that identify a place in the code."""

_NAME = re.compile(r"(^|_)(loss|loss_nd|kl_div|cross_entropy|binary_cross_entropy|binary_cross_entropy_with_logits)$")

_COMPILED = "_torchdynamo_orig_callable"

_LIBRARIES = ("torch", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "lightning_dtool")
"""Libraries whose frames do not identify a place in the user's code."""


def _loss_functions() -> dict[int, str]:
    """Return the names of PyTorch's loss functions by their ids, which never change."""
    found: dict[int, str] = {}
    # The last entry wins, so that public functions have their names from torch.nn.functional.
    for room in (torch._C._nn, torch, torch.nn.functional):
        for name, function in vars(room).items():
            if _NAME.search(name) and not name.startswith("_") and callable(function):
                found[id(function)] = f"{room.__name__}:{name}"
    return found


_FUNCTIONS = _loss_functions()

_BACKWARDS = {id(torch.Tensor.backward), id(torch.autograd.backward)}


class LossObserver:
    """Watches the first training batch.

    Args:
        module: The LightningModule, not wrapped by a strategy.

    Example:
        A callback calls `start()` in the first `on_train_batch_start` and `before_backward(loss)` in each
        `on_before_backward` of that batch. It calls `stop()` in the first `on_train_batch_end`, and in the hooks that
        run if training ends early (`on_exception`, `on_train_epoch_end`). Then it calls `loss(module, gaps)`.
    """

    def __init__(self, module: LightningModule) -> None:
        self._module: LightningModule | None = module
        self._mode = _Mode(self)
        self._module_calls = ModuleCalls(self._enter_module, self._leave_module)
        self._places = Places()
        self._thread = 0
        self._names: dict[int, str] = {}
        self._inside: list[tuple[int, NotedCall]] = []
        self._asleep: list[tuple[int, bool]] = []
        self._paused = False
        self._noted: dict[tuple[Any, ...], NotedCall] = {}
        self._in_segment: Counter[Any] = Counter()
        self._seen_graphs: set[int] = set()
        self._graphs: list[list[str]] = []
        self._gaps = Gaps()
        self._compiled = False
        self._backwards = 0
        self._too_many = False
        self._running = False

    # -- start and stop ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to watch. Do nothing if already watching, or if anything may be compiled (see `is_compiled`)."""
        if self._running or self._module is None:
            return
        with self._guard("loss.calls"):
            self._compiled = is_compiled(self._module)
            if self._compiled:
                return
            self._names = {id(child): name for name, child in self._module.named_modules() if name}
            self._thread = threading.get_ident()
            self._running = True
            if not self._module_calls.start():
                reason = "other code has replaced torch.nn.Module.__call__, so calls of loss modules are not seen"
                self._gaps.at("loss.calls").add(reason, "see loss.training_step")
            overrides._push_mode(self._mode)  # type: ignore[no-untyped-call]

    def before_backward(self, loss: torch.Tensor) -> None:
        """Walk the graph of a loss before its backward pass. No reference to the graph is kept.

        Args:
            loss: The loss.
        """
        if self._running or self._compiled:
            with self._guard("loss.operations"):
                self._walk(loss)

    def stop(self) -> None:
        """Stop watching and drop all references to parts of the model. May be called several times."""
        self._running = False
        self._module_calls.stop()
        _leave(self._mode)
        self._places.clear()
        self._module = None
        self._names = {}
        self._inside = []
        self._asleep = []

    # -- the result ---------------------------------------------------------------------------------------

    def loss(self, module: LightningModule, gaps: Gaps) -> Loss:
        """Return the observed loss.

        A call is recorded if its result is part of a loss on which `backward` was called, or if this is not known. If
        a call is repeated after a backward pass, from the same place in the code and with the same arguments, it is
        recorded once: LBFGS evaluates its closure many times. Losses that are computed inside a user's loss module are
        recorded in its arguments, under `computes`. If anything may be compiled, the loss modules are recorded instead
        of calls.

        Args:
            module: The LightningModule.
            gaps: Receives a gap for everything that could not be observed.
        """
        gaps.include(self._gaps)
        calls: list[LossCall] = []
        for noted in self._calls():
            gaps.at(f"loss.calls[{len(calls)}]").include(noted.gaps)
            calls.append(
                LossCall(name=noted.name, kind=noted.kind, attribute=noted.attribute, arguments=noted.settings())
            )
        if self._compiled:
            calls = loss_modules(module, gaps)
        self._add_gaps(gaps)
        operations = [
            operation if number == 1 else f"loss {number}: {operation}"
            for number, graph in enumerate(self._graphs, 1)
            for operation in graph
        ]
        step = recorded_source(type(module).training_step, gaps.at("loss.training_step"))
        if step is None:
            reason, remedy = "the source code of the method is not available", "define the class in a file"
            gaps.at("loss.training_step").add(reason, remedy)
        return Loss(
            calls=calls,
            operations=operations,
            training_step=step,
        )

    def _calls(self) -> Iterator[NotedCall]:
        for noted in self._noted.values():
            # Without a backward pass it is not known which calls are part of the loss, so all but metrics are recorded.
            if noted.contributes or (not self._backwards and noted.kind != "metric") or noted.unknown:
                yield noted

    def _add_gaps(self, gaps: Gaps) -> None:
        if self._compiled:
            reason = "code in this process uses torch.compile, and observing functions would make it compile again"
            gaps.at("loss.calls").add(reason, "see loss.training_step, or record one run without torch.compile")
        elif not self._backwards:
            reason = "no backward pass was seen in the first training batch"
            remedy = "return the loss from training_step, or call self.manual_backward(loss)"
            gaps.at("loss.operations").add(reason, remedy)
        if self._too_many:
            reason = f"only the first {MAX_CALLS} losses of the first training batch are recorded"
            gaps.at("loss.calls").add(reason)

    # -- observation -------------------------------------------------------------------------------------

    def _called(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """Note a call of a loss function."""
        with self._guard("loss.calls"):
            gaps = Gaps()
            name = _FUNCTIONS[id(func)]
            arguments = encode_arguments(bound_arguments(func, args, kwargs), gaps)
            noted = NotedCall(name, "function", None, arguments, gaps)
            if self._inside:
                self._inside[-1][1].add(noted)
            else:
                self._note(noted, result)

    def _backward(self, caller: FrameType | None, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Look at a loss on which Lightning or the user calls `backward`."""
        with self._guard("loss.operations"):
            for loss in tensors_in(args[:1] or tuple(kwargs.values())[:1]):
                self.before_backward(loss)
        self._paused = True
        try:
            return self._places.call(caller, func, args, kwargs)
        finally:
            self._paused = False

    def _enter_module(self, module: torch.nn.Module) -> None:
        if not self._sees():
            return
        with self._guard("loss.calls"):
            if isinstance(module, _SENSITIVE):
                self._asleep.append((id(module), _leave(self._mode)))
            elif is_loss(module) or isinstance(module, Metric):
                gaps = Gaps()
                kind = "metric" if isinstance(module, Metric) else "module"
                settings = loss_settings(module, gaps)
                noted = NotedCall(class_path(type(module)), kind, self._names.get(id(module)), settings, gaps)
                self._inside.append((id(module), noted))

    def _leave_module(self, module: torch.nn.Module, result: Any) -> None:
        if not self._sees():
            return
        with self._guard("loss.calls"):
            if self._asleep and self._asleep[-1][0] == id(module):
                _, left = self._asleep.pop()
                if left:
                    overrides._push_mode(self._mode)  # type: ignore[no-untyped-call]
            elif any(id(module) == inner for inner, _ in self._inside):
                # Also remove the modules inside it that an exception left on the stack.
                while self._inside[-1][0] != id(module):
                    self._inside.pop()
                _, noted = self._inside.pop()
                if self._inside:
                    self._inside[-1][1].add(noted)
                else:
                    self._note(noted, result)

    def _sees(self) -> bool:
        """Return False in another thread, and when activation checkpointing runs a module again in a backward pass."""
        return self._running and not self._paused and threading.get_ident() == self._thread

    def _note(self, noted: NotedCall, result: Any) -> None:
        tensors = list(tensors_in(result))
        nodes = {number for tensor in tensors if (number := node_number(tensor.grad_fn)) is not None}
        place = (_place(), noted.key())
        # Calls in a loop are different losses, unless a backward pass separates them: then the later one is a repeat.
        self._in_segment[place] += 1
        key = (*place, self._in_segment[place])
        if key not in self._noted:
            if len(self._noted) >= MAX_CALLS:
                self._too_many = True
                return
            noted.unknown = noted.kind != "metric" and (not tensors or lacks_numbers(tensors))
            self._noted[key] = noted
        self._noted[key].nodes |= nodes

    def _walk(self, loss: torch.Tensor) -> None:
        """Walk the graph of a loss once, from the loss inwards, in a fixed order."""
        root = loss.grad_fn
        root_number = node_number(root)
        if root is None or (root_number is not None and root_number in self._seen_graphs):
            return
        if root_number is not None:
            self._seen_graphs.add(root_number)
        self._backwards += 1
        self._in_segment.clear()
        wanted: dict[int, list[NotedCall]] = {}
        for noted in self._noted.values():
            if not noted.contributes:
                for number in noted.nodes:
                    wanted.setdefault(number, []).append(noted)
        operations, complete = walk_graph(root, wanted)
        if not complete:
            for noted in self._noted.values():
                noted.unknown |= not noted.contributes
        if operations not in self._graphs and len(self._graphs) < _MAX_GRAPHS:
            self._graphs.append(operations)

    @contextlib.contextmanager
    def _guard(self, fact: str) -> Iterator[None]:
        """Turn an error into a gap, so that training continues."""
        try:
            yield
        except Exception as error:
            self._gaps.at(fact).add_error(error)


class _Mode(TorchFunctionMode):
    """Sees every call of a PyTorch function without changing it."""

    def __init__(self, observer: LossObserver) -> None:
        super().__init__()
        self._observer = observer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        caller = sys._getframe(1)
        if id(func) in _BACKWARDS:
            return self._observer._backward(caller, func, args, kwargs)
        result = self._observer._places.call(caller, func, args, kwargs)
        if id(func) in _FUNCTIONS and self._observer._running:
            self._observer._called(func, args, kwargs, result)
        return result


_SENSITIVE = (torch.nn.MultiheadAttention, torch.nn.TransformerEncoderLayer, torch.nn.TransformerEncoder)
"""Modules that, in evaluation mode, take a faster path with different bits, unless a TorchFunctionMode is active."""


def is_compiled(module: LightningModule) -> bool:
    """Return True if torch.compile was applied to the module, a part of it, or any function in this process.

    A compiled function may be referenced from anywhere. Under a mode, its code would be split differently, and its
    results might differ in the last bits. Therefore no call is watched if anything may be compiled.

    Args:
        module: The LightningModule.
    """
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    # torch.compile registers its backends here when it is called. None stands for torch's own wrappers.
    if any(backend is not None for backend in getattr(compiler, "cached_backends", {}).values()):
        return True
    if getattr(module, "_compiler_ctx", None) is not None:
        return True
    if any(getattr(child, "_compiled_call_impl", None) is not None for child in module.modules()):
        return True
    if any(type(child).__name__ == "OptimizedModule" for child in module.modules()):
        return True
    rooms: list[Mapping[str, Any]] = [vars(module)]
    for base in type(module).__mro__:
        if base.__module__.partition(".")[0] not in (*_LIBRARIES, "builtins"):
            rooms.append(vars(base))
            if base.__module__ in sys.modules:
                rooms.append(vars(sys.modules[base.__module__]))
    return any(_is_compiled_function(value) for room in rooms for value in list(room.values()))


def _is_compiled_function(value: object) -> bool:
    # Not `hasattr`: a lazy module or a mock may have any attribute.
    return inspect.isroutine(value) and _COMPILED in getattr(value, "__dict__", {})


def _leave(mode: TorchFunctionMode) -> bool:
    """Remove a mode from the stack of modes. The order of the others stays the same.

    Returns:
        True if it was in the stack.
    """
    if not any(other is mode for other in overrides._get_current_function_mode_stack()):  # type: ignore[no-untyped-call]
        return False
    above = []
    while (top := overrides._pop_mode()) is not mode:  # type: ignore[no-untyped-call]
        above.append(top)
    for other in reversed(above):
        overrides._push_mode(other)  # type: ignore[no-untyped-call]
    return True


def _place() -> int:
    """Return a number that identifies the place in the user's code where a loss is computed."""
    frame: FrameType | None = sys._getframe(1)
    places: list[int] = []
    while frame is not None and len(places) < 2 * _MAX_FRAMES:
        # Frames of libraries are ignored, because an optimizer calls its closure from several places.
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _LIBRARIES:
            places += (id(frame.f_code), frame.f_lasti)
        frame = frame.f_back
    return hash(tuple(places))
