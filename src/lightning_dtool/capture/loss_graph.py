"""The autograd graph of a loss: its operations, and the calls whose results are part of it."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_dtool.record import Gaps

MAX_CALLS = 100
"""Different calls of losses that a record keeps."""

MAX_OPERATIONS = 200
"""Operations of one loss that a record keeps."""

_MAX_NODES = 200_000
"""Nodes of a graph that are looked at for what is part of the loss."""


@dataclass
class NotedCall:
    """One loss that was computed: the call, and which nodes of the graph are its results."""

    name: str
    kind: str
    attribute: str | None
    arguments: dict[str, Any]
    gaps: Gaps
    nodes: set[int] = field(default_factory=set)
    computes: list[dict[str, Any]] = field(default_factory=list)
    contributes: bool = False
    unknown: bool = False
    """True if its result holds no tensor that could be followed."""

    def key(self) -> str:
        """Return a text that equal calls share."""
        return json.dumps([self.name, self.kind, self.attribute, self.arguments], sort_keys=True)

    def settings(self) -> dict[str, Any]:
        """Return the arguments, and what was computed inside."""
        return {**self.arguments, "computes": self.computes} if self.computes else self.arguments

    def add(self, inner: "NotedCall") -> None:
        """Note what is computed inside. Not for PyTorch's own loss modules, whose name says it."""
        if self.name.startswith("torch.nn.modules.loss:") or len(self.computes) >= MAX_CALLS:
            return
        computed = {"name": inner.name, "kind": inner.kind, "arguments": inner.settings()}
        if computed not in self.computes:
            self.computes.append(computed)


def walk_graph(root: Any, wanted: dict[int, list[NotedCall]]) -> tuple[list[str], bool]:
    """Walk a graph breadth first.

    Args:
        root: Its last operation.
        wanted: Calls by the numbers of the nodes that are their results; those that are found are marked.

    Returns:
        The names of the operations, and False if the walk ended before everything wanted could be found.
    """
    operations: list[str] = []
    # Nodes are numbered in order: a node that is older than all wanted ones cannot lead to them.
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
    """Yield the tensors in what a call gave back."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple) and depth < 3:
        for item in list(value.values() if isinstance(value, Mapping) else value)[:100]:
            yield from tensors_in(item, depth + 1)


def node_number(node: Any) -> int | None:
    """Return a node's number, which it keeps. The node itself must not be kept: it keeps the whole graph alive."""
    number = getattr(node, "_sequence_nr", None)
    return int(number()) if number is not None else None


def lacks_numbers(tensors: list[torch.Tensor]) -> bool:
    """Return True if a tensor's node of the graph has no number, so that it cannot be followed."""
    return any(tensor.grad_fn is not None and node_number(tensor.grad_fn) is None for tensor in tensors)
