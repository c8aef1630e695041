"""Saved values, put back into the objects of a resumed run that began like the run that saved."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lightning_dtool.resuming.plain_state.beginnings import beginning_of
from lightning_dtool.resuming.plain_state.comparison import equal
from lightning_dtool.resuming.plain_state.decoding import Decoder, fill
from lightning_dtool.resuming.plain_state.encoding import Encoded, Encoder
from lightning_dtool.resuming.plain_state.images import from_image
from lightning_dtool.resuming.plain_state.kinds import MISSING, NotPlainError
from lightning_dtool.resuming.plain_state.nodes import Node, attributes, set_attribute
from lightning_dtool.resuming.plain_state.roots import root_of
from lightning_dtool.resuming.plain_state.walk import Reached
from lightning_dtool.values.definitions import class_path


class Restorer:
    """Puts back the changes of one checkpoint.

    Args:
        reached: The objects of the resumed run.
        table: The table of the encoder that saved.
        device: The device of the run.
    """

    def __init__(self, reached: Reached, table: list[dict[str, Any]], device: torch.device) -> None:
        self._reached = reached
        self._decoder = Decoder(table, self._object_at, reached.classes.get, device)

    def put_back(self, change: Mapping[str, Any]) -> str | None:
        """Put one value back. Return None, or why this is not possible, as the end of a sentence about the value.

        Args:
            change: One of the changes that `Remembered.save` returned.
        """
        try:
            return self._put_back(change, str(change["path"]), change["name"])
        except Exception as error:  # a value of another version, or an object that takes no such value
            return f"could not be set ({type(error).__name__}: {error})"

    def _put_back(self, change: Mapping[str, Any], path: str, name: Any) -> str | None:
        node, encoded = self._reached.by_path.get(path), change["value"]
        held = node.object if node is not None else None
        if node is None or held is None:
            elsewhere = path.startswith(("class ", "module ", "callbacks["))
            return None if elsewhere and root_of(path) not in self._reached.by_path else "is not in this run"
        if class_path(type(held)) != change["class"]:
            return f"is a {class_path(type(held))} now, and was a {change['class']}"
        if name is not None:
            now = attributes(node).get(name, MISSING)
            if change["at_start"] and isinstance(now, str):
                return None  # such as the folder of this run
            if self._is_as_saved(now, encoded):
                return None
        elif self._holds_what_was_saved(node, encoded):
            return None
        if beginning_of(self._reached, node, name) != change["begin"] and not self._began_as_saved(node, name, encoded):
            return "did not begin with the value with which the run began that saved the checkpoint"
        if name is not None:
            set_attribute(node, name, self._decoder.value(encoded))
        elif node.kind == "flag":
            held.requires_grad_(bool(encoded))
        else:
            fill(held, self._decoder.filling(encoded))
            if node.kind == "tensor" and held.is_leaf and held.requires_grad != encoded["requires_grad"]:
                held.requires_grad_(encoded["requires_grad"])
        return None

    def _object_at(self, path: str) -> Any:
        held = self._reached.by_path[path].object
        if held is None:
            raise KeyError(path)
        return held

    def _began_as_saved(self, node: Node, name: Any, encoded: Encoded) -> bool:
        """Return whether Lightning restored the value, and a hook has changed it since."""
        if name is None or node.derived:
            return False
        return self._is_as_saved(from_image(node.image.get(name, MISSING)), encoded)

    def _is_as_saved(self, now: Any, encoded: Encoded) -> bool:
        by_value = isinstance(encoded, dict) and encoded.get("kind") == "new"
        encoder = Encoder(lambda value: None if by_value and value is now else self._reached.path_of(value))
        return self._encodes_as(encoder, lambda: encoder.value(now), encoded)

    def _holds_what_was_saved(self, node: Node, encoded: Encoded) -> bool:
        held = node.object
        if node.kind == "flag":
            return bool(held.requires_grad == encoded)
        encoder = Encoder(self._reached.path_of)
        return self._encodes_as(encoder, lambda: encoder.attempt_filling(held), encoded)

    def _encodes_as(self, encoder: Encoder, encode: Callable[[], Encoded], saved: Encoded) -> bool:
        try:
            return equal(encode(), encoder.table, saved, self._decoder.table)
        except NotPlainError:
            return False
