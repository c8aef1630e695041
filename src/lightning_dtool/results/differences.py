"""The differences between two records, their code and their packages.

Elements of lists are matched by identity and not by position: callbacks by class, children and losses by name, data by
UUID and by content digest. Source text is compared line by line, packages by version. Differences that any two runs
have (times, UUIDs, durations) are marked as incidental.

These are pure functions. Strangers may have written both records, so the depth and the length of comparisons are
limited.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lightning_dtool._public import public
from lightning_dtool.record import Environment, Provenance
from lightning_dtool.record.requirements import read_requirements

Kind = Literal["changed", "added", "removed"]
Weight = Literal["matters", "same content", "incidental"]

MAX_DEPTH = 40
"""The number of nested levels that are compared one by one. Deeper values are compared as a whole."""

MAX_LINES = 5000
"""The number of lines up to which texts are compared line by line."""

_ABSENT: Any = object()


@public
@dataclass(frozen=True)
class Difference:
    """A difference between two records.

    Attributes:
        path: The place in the record: `optimizers[0].param_groups[0].options.lr`. Brackets contain a number, or the
            identity of an element: `trainer.callbacks[lightning.pytorch.callbacks.early_stopping:EarlyStopping]`.
        kind: `changed`, `added` (only the second has it) or `removed` (only the first has it).
        before: The value in the first record; None if it has none.
        after: The value in the second record; None if it has none.
        note: A remark.
        weight: `matters`; `same content` for data with the same digest under another URI or UUID; `incidental` for a
            difference that any two runs have.
        patch: For text of several lines, the change as a unified diff.
    """

    path: str
    kind: Kind
    before: Any = None
    after: Any = None
    note: str = ""
    weight: Weight = "matters"
    patch: str = ""

    @property
    def section(self) -> str:
        """The part of the record that it belongs to: `optimizers`."""
        return re.split(r"[.\[]", self.path, maxsplit=1)[0]


@dataclass(frozen=True)
class Content:
    """A record with the code and the packages of its dataset.

    Attributes:
        record: The record.
        sources: The files of source.zip by path; None if they are unknown.
        requirements: The content of requirements.txt; None if it is unknown.
    """

    record: Provenance
    sources: Mapping[str, bytes] | None = None
    requirements: str | None = None


def checkpoint_differences(a: Content, b: Content) -> list[Difference]:
    """Return the differences between two checkpoints: their records, code and packages.

    Args:
        a: The first checkpoint's content.
        b: The second checkpoint's content.

    Returns:
        The differences in the order of a record. If source.zip and requirements.txt are known, they replace the
        digests of files and the versions of libraries in the records.
    """
    found = record_differences(a.record, b.record)
    if a.requirements is not None and b.requirements is not None:
        found = _with_packages(found, a.requirements, b.requirements)
    if a.sources is not None and b.sources is not None:
        found = [difference for difference in found if not difference.path.startswith("code.files")]
        found = _after_section(found, "code", source_differences(a.sources, b.sources))
    return found


@public
def record_differences(a: Provenance, b: Provenance) -> list[Difference]:
    """Return the differences between two records, in the order of a record.

    Args:
        a: The first record.
        b: The second record.

    Example:
        ```python
        first = DtoolCheckpoint.from_uri("models/leafnet")
        second = DtoolCheckpoint.from_uri("models/leafnet-two-epochs")
        for difference in record_differences(first.record, second.record):
            print(difference.path, difference.before, "->", difference.after)
        ```
    """
    before, after = a.model_dump(mode="json"), b.model_dump(mode="json")
    found = list(_compare("", before, after, 0))
    moved = {
        (difference.before["uri"], difference.after["uri"])
        for difference in found
        if difference.weight == "same content"
    }
    found = [difference for difference in found if not _is_redundant(difference, found, before, after)]
    seeded = None not in (a.randomness.global_seed, b.randomness.global_seed)
    return [_weighed(difference, moved, seeded) for difference in found]


def environment_differences(
    a: Environment, b: Environment, requirements_a: str | None = None, requirements_b: str | None = None
) -> list[Difference]:
    """Return the differences between two environments.

    Args:
        a: The first environment.
        b: The second environment.
        requirements_a: The requirements.txt of the first; None if it is unknown.
        requirements_b: The requirements.txt of the second; None if it is unknown.

    Returns:
        The differences. If both requirements.txt are known, they replace the versions of libraries.
    """
    before, after = a.model_dump(mode="json"), b.model_dump(mode="json")
    found = [_weighed(difference, set(), False) for difference in _compare("environment", before, after, 0)]
    if requirements_a is not None and requirements_b is not None:
        found = _with_packages(found, requirements_a, requirements_b)
    return found


def flag_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Return the differences in flags that affect numerical results, such as precision and the number of threads.

    Args:
        a: The first flags, as in `randomness.flags` of a record.
        b: The second flags.
    """
    return list(_compare("randomness.flags", dict(a), dict(b), 0))


def requirement_differences(a: str, b: str) -> list[Difference]:
    """Return the packages that were added, removed or changed.

    Args:
        a: The content of the first requirements.txt.
        b: The content of the second.
    """
    return list(_compare("environment.packages", _packages(a), _packages(b), 0))


def source_differences(a: Mapping[str, bytes], b: Mapping[str, bytes]) -> list[Difference]:
    """Return the files that differ, each with its patch.

    Args:
        a: The first's files, by path.
        b: The second's.
    """
    found = []
    for path in sorted({*a, *b}):
        one, two = a.get(path), b.get(path)
        if one == two:
            continue
        kind: Kind = "added" if one is None else "removed" if two is None else "changed"
        found.append(_file_difference(path, kind, one or b"", two or b""))
    return found


# -- the walk through two records -----------------------------------------------------------------

Key = Callable[[Any], Any]


def _field(*names: str) -> Key:
    return lambda part: tuple(part.get(name) for name in names)


def _dataset(name: str) -> Key:
    return lambda source: (source.get("dataset") or {}).get(name)


_IDENTITIES: tuple[tuple[str, tuple[Key, ...], Key], ...] = (
    # The path of a list, what its parts are matched by, first choice first, and what they are called.
    (r"checkpoint\.monitors", (_field("name"),), _field("name")),
    (r"model\.children", (_field("name"),), _field("name")),
    (r"loss\.calls", (_field("name", "attribute"), _field("name")), _field("name")),
    (r"trainer\.(callbacks|loggers)", (_field("class_path", "state_key"), _field("class_path")), _field("class_path")),
    (r"metrics\.history", (_field("epoch"),), _field("epoch")),
    (r"metrics\.objects", (_field("attribute"),), _field("attribute")),
    (r"lineage\.source_datasets", (_field("uuid"), _field("content_digest")), _field("name")),
    (
        r"data\.stages\.\w+",
        (_dataset("uuid"), _dataset("content_digest"), _dataset("name"), _field("class_path", "root")),
        lambda source: ((source.get("dataset") or {}).get("name") or source.get("class_path"),),
    ),
    (r"gaps", (_field("fact"),), _field("fact")),
)

_INCIDENTAL = re.compile(
    r"run\.(uuid|started_at|creator_username|lightning_dtool_version|fit_index)"
    r"|checkpoint\.(filename|saved_at)"
    r"|metrics\.(seconds|steps_per_second|peak_memory_bytes|peak_accelerator_memory_bytes)"
    r"|metrics\.history\[.*\]\.seconds"
    r"|environment\.scheduler\b.*"
    # Where a run keeps its files, and who records it, change nothing in what it does.
    r"|trainer\.(settings|callbacks|loggers)\b.*\.(default_root_dir|dirpath|save_dir|root_dir|log_dir)"
    r"|trainer\.loggers\[.*\]\.settings\.version"
    r"|trainer\.callbacks\[lightning_dtool[.:].*"
    r"|environment\.variables\W+LIGHTNING_DTOOL_\w+\]?|model\.initial_weights\.stored"
    # That one is a rerun of another is no difference of what was done.
    r"|lineage\.(reproduces|replicates)\b.*"
)

_IS_REFERENCE = {"uri", "uuid", "name", "content_digest"}


def _compare(path: str, a: Any, b: Any, depth: int) -> Iterator[Difference]:
    """Yield the differences between two values. A missing value is `_ABSENT`."""
    if _same(a, b):
        return
    if a is _ABSENT or b is _ABSENT:
        yield _one_sided(path, a, b)
    elif depth >= MAX_DEPTH or type(a) is not type(b):
        yield Difference(path, "changed", a, b)
    elif isinstance(a, dict) and a.keys() == _IS_REFERENCE == b.keys():
        yield _references(path, a, b)
    elif isinstance(a, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            yield from _compare(_join(path, key), a.get(key, _ABSENT), b.get(key, _ABSENT), depth + 1)
    elif isinstance(a, list):
        yield from _lists(path, a, b, depth)
    elif isinstance(a, str) and max(a.count("\n"), b.count("\n")) > 1:
        yield Difference(path, "changed", a, b, patch=_patch(path, a, b))
    else:
        yield Difference(path, "changed", a, b)


def _same(a: Any, b: Any) -> bool:
    """Compare values with their types: 1, 1.0 and true are equal in Python, but Lightning distinguishes them."""
    if a is _ABSENT or b is _ABSENT:
        return a is b
    if isinstance(a, dict | list) or isinstance(b, dict | list):
        return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    return type(a) is type(b) and bool(a == b)


def _one_sided(path: str, a: Any, b: Any) -> Difference:
    kind: Kind = "added" if a is _ABSENT else "removed"
    return Difference(path, kind, None if a is _ABSENT else a, None if b is _ABSENT else b)


def _join(path: str, key: str) -> str:
    """Return the path of a dictionary's entry, as an attribute if the key is a name."""
    if re.fullmatch(r"\w+", key, re.ASCII):
        return f"{path}.{key}" if path else key
    return f"{path}[{key}]"


def _references(path: str, a: Mapping[str, str], b: Mapping[str, str]) -> Difference:
    """Return the difference of two dataset references, noting whether UUID and content are equal."""
    same_uuid, same_content = a["uuid"] == b["uuid"], a["content_digest"] == b["content_digest"]
    if same_content:
        note = "the same dataset at another URI" if same_uuid else "the same content under another UUID"
        return Difference(path, "changed", dict(a), dict(b), note, "same content")
    note = (
        "the same UUID, but other content: one of them was changed after it was frozen, or is damaged"
        if same_uuid
        else "another dataset"
    )
    return Difference(path, "changed", dict(a), dict(b), note)


def _lists(path: str, a: list[Any], b: list[Any], depth: int) -> Iterator[Difference]:
    for pattern, keys, name in _IDENTITIES:
        if re.fullmatch(pattern, path):
            yield from _matched(path, a, b, keys, name, depth)
            return
    if all(isinstance(part, str) for part in [*a, *b]) and len(set(a)) == len(a) and len(set(b)) == len(b):
        if sorted(a) == sorted(b):
            yield Difference(path, "changed", a, b, "the same in another order")
        elif path != "code.argv" and set(a) & set(b):
            # Elements that two long lists have in common would hide the few that differ.
            yield from (Difference(f"{path}[{part}]", "removed", before=part) for part in a if part not in set(b))
            yield from (Difference(f"{path}[{part}]", "added", after=part) for part in b if part not in set(a))
        else:
            yield Difference(path, "changed", a, b)
    elif any(isinstance(part, dict | list) for part in [*a, *b]):
        for index in range(max(len(a), len(b))):
            one = a[index] if index < len(a) else _ABSENT
            two = b[index] if index < len(b) else _ABSENT
            yield from _compare(f"{path}[{index}]", one, two, depth + 1)
    else:
        yield Difference(path, "changed", a, b)


def _matched(path: str, a: list[Any], b: list[Any], keys: Sequence[Key], name: Key, depth: int) -> Iterator[Difference]:
    """Compare the elements of two lists, matched by identity."""
    pairs = _pairs(a, b, keys)
    labels = _labels([a[one] if one is not None else b[two] for one, two in pairs], name)  # type: ignore[index]
    for (one, two), label in zip(pairs, labels, strict=True):
        yield from _compare(
            f"{path}[{label}]",
            a[one] if one is not None else _ABSENT,
            b[two] if two is not None else _ABSENT,
            depth + 1,
        )
    order = [two for one, two in pairs if one is not None and two is not None]
    if order != sorted(order):
        shared = [(label, two) for (one, two), label in zip(pairs, labels, strict=True) if None not in (one, two)]
        before = [label for label, _ in shared]
        after = [label for label, _ in sorted(shared, key=lambda pair: pair[1] or 0)]
        yield Difference(path, "changed", before, after, "the same in another order")


def _pairs(a: list[Any], b: list[Any], keys: Sequence[Key]) -> list[tuple[int | None, int | None]]:
    """Return pairs of indices of matching elements. Earlier keys take precedence."""
    partner: dict[int, int] = {}
    free = dict.fromkeys(range(len(b)))
    for key in keys:
        likes: dict[Any, list[int]] = {}
        for two in reversed(free):
            likes.setdefault(key(b[two]), []).append(two)
        for one in range(len(a)):
            value = key(a[one])
            if one not in partner and value is not None and likes.get(value):
                partner[one] = likes[value].pop()
                del free[partner[one]]
    return [*((one, partner.get(one)) for one in range(len(a))), *((None, two) for two in free)]


def _labels(parts: Sequence[Any], name: Key) -> list[str]:
    """Return a label for each element; elements of the same name are numbered."""
    names = ["/".join(map(str, name(part))) for part in parts]
    seen: dict[str, int] = {}
    labels = []
    for label in names:
        seen[label] = seen.get(label, 0) + 1
        labels.append(label if seen[label] == 1 else f"{label} #{seen[label]}")
    return labels


# -- what a difference weighs ---------------------------------------------------------------------


def _weighed(difference: Difference, moved: set[tuple[str, str]], seeded: bool) -> Difference:
    """Reduce the weight of differences that any two runs have, and of the URI of equal data."""
    # Until it is seeded, every process has its own random numbers.
    before_seeding = seeded and difference.path.startswith("randomness.states.import")
    if before_seeding or _INCIDENTAL.fullmatch(difference.path):
        return replace(difference, weight="incidental")
    if isinstance(difference.before, str) and (difference.before, difference.after) in moved:
        return replace(difference, weight="same content", note="the same data was read from another URI")
    return difference


def _is_redundant(
    difference: Difference, found: Sequence[Difference], a: Mapping[str, Any], b: Mapping[str, Any]
) -> bool:
    """Return True for the digest of a text that both records hold, and for a default that each group repeats."""
    if difference.path == "model.source_sha256":
        return bool(a["model"]["source"] and b["model"]["source"])
    default = re.fullmatch(r"(optimizers\[\d+\])\.defaults\b(.*)", difference.path, re.DOTALL)
    return default is not None and any(
        other.path.startswith(f"{default[1]}.param_groups[")
        and other.path.endswith(f"].options{default[2]}")
        and (other.before, other.after) == (difference.before, difference.after)
        for other in found
    )


def _canonical_version(path: str) -> str:
    """Return the path of a version with the canonical name of its package; any other path unchanged."""
    found = re.fullmatch(r"environment\.versions(?:\.|\[)(.+?)\]?", path)
    return _join("environment.versions", canonicalize_name(found[1])) if found else path


def _with_packages(found: list[Difference], a: str, b: str) -> list[Difference]:
    """Replace the differences in library versions by those in packages, after the rest of the environment."""
    packages = requirement_differences(a, b)
    replaced = {difference.path.replace("packages", "versions", 1) for difference in packages}
    kept = [difference for difference in found if _canonical_version(difference.path) not in replaced]
    return _after_section(kept, "environment", packages)


def _after_section(found: list[Difference], section: str, more: list[Difference]) -> list[Difference]:
    """Insert differences after those of a section, in the order of a record."""
    sections = list(Provenance.model_fields)
    place = sections.index(section)
    first = next((at for at, difference in enumerate(found) if sections.index(difference.section) > place), len(found))
    return [*found[:first], *more, *found[first:]]


# -- packages and sources -------------------------------------------------------------------------

_EGG = re.compile(r"#(?:.*&)?egg=([A-Za-z0-9][A-Za-z0-9._-]*)")


def _packages(requirements: str) -> dict[str, str]:
    """Return versions or URLs by canonical name. A line that names no package is its own key."""
    found: dict[str, str] = {}
    for line, requirement in read_requirements(requirements):
        egg = _EGG.search(line)
        if requirement is not None:
            found[canonicalize_name(requirement.name)] = _version(line, requirement)
        elif egg:
            found[canonicalize_name(egg[1])] = line
        else:
            found[line] = line
    return found


def _version(line: str, requirement: Requirement) -> str:
    if requirement.marker is not None:
        return line
    if requirement.url is not None:
        return f"@ {requirement.url}"
    pins = [part.version for part in requirement.specifier if part.operator in ("==", "===")]
    return pins[0] if len(pins) == len(requirement.specifier) == 1 else line


def _file_difference(path: str, kind: Kind, a: bytes, b: bytes) -> Difference:
    place = f"code.files[{path}]"
    texts = [_text(content) for content in (a, b)]
    if texts[0] is None or texts[1] is None:
        return Difference(place, kind, f"{len(a)} bytes", f"{len(b)} bytes", "not text")
    sizes = (None if kind == "added" else f"{len(a)} bytes", None if kind == "removed" else f"{len(b)} bytes")
    return Difference(place, kind, *sizes, patch=_patch(path, texts[0], texts[1]))


def _text(content: bytes) -> str | None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _patch(name: str, a: str, b: str) -> str:
    """Return the change of a text as a unified diff, or a remark if it is too long."""
    one, two = a.splitlines(), b.splitlines()
    if max(len(one), len(two)) > MAX_LINES:
        return f"{len(one)} lines -> {len(two)} lines: too long to compare"
    lines = difflib.unified_diff(one, two, f"a/{name}", f"b/{name}", lineterm="")
    return "\n".join(lines) or "only line endings differ"
