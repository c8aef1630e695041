"""The calls of a batch that may be losses, and the graphs that show which of them are."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from lightning_dtool.capture.loss_graph import NotedCall, mark_terms, node_number, walk_graph

MAX_NOTED = 1000
"""Maximum number of different calls that may be losses, before their places in the graph are known."""

_MAX_GRAPHS = 8
"""Maximum number of different losses of one batch whose operations are recorded."""


class NotedCalls:
    """The calls of one batch outside modules that are being executed."""

    def __init__(self) -> None:
        self.backwards = 0
        """Number of different losses on which `backward` was called."""
        self.too_many = False
        """Whether calls were left out."""
        self._noted: dict[tuple[Any, ...], NotedCall] = {}
        self._in_segment: Counter[Any] = Counter()
        self._seen_graphs: set[int] = set()
        self._graphs: list[list[str]] = []

    def put(self, noted: NotedCall) -> None:
        """Keep a call.

        Args:
            noted: The call.
        """
        # Calls in a loop are different losses, unless a backward pass separates them: then the later one is a repeat.
        equal = noted.key()
        self._in_segment[equal] += 1
        key = (equal, self._in_segment[equal])
        if key in self._noted:
            for earlier, repeat in zip(self._noted[key].everything(), noted.everything(), strict=False):
                earlier.nodes |= repeat.nodes
        elif len(self._noted) < MAX_NOTED:
            self._noted[key] = noted
        else:
            self.too_many = True

    def is_new(self, loss: torch.Tensor) -> bool:
        """Return whether a loss has a graph that was not walked before.

        Args:
            loss: A loss on which `backward` is called.
        """
        return loss.grad_fn is not None and node_number(loss.grad_fn) not in self._seen_graphs

    def walk(self, loss: torch.Tensor, inside: Iterable[NotedCall]) -> None:
        """Walk the graph of a loss, from the loss inwards and in a fixed order, and mark the calls that are part of it.

        Args:
            loss: A loss whose graph is new.
            inside: The calls inside modules that are being executed.
        """
        root = loss.grad_fn
        root_number = node_number(root)
        if root_number is not None:
            self._seen_graphs.add(root_number)
        self.backwards += 1
        self._in_segment.clear()
        noted = [call for each in (*self._noted.values(), *inside) for call in each.everything()]
        waiting = [call for call in noted if not call.contributes]
        mark_terms(root, _by_node(call for call in waiting if not call.known))
        known = [call for call in waiting if call.known]
        operations, complete = walk_graph(root, _by_node(known))
        if not complete:
            for call in known:
                call.unknown |= not call.contributes
        if operations not in self._graphs and len(self._graphs) < _MAX_GRAPHS:
            self._graphs.append(operations)

    def recorded(self) -> list[NotedCall]:
        """Return the calls that are losses, as far as is known."""
        return [call for noted in self._noted.values() for call in noted.recorded(self.backwards > 0)]

    def operations(self) -> list[str]:
        """Return the operations of each loss. Those of further losses begin with its number."""
        return [
            operation if number == 1 else f"loss {number}: {operation}"
            for number, graph in enumerate(self._graphs, 1)
            for operation in graph
        ]


def _by_node(calls: Iterable[NotedCall]) -> dict[int, list[NotedCall]]:
    found: dict[int, list[NotedCall]] = {}
    for call in calls:
        for number in call.nodes:
            found.setdefault(number, []).append(call)
    return found
