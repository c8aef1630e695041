"""What objects held when a fit began, as digests that are the same in every process."""

from typing import Any

from lightning_dtool.resuming.plain_state.comparison import digest
from lightning_dtool.resuming.plain_state.encoding import Encoder
from lightning_dtool.resuming.plain_state.images import from_image, image_entries
from lightning_dtool.resuming.plain_state.kinds import MISSING, NotPlainError
from lightning_dtool.resuming.plain_state.nodes import Node
from lightning_dtool.resuming.plain_state.walk import Reached
from lightning_dtool.values.definitions import class_path


def beginning_of(reached: Reached, node: Node, name: Any) -> str:
    """Return a digest of what an object held when its image was taken.

    Args:
        reached: The objects of the run.
        node: The object.
        name: One of its attributes; None for what it holds without names.
    """
    if node.derived:
        return "missing"
    if name is not None:
        return _digest(reached, from_image(node.image.get(name, MISSING)))
    if node.kind == "contents":
        entries = image_entries(node)
        return str(node.image[0]) if entries is None else _digest(reached, tuple(entries))
    image = node.image[1:] if node.kind == "tensor" else node.image
    return _digest(reached, repr(image))


def _digest(reached: Reached, value: Any) -> str:
    encoder = Encoder(reached.path_of)
    try:
        return digest(encoder.value(value), encoder.table)
    except NotPlainError:
        return f"a {class_path(type(value))}"
