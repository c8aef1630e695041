"""The autograd graph of a loss: its operations, and the calls whose results are part of it."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_dtool.record import Gaps

MAX_CALLS = 100
"""Maximum number of different calls of losses that are recorded."""

MAX_OPERATIONS = 200
"""Maximum number of operations of one loss that are recorded."""

_MAX_NODES = 200_000
"""Maximum number of nodes of a graph that are visited."""


@dataclass
class NotedCall:
    """A call of a loss, and the numbers of the graph's nodes that created its results."""

    name: str
    kind: str
    attribute: str | None
    arguments: dict[str, Any]
    gaps: Gaps
    nodes: set[int] = field(default_factory=set)
    computes: list[dict[str, Any]] = field(default_factory=list)
    contributes: bool = False
    unknown: bool = False
    """True if it is not known whether the result is part of a loss."""

    def key(self) -> str:
        """Return a text that is the same for equal calls."""
        return json.dumps([self.name, self.kind, self.attribute, self.arguments], sort_keys=True)

    def settings(self) -> dict[str, Any]:
        """Return the arguments, and the losses that were computed inside the call."""
        return {**self.arguments, "computes": self.computes} if self.computes else self.arguments

    def add(self, inner: "NotedCall") -> None:
        """Note a loss that was computed inside this call, unless this call is of one of PyTorch's loss modules."""
        if self.name.startswith("torch.nn.modules.loss:") or len(self.computes) >= MAX_CALLS:
            return
        computed = {"name": inner.name, "kind": inner.kind, "arguments": inner.settings()}
        if computed not in self.computes:
            self.computes.append(computed)


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


def tensors_in(value: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    """Yield the tensors in the result of a call."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple) and depth < 3:
        for item in list(value.values() if isinstance(value, Mapping) else value)[:100]:
            yield from tensors_in(item, depth + 1)


def node_number(node: Any) -> int | None:
    """Return the number of a node. A reference to the node would keep the whole graph in memory."""
    number = getattr(node, "_sequence_nr", None)
    return int(number()) if number is not None else None


def lacks_numbers(tensors: list[torch.Tensor]) -> bool:
    """Return True if the node of any of the tensors has no number, so that it cannot be followed."""
    return any(tensor.grad_fn is not None and node_number(tensor.grad_fn) is None for tensor in tensors)
