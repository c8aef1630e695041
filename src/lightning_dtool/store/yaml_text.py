"""YAML that a stranger may have written, read within limits."""

from typing import Any

import yaml

from lightning_dtool import limits
from lightning_dtool.errors import UnsafeDatasetError

# With libyaml it takes a tenth of the time.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def yaml_mapping(uri: str, text: str) -> dict[Any, Any] | None:
    """Return the mapping that a text in YAML holds; None if it holds something else, or is not YAML.

    Args:
        uri: The dataset, for errors.
        text: The text, of README.yml.

    Raises:
        UnsafeDatasetError: If it stands for too much, or is nested too deeply.
    """
    try:
        _refuse_bomb(uri, text)
        found = yaml.load(text, Loader=_Loader)  # noqa: S506 - both are safe loaders
    except UnsafeDatasetError:
        raise
    except Exception:  # PyYAML raises its own and others, such as a ValueError for a date that does not exist
        return None
    return found if isinstance(found, dict) else None


def _refuse_bomb(uri: str, text: str) -> None:
    """Count the values while they are parsed. A few aliases of aliases stand for billions of them."""
    sizes: dict[str, int] = {}  # of what each anchor names
    inside: list[tuple[str, int]] = [("", 0)]  # the containers that are open: their anchors and sizes
    for event in yaml.parse(text, Loader=_Loader):
        size, anchor = 1, getattr(event, "anchor", None) or ""
        if isinstance(event, yaml.CollectionStartEvent):
            inside.append((anchor, 1))
            if len(inside) > limits.MAX_YAML_DEPTH + 1:
                raise _unsafe(uri, f"containers that are nested at most {limits.MAX_YAML_DEPTH} deep", "deeper ones")
            continue
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == name for name, _ in inside):
                raise yaml.YAMLError("a value contains itself")
            size = sizes.get(anchor, 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = inside.pop()
        elif not isinstance(event, yaml.ScalarEvent):
            continue
        if anchor and not isinstance(event, yaml.AliasEvent):
            sizes[anchor] = size
        outer, total = inside.pop()
        inside.append((outer, total + size))
        if total + size > limits.MAX_YAML_NODES:
            raise _unsafe(uri, f"at most {limits.MAX_YAML_NODES} values, counting what aliases stand for", "more")


def _unsafe(uri: str, expected: str, found: str) -> UnsafeDatasetError:
    return UnsafeDatasetError(
        f"expected {expected} in README.yml, found {found}. Do not use this dataset; ask its author.", uri=uri
    )
