"""Any Python value as strict JSON, with nothing silently dropped.

Values that JSON can hold are written unchanged: null, booleans, integers of at most 8 bytes, finite floats, text that
UTF-8 can encode, lists, and dicts whose keys are such text. Every other value becomes an object that has its content
and the reserved key `type` with the path of its class: `{"type": "builtins:tuple", "value": [1, 2]}`. A dict that has a
key `type` itself, or keys that are not text, becomes `{"type": "builtins:dict", "items": [[key, value], …]}`.

`reading` reads these forms back. A value that cannot be read back adds a gap. Its object has one of the keys `repr`,
`length`, `missing` and `sha256`, which show what is known of the value, or it names something that cannot be imported.

The same value gives the same JSON in every process: it contains no memory addresses and does not depend on the order of
a hash table. The size of the JSON is bounded.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_dtool.record import MAX_INTEGER, Gaps, as_text
from lightning_dtool.values import builtin, numbers, objects
from lightning_dtool.values.definitions import MAX_REPR, class_path, short_repr
from lightning_dtool.values.registry import REGISTRY, Content

MAX_ITEMS = 10_000
"""Maximum number of entries of one container that are recorded."""

MAX_TEXT = 100_000
"""Maximum number of characters of one text that are recorded."""

MAX_SIZE = 300_000
"""Maximum number of characters and entries that one value may take in total."""

MAX_HASHED = 64 * 2**20
"""Maximum number of bytes of tensors and arrays that are hashed for one value."""

MAX_HASHED_ENTRIES = 10_000_000
"""Maximum number of entries of a list that are hashed."""

MAX_DEPTH = 40
"""Maximum depth of nested containers."""

_FIRST = 3
"""Number of entries recorded of a container that has more than `MAX_ITEMS`, as examples."""

for _module in (builtin, numbers, objects):
    _module.register(REGISTRY)


def encode(value: Any, gaps: Gaps | None = None) -> Any:
    """Return a value as strict JSON.

    Args:
        value: Any value.
        gaps: Collector at the value's place in the record. Receives a gap for every part that cannot be read back.

    Returns:
        A value that `json.dumps(..., allow_nan=False)` accepts, with integers of at most 8 bytes.

    Example:
        >>> encode([0.1, "sum", {"patience": float("inf")}])
        [0.1, 'sum', {'patience': {'type': 'builtins:float', 'value': 'inf'}}]
        >>> encode((0.9, 0.999))
        {'type': 'builtins:tuple', 'value': [0.9, 0.999]}
    """
    return Writer().encode(value, Gaps() if gaps is None else gaps)


def encode_all(values: Mapping[Any, Any], gaps: Gaps) -> dict[str, Any]:
    """Return named values as strict JSON. A name that is not text is replaced by its repr.

    Args:
        values: Values by name.
        gaps: Collector at the mapping's place in the record. Receives a gap for every part that cannot be read back.
    """
    writer = Writer()
    encoded: dict[str, Any] = {}
    for name, value in values.items():
        text = as_text(name) if isinstance(name, str) else short_repr(name)
        while text in encoded:  # 1 and "1" are two names
            text += "'"
        encoded[text] = writer.encode(value, gaps.at(text))
    return encoded


def encode_in_detail(value: Any, gaps: Gaps) -> Any:
    """Return a value as `encode` does, with everything else that determines its behaviour.

    - Code that does not come from an installed package: its source.
    - A function: its defaults, the variables that it closes over, and the constants of its module that it uses.
    - An object whose init parameters do not describe it completely: its attributes.
    - An `nn.Module`: its children, parameters and buffers.

    Args:
        value: Any value.
        gaps: Collector at the value's place in the record. Receives a gap for every part that is not described
            completely. A part that is described completely but cannot be read back adds no gap.

    Returns:
        Strict JSON.
    """
    return Writer(detailed=True).encode(value, gaps)


class Writer:
    """One walk through a value. It keeps track of the enclosing containers and of how much more it may write.

    Args:
        detailed: Whether to add everything that determines the behaviour of the value, as `encode_in_detail` does.
    """

    def __init__(self, *, detailed: bool = False) -> None:
        self.detailed = detailed
        self._left = MAX_SIZE
        self._bytes_left = MAX_HASHED
        self._inside: list[int] = []

    def encode(self, value: Any, gaps: Gaps) -> Any:
        """Return a value as strict JSON.

        Args:
            value: Any value.
            gaps: Collector at the value's place.
        """
        self._left -= 1
        return value if self._is_plain(value) else self._with_type(value, gaps)

    def _with_type(self, value: Any, gaps: Gaps) -> Any:
        if id(value) in self._inside:
            return self._cut_short(value, gaps, "it contains itself")
        if len(self._inside) >= MAX_DEPTH:
            return self._cut_short(value, gaps, f"it is nested more than {MAX_DEPTH} containers deep")
        self._inside.append(id(value))
        try:
            return self._encoded(value, gaps)
        except Exception as error:  # a user's class may raise anything
            gaps.add(f"reading it raised {type(error).__name__}", "pass plain values")
            return {"type": class_path(type(value)), "repr": short_repr(value)}
        finally:
            self._inside.pop()

    def _is_plain(self, value: Any) -> bool:
        if value is None or type(value) is bool:
            return True
        if type(value) is int:
            return abs(value) <= MAX_INTEGER
        if type(value) is float:
            return math.isfinite(value)
        if type(value) is str and len(value) <= self._text_limit() and is_utf8(value):
            self._left -= len(value)
            return True
        return False

    def _encoded(self, value: Any, gaps: Gaps) -> Any:
        cls = type(value)
        kind = REGISTRY.kind_of(value)
        if kind is None:
            return {"type": class_path(cls), **REGISTRY.family_of(cls).write(value, self, gaps)}
        content = kind.write(value, self, gaps)
        if cls is list and content.keys() == {"value"}:
            return content["value"]
        if cls is dict and content.keys() == {"items"} and "type" not in value and all(map(is_plain_key, value)):
            return dict(content["items"])
        return {"type": kind.name, **content}

    def is_inside(self, value: Any) -> bool:
        """Return whether a value is being written: it encloses the place that the walk has reached."""
        return id(value) in self._inside

    # -- for the registered types -----------------------------------------------------------------------------

    def add_unreadable(self, gaps: Gaps, reason: str, remedy: str = "") -> None:
        """Add a gap for a value that cannot be read back, unless it is described in detail.

        Args:
            gaps: Collector at the value's place.
            reason: Why the value cannot be read back.
            remedy: What the user can do to close the gap.
        """
        if not self.detailed:
            gaps.add(reason, remedy)

    def text(self, text: str, gaps: Gaps) -> Content:
        """Return the content of a text: the text itself, or its beginning, length and hash."""
        limit = self._text_limit()
        if len(text) > limit:
            gaps.add(
                f"only the first {MAX_REPR} of its {len(text)} characters are recorded", "keep long texts in a file"
            )
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
            self._left -= MAX_REPR
            return {"value": as_text(text[:MAX_REPR]), "length": len(text), "sha256": digest}
        self._left -= len(text)
        # Characters that UTF-8 cannot encode are written as JSON escapes.
        return {"value": text} if is_utf8(text) else {"escaped": json.dumps(text)}

    def entries(self, values: Any, gaps: Gaps) -> Content:
        """Return the content of a list or a tuple: its entries, or its first entries and its length.

        Args:
            values: A collection with a length and a fixed order.
            gaps: Collector at its place.
        """
        length = len(values)
        kept: list[Any] = []
        for index, entry in enumerate(itertools.islice(values, length if length <= MAX_ITEMS else _FIRST)):
            if self._left <= 0:
                break
            # Like `encode`, but a plain entry needs no place for gaps. This makes a list of numbers four times as fast.
            self._left -= 1
            kept.append(entry if self._is_plain(entry) else self._with_type(entry, gaps.at(f"[{index}]")))
        if len(kept) == length:
            return {"value": kept}
        self._add_cut(gaps, length, len(kept))
        digest = _digest_of_scalars(values)
        return {"value": kept, "length": length, **({"sha256": digest} if digest else {})}

    def pairs(self, values: Mapping[Any, Any], gaps: Gaps) -> Content:
        """Return the content of a mapping: its pairs of key and value, or the first pairs and its length."""
        length = len(values)
        kept: list[Any] = []
        for index, (key, value) in enumerate(
            itertools.islice(values.items(), length if length <= MAX_ITEMS else _FIRST)
        ):
            if self._left <= 0:
                break
            plain = is_plain_key(key)
            place = gaps.at(key if plain else f"[{index}]")
            kept.append([self.encode(key, place), self.encode(value, place)])
        if len(kept) == length:
            return {"items": kept}
        self._add_cut(gaps, length, len(kept))
        return {"items": kept, "length": length}

    def unordered(self, values: Iterable[Any], gaps: Gaps) -> Content:
        """Return the content of a set, sorted by the JSON of its entries, as the order of a set varies."""
        entries = list(values)
        if len(entries) > MAX_ITEMS or self._left <= 0:
            self._add_cut(gaps, len(entries), 0)
            return {"value": [], "length": len(entries)}
        found = Gaps()
        kept = []
        # The JSON of an entry must not depend on the entries before it, so each gets an equal share of the budget.
        left, spent = self._left, 0
        share = max(left // max(len(entries), 1), MAX_REPR)
        for entry in entries:
            self._left = share
            kept.append(self.encode(entry, found.at("[…]")))
            spent += share - self._left
        self._left = left - spent
        gaps.include(sorted(found, key=lambda gap: (gap.fact, gap.reason)))
        return {"value": sorted(kept, key=json.dumps)}

    def may_hash(self, size: int) -> bool:
        """Return whether the budget for hashing allows `size` more bytes, and take them from it."""
        self._bytes_left -= size
        return self._bytes_left >= 0

    def _text_limit(self) -> int:
        return min(MAX_TEXT, max(self._left, MAX_REPR))

    def _add_cut(self, gaps: Gaps, length: int, kept: int) -> None:
        gaps.add(
            f"only the first {kept} of its {length} entries are recorded", "keep long lists in a file or a dataset"
        )

    def _cut_short(self, value: Any, gaps: Gaps, reason: str) -> Content:
        gaps.add(reason, "use flatter values")
        return {"type": class_path(type(value)), "repr": "…"}


def is_plain_key(key: object) -> bool:
    """Return whether a key of a dict can be a key of a JSON object unchanged."""
    return type(key) is str and len(key) <= MAX_REPR and is_utf8(key)


def is_utf8(text: str) -> bool:
    """Return whether UTF-8 can encode a text."""
    return as_text(text) == text


def _digest_of_scalars(values: Any) -> str | None:
    """Return the SHA-256 of the repr of a list or tuple of plain values; None if it is too long or has other values."""
    if not isinstance(values, list | tuple) or len(values) > MAX_HASHED_ENTRIES:
        return None
    if not all(type(entry) in (bool, int, float, str) for entry in values):
        return None
    return hashlib.sha256(repr(list(values)).encode("utf-8", "surrogatepass")).hexdigest()
