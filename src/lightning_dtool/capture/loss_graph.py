"""The autograd graph of a loss: its operations, and the calls whose results are part of it."""

import dataclasses
import json
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_dtool.record import Gaps, LossCall

MAX_CALLS = 100
"""Maximum number of different calls of losses that are recorded."""

MAX_OPERATIONS = 200
"""Maximum number of operations of one loss that are recorded."""

_MAX_NODES = 200_000
"""Maximum number of nodes of a graph that are visited."""

_REDUCTION = re.compile(
    r"(Add|Cat|Clone|Div|Expand|Index|MaskedFill|MaskedSelect|Mean|Mul|NanToNum|Nansum|Neg|Permute|ReshapeAlias|Select|Slice|"
    r"Sort|Split|Squeeze|Stack|Sum|ToCopy|Topk|Transpose|T|Unbind|UnsafeView|Unsqueeze|View|Where)Backward\d*"
)
"""Operations between a loss for each sample and the loss that is minimised: weighting, selection and reduction."""


@dataclass
class NotedCall:
    """A call of what is or may be a loss, and the numbers of the graph's nodes that created its results.

    Attributes:
        name: The `module:qualified.name` of the function or class.
        kind: `function`, `module` or `metric`.
        attribute: The attribute of the LightningModule that holds it.
        arguments: Its settings.
        gaps: The gaps of its settings.
        place: A number that identifies the place in the code.
        source: Its source code, if it is the user's.
        constants: Values outside its source that its code reads.
        known: Whether its class or function is that of a loss. If not, its place in the graph decides.
        covers: Whether it is given predictions, so that the losses that it computes are parts of it. If not, it may be
            a network that also computes a loss.
        always: Whether it is recorded beside the losses that it computes, unless it covers them.
        nodes: The numbers of the nodes.
        inner: The calls inside this call.
        contributes: Whether a result is part of a loss on which `backward` was called.
        unknown: Whether this is not known.
    """

    name: str
    kind: str
    attribute: str | None
    arguments: dict[str, Any]
    gaps: Gaps
    place: int = 0
    source: str | None = None
    constants: dict[str, Any] = field(default_factory=dict)
    known: bool = True
    covers: bool = True
    always: bool = False
    nodes: set[int] = field(default_factory=set)
    inner: list["NotedCall"] = field(default_factory=list)
    contributes: bool = False
    unknown: bool = False

    def key(self) -> tuple[int, str]:
        """Return what is the same for equal calls from one place."""
        settings = [self.name, self.kind, self.attribute, self.arguments, self.constants]
        return self.place, json.dumps(settings, sort_keys=True)

    def everything(self) -> Iterator["NotedCall"]:
        """Yield this call and all calls inside it."""
        yield self
        for inner in self.inner:
            yield from inner.everything()

    def recorded(self, backward_seen: bool) -> Iterator["NotedCall"]:
        """Yield this call, the calls inside it, or both, depending on which of them are losses.

        Args:
            backward_seen: Whether a backward pass was seen. If not, it is not known which calls are part of the loss,
                so all known losses but metrics are yielded.
        """
        if self.known:
            if self.contributes or self.unknown or (not backward_seen and self.kind != "metric"):
                yield self
        elif self.contributes and self.covers:
            yield self
        else:
            inner = [call for each in self.inner for call in each.recorded(backward_seen)]
            yield from inner
            if self.contributes and (self.always or not inner):
                yield self

    def as_record(self) -> LossCall:
        """Return the record of this call."""
        return LossCall(
            name=self.name,
            kind=self.kind,
            attribute=self.attribute,
            arguments=self._settings(),
            source=self.source,
            constants=self.constants,
        )

    def _settings(self) -> dict[str, Any]:
        """Return the arguments, and the losses that were computed inside the call."""
        computes: list[dict[str, Any]] = []
        # The settings of PyTorch's own loss modules are complete.
        for inner in self._parts() if not self.name.startswith("torch.nn.modules.loss:") else ():
            computed = {"name": inner.name, "kind": inner.kind, "arguments": inner._settings()}
            if inner.constants:
                computed["constants"] = inner.constants
            if computed not in computes and len(computes) < MAX_CALLS:
                computes.append(computed)
        return {**self.arguments, "computes": computes} if self.covers and computes else self.arguments

    def _parts(self) -> Iterator["NotedCall"]:
        for inner in self.inner:
            if inner.known or (inner.contributes and inner.covers):
                yield inner
            else:
                yield from inner._parts()


def walk_graph(root: Any, wanted: dict[int, list[NotedCall]]) -> tuple[list[str], bool]:
    """Walk a graph breadth first.

    Args:
        root: The last operation of the graph.
        wanted: Calls by the numbers of the nodes that created their results. Calls that are found are marked and
            removed.

    Returns:
        The names of the operations, and whether the walk was complete enough to find everything wanted.
    """
    operations: list[str] = []
    # Nodes are numbered in the order of creation. A node older than all wanted nodes cannot lead to them.
    oldest = min(wanted, default=sys.maxsize)
    queue, seen, position = [root], {root}, 0
    while position < len(queue):
        node = queue[position]
        position += 1
        number = node_number(node)
        for noted in wanted.pop(number, ()) if number is not None else ():
            noted.contributes = True
        name = type(node).__name__
        if name != "AccumulateGrad":  # a weight
            if len(operations) < MAX_OPERATIONS:
                operations.append(name if name != "CppFunction" else node.name())
            elif operations[-1] != "…":
                operations.append("…")
        if len(operations) > MAX_OPERATIONS and not wanted:
            return operations, True
        if position >= _MAX_NODES:
            return operations, False
        for following, _ in node.next_functions:
            if following is None or following in seen:
                continue
            if len(operations) <= MAX_OPERATIONS or (node_number(following) or sys.maxsize) >= oldest:
                seen.add(following)
                queue.append(following)
    return operations, True


def mark_terms(root: Any, wanted: dict[int, list[NotedCall]]) -> None:
    """Mark the calls that computed terms of a loss.

    A term is a number that is part of the loss, or a tensor with a loss for each sample, which is only weighted and
    reduced on its way to the loss. The output of a network, to which a loss is applied, is no term.

    Args:
        root: The last operation of the loss.
        wanted: Calls by the numbers of the nodes that created their results.
    """
    queue, seen, position = [root], {root}, 0
    while position < min(len(queue), _MAX_NODES):
        node = queue[position]
        position += 1
        number = node_number(node)
        for noted in wanted.get(number, ()) if number is not None else ():
            noted.contributes = True
        reduces = _REDUCTION.fullmatch(type(node).__name__) is not None
        for following, _ in node.next_functions if reduces or _is_scalar(node) else ():
            # The input of another operation, such as `MseLossBackward0`, is what the loss is applied to.
            if following is not None and following not in seen and (reduces or _is_scalar(following)):
                seen.add(following)
                queue.append(following)


def _is_scalar(node: Any) -> bool:
    """Return whether an operation results in a single number."""
    results: Sequence[Any] = getattr(node, "_input_metadata", None) or ()
    return len(results) > 0 and all(len(result.shape) == 0 for result in results)


def tensors_in(value: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    """Yield the tensors in the arguments or the result of a call."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth >= 3:
        return
    elif isinstance(value, Mapping | list | tuple):
        for item in list(value.values() if isinstance(value, Mapping) else value)[:100]:
            yield from tensors_in(item, depth + 1)
    elif isinstance(value, types.SimpleNamespace) or dataclasses.is_dataclass(type(value)):
        yield from tensors_in(getattr(value, "__dict__", {}), depth)


def node_number(node: Any) -> int | None:
    """Return the number of a node. A reference to the node would keep the whole graph in memory."""
    number = getattr(node, "_sequence_nr", None)
    return int(number()) if number is not None else None


def lacks_numbers(tensors: list[torch.Tensor]) -> bool:
    """Return True if the node of any of the tensors has no number, so that it cannot be followed."""
    return any(tensor.grad_fn is not None and node_number(tensor.grad_fn) is None for tensor in tensors)
