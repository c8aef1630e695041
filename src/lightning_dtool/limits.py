"""The limits of what is read from a dataset that a stranger may have written.

What is larger is refused before it is read. The limits are far above what this package writes.
"""

from typing import Any

MIB = 2**20

MAX_ADMIN_METADATA = 1 * MIB
"""The largest size of the administrative metadata, `.dtool/dtool`, and of other small files of dtool, in bytes."""

MAX_README = 4 * MIB
"""The largest size of `README.yml`, in bytes."""

MAX_ANNOTATION = 16 * MIB
"""The largest size of an annotation, in bytes."""

MAX_OVERLAY = 1024 * MIB
"""The largest size of an overlay, in bytes. With a SHA-256 for each, ten million items take this much."""

MAX_MANIFEST = 1024 * MIB
"""The largest size of a manifest, in bytes. Some four million items take this much."""

MAX_NAMES = 10_000
"""The largest number of annotations, of overlays, and of tags of a dataset."""

MAX_JSON_DEPTH = 150
"""The largest depth of nested containers in JSON."""

MAX_YAML_NODES = 100_000
"""The largest number of values in YAML. What an alias stands for counts each time."""

MAX_YAML_DEPTH = 50
"""The largest depth of nested containers in YAML."""

MAX_RECORD = 256 * MIB
"""The largest size of `provenance.json`, in bytes."""

MAX_RANDOM_STATES = 256 * MIB
"""The largest size of `random_states.json`, in bytes."""

MAX_REQUIREMENTS = 16 * MIB
"""The largest size of `requirements.txt`, in bytes."""

MAX_SOURCE_BYTES = 64 * MIB
"""The largest total size of the files in `source.zip`, uncompressed, and of the archive.

It also holds when it is written, so every archive that this package writes can be read.
"""

MAX_SOURCE_FILES = 20_000
"""The largest number of files in `source.zip`, also when it is written."""

MAX_ARRAYS_BYTES = 256 * MIB
"""The total size of the arrays in a `.npz` file that is allowed in any case, uncompressed, in bytes."""

MAX_ARRAYS_RATIO = 100
"""The largest ratio of the total size of the arrays in a larger `.npz` file to the size of the file."""


def is_deeper(content: Any, depth: int) -> bool:
    """Tell whether parsed JSON has more levels of nested containers than allowed.

    Args:
        content: What the parser returned.
        depth: The number of levels that are allowed.

    Example:
        >>> is_deeper({"a": [1]}, 2), is_deeper({"a": [1]}, 1)
        (False, True)
    """
    level = [content]
    for _ in range(depth):
        if _CONTAINERS.isdisjoint(map(type, level)):  # much faster than a loop, for an overlay of a million items
            return False
        containers = [entry for entry in level if type(entry) in _CONTAINERS]
        level = [inner for entry in containers for inner in (entry.values() if isinstance(entry, dict) else entry)]
    return not _CONTAINERS.isdisjoint(map(type, level))


_CONTAINERS = frozenset({dict, list})
