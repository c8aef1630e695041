"""The differences between two records, and between the code and the packages of their datasets.

These are pure functions. A stranger may have written either record, so the depth and the length of comparisons are
limited.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_dtool._public import public
from lightning_dtool.record import Environment, Provenance
from lightning_dtool.results.differences.difference import Difference
from lightning_dtool.results.differences.packages import canonical_version, requirement_differences
from lightning_dtool.results.differences.patches import source_differences
from lightning_dtool.results.differences.unknown import unknown_differences
from lightning_dtool.results.differences.walk import walk
from lightning_dtool.results.differences.weights import is_redundant, weighed


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

    Returns:
        What differs, and what is not known to be the same: facts that determine a result and for which both records
        have a gap, and data whose content neither identifies. Two checkpoints of one run share these.

    Example:
        ```python
        first = DtoolCheckpoint.from_uri("models/leafnet")
        second = DtoolCheckpoint.from_uri("models/leafnet-two-epochs")
        for difference in record_differences(first.record, second.record):
            print(difference.path, difference.before, "->", difference.after)
        ```
    """
    before, after = a.model_dump(mode="json"), b.model_dump(mode="json")
    found = list(walk("", before, after))
    moved = {
        (difference.before["uri"], difference.after["uri"])
        for difference in found
        if difference.weight == "same content"
    }
    found = [difference for difference in found if not is_redundant(difference, found, before, after)]
    seeded = all(each.global_seed is not None or each.repeatable_by == "seed" for each in (a.randomness, b.randomness))
    known = [weighed(difference, moved, seeded) for difference in found]
    sections = list(Provenance.model_fields)
    return sorted([*known, *unknown_differences(a, b, known)], key=lambda each: sections.index(each.section))


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
    found = [weighed(difference, set(), False) for difference in walk("environment", before, after)]
    if requirements_a is not None and requirements_b is not None:
        found = _with_packages(found, requirements_a, requirements_b)
    return found


def flag_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Return the differences in flags that affect numerical results, such as precision and the number of threads.

    Args:
        a: The first flags, as in `randomness.flags` of a record.
        b: The second flags.
    """
    return list(walk("randomness.flags", dict(a), dict(b)))


def _with_packages(found: list[Difference], a: str, b: str) -> list[Difference]:
    """Replace the differences in library versions by those in packages, after the rest of the environment."""
    packages = requirement_differences(a, b)
    replaced = {difference.path.replace("packages", "versions", 1) for difference in packages}
    kept = [difference for difference in found if canonical_version(difference.path) not in replaced]
    return _after_section(kept, "environment", packages)


def _after_section(found: list[Difference], section: str, more: list[Difference]) -> list[Difference]:
    """Insert differences after those of a section."""
    sections = list(Provenance.model_fields)
    place = sections.index(section)
    first = next((at for at, difference in enumerate(found) if sections.index(difference.section) > place), len(found))
    return [*found[:first], *more, *found[first:]]
