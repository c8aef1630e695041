"""The loss of a run: observed in a batch, and followed when its settings change."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning.pytorch import LightningModule

from lightning_dtool.capture.loss import LossObserver
from lightning_dtool.capture.loss_code import constants_read, source_of_training_step, training_step_of
from lightning_dtool.capture.loss_graph import walk_graph
from lightning_dtool.capture.loss_settings import loss_settings
from lightning_dtool.capture.tokens import Token, TokenWalk
from lightning_dtool.random_states import random_states_kept
from lightning_dtool.record import Gaps, Loss, LossCall
from lightning_dtool.values.definitions import class_path

_Settings = tuple[str, Mapping[str, Any]] | None
"""The class and the settings of a loss module. None if the LightningModule does not hold it."""


@dataclass(frozen=True, slots=True)
class _Observed:
    """A loss as it was observed, with what a look compares.

    Attributes:
        loss: The loss. None before the first batch.
        gaps: What is not known of it.
        settings: The settings of its modules.
        step: The training step that computed it.
        token: What changes whenever a setting does.
    """

    loss: Loss | None = None
    gaps: Gaps = field(default_factory=Gaps)
    settings: list[_Settings] = field(default_factory=list)
    step: Any = None
    token: Token = None


class LossWatch:
    """Observes the loss in the first batch, and again if its settings have changed when an epoch begins.

    If the first batch of an epoch has a new graph of the loss, because the training step computes another loss from
    then on, the next batch is observed if it has the same graph, and otherwise the first batch of the next epoch. If
    the first batch of an epoch has the graph of a batch that was observed before, the loss is the one of that batch.

    Args:
        module: The LightningModule, not wrapped by a strategy.
    """

    def __init__(self, module: LightningModule) -> None:
        self._module = module
        self._observer: LossObserver | None = LossObserver(module)
        self._present = _Observed()
        self._has_changed = False
        self._graphs: set[int] = set()
        self._observed: dict[frozenset[int], _Observed] = {}
        self._present_graphs: frozenset[int] = frozenset()
        self._awaited_graphs: frozenset[int] | None = None
        self._graph_is_watched = False

    @property
    def loss(self) -> Loss | None:
        """The loss as it is now. None before the first batch."""
        return self._present.loss

    @property
    def gaps(self) -> Gaps:
        """What is not known of the loss."""
        return self._present.gaps

    # -- in a batch -----------------------------------------------------------------------------------

    def batch_start(self) -> None:
        """Begin to observe, if this batch is to be observed."""
        if self._observer is not None:
            self._observer.start()

    def before_backward(self, loss: torch.Tensor) -> None:
        """Observe the graph of a loss, if this batch is observed or begins an epoch."""
        if self._observer is not None:
            self._observer.before_backward(loss)
        if self._observer is not None or self._graph_is_watched:
            self.gaps.at("loss.operations").observe(lambda: self._graphs.add(_graph_of(loss)), None)

    def batch_end(self) -> bool:
        """Return True if this gives another `loss`: the batch was observed, or an epoch begins as one before did."""
        graphs, self._graphs = frozenset(self._graphs), set()
        watched, self._graph_is_watched = self._graph_is_watched, False
        if self._observer is None:
            if not watched or not graphs or graphs == self._present_graphs:
                return False
            if graphs in self._observed:
                # The next look finds what has changed since.
                self._present_graphs, self._present = graphs, self._observed[graphs]
                return True
            self._observer, self._awaited_graphs = LossObserver(self._module), graphs
            reason = "the first batch of an epoch has computed the loss in another way than the batch observed before"
            self.gaps.at("loss.calls").add(reason, "see `changes`, and the record of a later step")
            return False
        awaited, self._awaited_graphs = self._awaited_graphs, None
        if awaited is not None and awaited != graphs:  # batches differ: wait for the first batch of the next epoch
            self._observer.stop()
            self._observer, self._has_changed = None, True
            return False
        with random_states_kept():
            self._present = self._finish(self._observer, only_graph=awaited is not None)
        if self.loss is not None:
            self._present_graphs = graphs
            self._observed[graphs] = self._present
        return True

    def stop(self) -> None:
        """Stop observing. Called when an exception ends a batch or a hook skips the rest of an epoch."""
        if self._observer is not None:
            self._observer.stop()
            self._graphs = set()
            self._observer = LossObserver(self._module)  # for the next batch, if there is one

    def _finish(self, observer: LossObserver, only_graph: bool) -> _Observed:
        observer.stop()
        self._observer = None
        gaps = Gaps()
        before = self.loss
        loss = gaps.at("loss").observe(lambda: observer.loss(self._module, gaps), before)
        if loss is None:
            return _Observed(gaps=gaps)
        if only_graph and before is not None and before.calls == loss.calls != []:
            # The network has changed, such as a recurrent one with sequences of another length.
            loss = loss.model_copy(update={"operations": before.operations})
        settings: list[_Settings] = []
        settings = gaps.at("loss").observe(lambda: self._present_settings(loss, Gaps()), settings)
        token = gaps.at("loss").observe(lambda: self._token_of(loss), None)
        return _Observed(loss, gaps, settings, training_step_of(self._module), token)

    # -- between batches ------------------------------------------------------------------------------

    def look(self, before_batch: bool) -> bool:
        """Return True if the settings of the loss have changed since the last look, which gives a new `loss`.

        Args:
            before_batch: Whether a batch follows. It will be observed if the settings have changed since a batch was.
        """
        before = self.loss
        if before is None or self._observer is not None:
            return False
        self._graph_is_watched |= before_batch
        token = self._token_of(before)
        if token != self._present.token:
            self._present = replace(self._present, token=token)
            self._present = self._updated(before, self._present)
            self._has_changed |= self.loss != before
        if before_batch and self._has_changed:
            self._observer, self._has_changed = LossObserver(self._module), False
        return self.loss is not before and self.loss != before

    def _token_of(self, loss: Loss) -> Token:
        walk = TokenWalk()
        return (
            id(training_step_of(self._module)),  # the one before is kept, so that its id is not used again
            [_module_token(walk, _held(self._module, call)) for call in loss.calls],
            [walk.token(value) for value in self._constants(loss)],
        )

    def _constants(self, loss: Loss) -> list[Any]:
        """Return the present values of the constants that the training step reads."""
        found = []
        for name in loss.constants:
            module, _, variable = name.rpartition(".")
            if module == "self":
                found.append(vars(self._module).get(variable, self._module._buffers.get(variable)))
            else:
                home = sys.modules.get(module or type(self._module).__module__)
                found.append(getattr(home, "__dict__", {}).get(variable))
        return found

    def _present_settings(self, loss: Loss, gaps: Gaps) -> list[_Settings]:
        found: list[_Settings] = []
        for index, call in enumerate(loss.calls):
            held = _held(self._module, call)
            settings = None
            if held is not None:
                settings = (class_path(type(held)), loss_settings(held, gaps.at(f"loss.calls[{index}]")))
            found.append(settings)
        return found

    def _updated(self, loss: Loss, observed: _Observed) -> _Observed:
        """Return a loss with the present settings of its modules, and the present constants."""
        gaps = Gaps()
        now = self._present_settings(loss, gaps)
        calls = []
        for index, (call, before, after) in enumerate(zip(loss.calls, observed.settings, now, strict=True)):
            calls.append(_with_settings(call, before, after, gaps.at(f"loss.calls[{index}]")))
        constants = gaps.at("loss.constants").observe(lambda: constants_read(self._module, gaps), loss.constants)
        updates: dict[str, Any] = {"calls": calls, "constants": constants}
        step = training_step_of(self._module)
        if step is not observed.step:
            updates["training_step"] = source_of_training_step(self._module, gaps)
            reason = "training_step was replaced after they were observed"
            for place in (gaps.at("loss.calls"), gaps.at("loss.operations")):
                place.add(reason, "see `changes`, and the record of the next epoch")
        observed.gaps.include(gaps)
        return replace(observed, loss=loss.model_copy(update=updates), settings=now, step=step)


def _graph_of(loss: torch.Tensor) -> int:
    """Return a number that is the same for graphs of the same operations."""
    return hash(tuple(walk_graph(loss.grad_fn, {})[0])) if loss.grad_fn is not None else 0


def _module_token(walk: TokenWalk, module: torch.nn.Module | None) -> Token:
    if module is None:
        return None
    # Validation changes the mode of every module.
    return (type(module), [(name, walk.token(value)) for name, value in vars(module).items() if name != "training"])


def _held(module: LightningModule, call: LossCall) -> torch.nn.Module | None:
    """Return the loss module that an attribute holds now."""
    if call.kind != "module" or not call.attribute:
        return None
    try:
        return module.get_submodule(call.attribute)
    except AttributeError:
        return None


def _with_settings(call: LossCall, before: _Settings, after: _Settings, gaps: Gaps) -> LossCall:
    if before == after or before is None:
        return call
    if after is None:
        gaps.add(
            "the LightningModule does not hold this loss any more", "see `changes`, and the record of a later step"
        )
        return call
    if before[0] != after[0]:
        return call.model_copy(update={"name": after[0], "arguments": dict(after[1])})
    arguments = {name: value for name, value in call.arguments.items() if name in after[1] or name not in before[1]}
    changed = {name: value for name, value in after[1].items() if before[1].get(name) != value}
    return call.model_copy(update={"arguments": {**arguments, **changed}})
