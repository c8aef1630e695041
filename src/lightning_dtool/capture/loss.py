"""An observer of the loss that training minimises.

The observer watches only the first training batch. It sees the operations of PyTorch and the functions in which they
are executed (through a TorchFunctionMode), the calls of modules (through `torch.nn.Module.__call__`, so that no module
is changed), and the graph of each loss on which `backward` is called. The graph shows which of the calls are part of
the loss, whatever their names, and which operations a loss without such calls consists of.

Watching must change neither bits nor random numbers. Calls are therefore not watched in two cases: if anything may be
compiled, because it would compile again under a mode, and inside PyTorch's transformer layers, which use another kernel
under a mode.
"""

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torchmetrics import Metric

from lightning_dtool.capture.compiled import is_compiled
from lightning_dtool.capture.function_calls import LOSS_FUNCTIONS, FunctionCalls
from lightning_dtool.capture.loss_code import (
    Calls,
    code_of,
    constants_read,
    functions_held,
    functions_running,
    place_of,
    source_of_training_step,
    takes_pair,
)
from lightning_dtool.capture.loss_graph import (
    MAX_CALLS,
    NotedCall,
    lacks_numbers,
    node_number,
    tensors_in,
)
from lightning_dtool.capture.loss_settings import (
    bound_arguments,
    describe_loss_modules,
    encode_arguments,
    is_loss,
    loss_settings,
    plain_attributes,
)
from lightning_dtool.capture.noted_calls import MAX_NOTED, NotedCalls
from lightning_dtool.capture.places import ModuleCalls, Places
from lightning_dtool.random_states import random_states_kept
from lightning_dtool.record import Gaps, Loss, LossCall
from lightning_dtool.values.definitions import class_path


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
        self._places = Places()
        self._mode = FunctionCalls(self._places.call, self._backward, self._called)
        self._module_calls = ModuleCalls(self._enter_module, self._leave_module)
        self._thread = 0
        self._names: dict[int, str] = {}
        self._methods: set[CodeType] = set()
        self._trained: set[int] = set()
        self._constants: dict[str, Any] = {}
        self._functions = Calls({})
        self._inside: list[_Open] = []
        self._asleep: list[tuple[int, bool]] = []
        self._paused = False
        self._noted = NotedCalls()
        self._gaps = Gaps()
        self._compiled = False
        self._running = False

    # -- start and stop ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to watch. Do nothing if already watching, or if anything may be compiled (see `is_compiled`)."""
        if self._running or self._module is None:
            return
        with self._guard("loss.constants"):
            self._constants = constants_read(self._module, self._gaps)
        with self._guard("loss.calls"):
            self._compiled = is_compiled(self._module)
            if self._compiled:
                return
            self._names = {id(child): name for name, child in self._module.named_modules() if name}
            self._methods = code_of(self._module)
            self._trained = _trained_parameters(self._module)
            self._functions = Calls(functions_held(self._module))
            self._thread = threading.get_ident()
            self._running = True
            if not self._module_calls.start():
                reason = "other code has replaced torch.nn.Module.__call__, so calls of loss modules are not seen"
                self._gaps.at("loss.calls").add(reason, "see loss.training_step")
            self._mode.enter()

    def before_backward(self, loss: torch.Tensor) -> None:
        """Walk the graph of a loss before its backward pass. No reference to the graph is kept.

        Args:
            loss: The loss.
        """
        if self._running or self._compiled:
            with self._guard("loss.operations"):
                if self._noted.is_new(loss):
                    self._functions.forget()
                    self._noted.walk(loss, [call for opened in self._inside for call in opened.inner])

    def stop(self) -> None:
        """Stop watching and drop all references to parts of the model. May be called several times."""
        self._running = False
        self._module_calls.stop()
        self._mode.leave()
        self._places.clear()
        self._module = None
        self._names = {}
        self._functions.forget()
        self._inside = []
        self._asleep = []

    # -- the result ---------------------------------------------------------------------------------------

    def loss(self, module: LightningModule, gaps: Gaps) -> Loss:
        """Return the observed loss.

        A call is recorded if its result is part of a loss on which `backward` was called, or if this is not known. A
        module or function whose class or name does not show that it computes a loss is recorded if its result is a term
        of the loss (see `mark_terms`). If a call is repeated after a backward pass, from the same place in the code and
        with the same arguments, it is recorded once: LBFGS evaluates its closure many times. Losses that are computed
        inside a user's loss are recorded in its arguments, under `computes`. If anything may be compiled, the loss
        modules are recorded instead of calls.

        Args:
            module: The LightningModule.
            gaps: Receives a gap for everything that could not be observed.
        """
        gaps.include(self._gaps)
        calls: list[LossCall] = []
        found = self._noted.recorded()
        for noted in found[:MAX_CALLS]:
            gaps.at(f"loss.calls[{len(calls)}]").include(noted.gaps)
            calls.append(noted.as_record())
        if self._compiled:
            calls = describe_loss_modules(module, gaps)
        self._add_gaps(gaps, len(found) > MAX_CALLS)
        return Loss(
            calls=calls,
            operations=self._noted.operations(),
            training_step=source_of_training_step(module, gaps),
            constants=self._constants,
        )

    def _add_gaps(self, gaps: Gaps, too_many: bool) -> None:
        if self._compiled:
            reason = "code in this process uses torch.compile, and observing functions would make it compile again"
            gaps.at("loss.calls").add(reason, "see loss.training_step, or record one run without torch.compile")
        elif not self._noted.backwards:
            reason = "no backward pass was seen in the first training batch"
            remedy = "return the loss from training_step, or call self.manual_backward(loss)"
            gaps.at("loss.operations").add(reason, remedy)
        if too_many or self._noted.too_many:
            reason = f"only the first {MAX_CALLS} losses of the first training batch are recorded"
            gaps.at("loss.calls").add(reason)

    # -- observation -------------------------------------------------------------------------------------

    def _called(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """Look at a call of a function of PyTorch."""
        if not self._sees():
            return
        if id(func) in LOSS_FUNCTIONS:
            self._loss_called(func, args, kwargs, result)
        # Inside a module, only a single number may be a loss.
        elif (
            isinstance(result, torch.Tensor) and result.grad_fn is not None and (result.dim() == 0 or not self._inside)
        ):
            self._executed(result)

    def _loss_called(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """Note a call of a loss function of PyTorch."""
        with self._guard("loss.calls"):
            gaps = Gaps()
            arguments = encode_arguments(bound_arguments(func, args, kwargs), gaps)
            noted = NotedCall(LOSS_FUNCTIONS[id(func)], "function", None, arguments, gaps, place_of(sys._getframe()))
            self._attach(noted, result)

    def _executed(self, result: torch.Tensor) -> None:
        """Note the function in which an operation is executed."""
        with self._guard("loss.calls"):
            function = self._function()
            number = node_number(result.grad_fn)
            if function is not None and number is not None and (result.dim() == 0 or takes_pair(function)):
                function.nodes.add(number)

    def _function(self) -> NotedCall | None:
        """Return the call of the function that is being executed. None if it is a method of the LightningModule."""
        running = functions_running(self._methods)
        function, new = self._functions.note(running) if running else (None, None)
        if new is not None:
            self._put(new)
        return function

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
                self._asleep.append((id(module), self._mode.leave()))
                return
            noted = None
            if is_loss(module) or isinstance(module, Metric):
                kind = "metric" if isinstance(module, Metric) else "module"
                noted = self._described(module, kind, complete=True)
            self._inside.append(_Open(id(module), noted))

    def _leave_module(self, module: torch.nn.Module, arguments: Any, result: Any) -> None:
        if not self._sees():
            return
        with self._guard("loss.calls"):
            if self._asleep and self._asleep[-1][0] == id(module):
                _, left = self._asleep.pop()
                if left:
                    self._mode.enter()
            elif any(each.number == id(module) for each in self._inside):
                # Also remove the modules inside it that an exception left on the stack.
                while (left_module := self._inside.pop()).number != id(module):
                    pass
                noted = left_module.noted or self._possible_loss(module, arguments, result)
                if noted is not None:
                    noted.inner = left_module.inner
                    self._attach(noted, result)
                else:
                    for inner in left_module.inner:
                        self._put(inner)

    def _possible_loss(self, module: torch.nn.Module, arguments: Any, result: Any) -> NotedCall | None:
        """Return a note for a module whose class is not named like a loss, but whose result may be one."""
        results = [tensor for tensor in tensors_in(result) if tensor.grad_fn is not None]
        if not results or isinstance(module, LightningModule):
            return None
        only_numbers = all(tensor.dim() == 0 for tensor in results)
        some_number = any(tensor.dim() == 0 for tensor in results)
        inputs = list(tensors_in(arguments))
        predictions = any(tensor.grad_fn is not None for tensor in inputs)
        pair = predictions and len(inputs) > 1
        trained = [name for name, parameter in module.named_parameters() if id(parameter) in self._trained]
        if not some_number and (trained or not pair):
            return None
        # A loss may have parameters of its own, such as the centres of the classes. A network has them in its children.
        criterion = only_numbers or not any("." in name for name in trained)
        covers = not trained or (predictions and only_numbers) or (pair and criterion)
        noted = self._described(module, "module", complete=covers)
        noted.known, noted.covers, noted.always = False, covers, only_numbers or pair
        return noted

    def _described(self, module: torch.nn.Module, kind: str, complete: bool) -> NotedCall:
        """Describe a module, in front of or behind its call."""
        gaps = Gaps()
        with random_states_kept():  # a setting may be an object of the user's
            settings = loss_settings(module, gaps) if complete else plain_attributes(module)
        attribute = self._names.get(id(module))
        return NotedCall(class_path(type(module)), kind, attribute, settings, gaps, place_of(sys._getframe()))

    def _sees(self) -> bool:
        """Return False in another thread, and when activation checkpointing runs a module again in a backward pass."""
        return self._running and not self._paused and threading.get_ident() == self._thread

    def _attach(self, noted: NotedCall, result: Any) -> None:
        """Keep a call and the nodes of its result."""
        tensors = list(tensors_in(result))
        graphs = [tensor for tensor in tensors if tensor.grad_fn is not None]
        if not noted.known and any(tensor.dim() == 0 for tensor in graphs):
            graphs = [tensor for tensor in graphs if tensor.dim() == 0]
        noted.nodes = {number for tensor in graphs if (number := node_number(tensor.grad_fn)) is not None}
        noted.unknown = noted.known and noted.kind != "metric" and (not tensors or lacks_numbers(tensors))
        function = self._function()
        if function is None:
            self._put(noted)
        elif len(function.inner) < MAX_NOTED:
            function.inner.append(noted)

    def _put(self, noted: NotedCall) -> None:
        """Keep a call in the module that is being executed, or else in the training step."""
        if self._inside:
            self._inside[-1].inner.append(noted)
            return
        self._noted.put(noted)

    @contextlib.contextmanager
    def _guard(self, fact: str) -> Iterator[None]:
        """Turn an error into a gap, so that training continues."""
        try:
            yield
        except Exception as error:
            self._gaps.at(fact).add_error(error)


@dataclass
class _Open:
    """A module that is being executed: its id, its note if it is known to be a loss, and the calls inside it."""

    number: int
    noted: NotedCall | None
    inner: list[NotedCall] = field(default_factory=list)


def _trained_parameters(module: LightningModule) -> set[int]:
    """Return the ids of the parameters that the optimizers train, or that could be trained if there is no Trainer."""
    trainer = getattr(module, "_trainer", None)
    optimizers = trainer.optimizers if trainer is not None else []
    grouped = {id(parameter) for each in optimizers for group in each.param_groups for parameter in group["params"]}
    return grouped or {id(parameter) for parameter in module.parameters() if parameter.requires_grad}


_SENSITIVE = (torch.nn.MultiheadAttention, torch.nn.TransformerEncoderLayer, torch.nn.TransformerEncoder)
"""Modules that, in evaluation mode, take a faster path with different bits, unless a TorchFunctionMode is active."""
