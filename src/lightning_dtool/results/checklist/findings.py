"""The findings of the checklist, and the functions that make and group them."""

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lightning_dtool.record import Gap

_MAX_NAMED = 5
"""The largest number of gaps, datasets or files that a finding names. The others are only counted."""

RECORD_AGAIN = "train again with DtoolProvenanceCallback of this version"
"""The remedy for facts that the callback records, if they are missing."""

PACK = "pack the data with `lightning-dtool pack` and train with DtoolDataModule"
"""The remedy for data that is not a dtool dataset."""


ALLOW = "allow it with --online, or name its base URI in the environment variable LIGHTNING_DTOOL_STORES"
"""The remedy for data that is not opened, because only the record names its URI."""


class Status(str, enum.Enum):
    """The status of one point of the checklist."""

    PASS = "pass"  # noqa: S105 - no password
    PARTLY = "partly"
    FAIL = "fail"
    NOT_APPLICABLE = "not applicable"
    NOT_CHECKED = "not checked"
    NOT_IN_RECORD = "not in a record"


@dataclass(frozen=True)
class Finding:
    """What was found for one point of the checklist.

    Attributes:
        key: A stable name for scripts: `guidelines.persistent_uris`.
        group: The title of the group of points that it belongs to.
        title: The requirement.
        status: Whether the record meets the requirement.
        found: What was found.
        remedy: How to fix it; empty if there is nothing to fix.
    """

    key: str
    group: str
    title: str
    status: Status
    found: str
    remedy: str = ""


Result = tuple[Status, str, str]
"""The status, what was found, and the remedy."""


def failed(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that `check --strict` does not accept: those that failed or could not be checked.

    It accepts those that are only partly met.
    """
    return [finding for finding in findings if finding.status in (Status.FAIL, Status.NOT_CHECKED)]


def by_group(findings: Iterable[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    """Yield each group with its findings, in order."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.group, []).append(finding)
    yield from groups.items()


def passes(found: str) -> Result:
    """Return the result of a requirement that is met."""
    return Status.PASS, found, ""


def partly(found: str, remedy: str) -> Result:
    """Return the result of a requirement that is met within limits, which `found` names."""
    return Status.PARTLY, found, remedy


def fails(found: str, remedy: str) -> Result:
    """Return the result of a requirement that is not met."""
    return Status.FAIL, found, remedy


def not_applicable(found: str) -> Result:
    """Return the result of a requirement that does not apply to the run."""
    return Status.NOT_APPLICABLE, found, ""


def not_checked(found: str, remedy: str) -> Result:
    """Return the result of a requirement that could not be checked."""
    return Status.NOT_CHECKED, found, remedy


def unknown(gaps: Sequence[Gap], otherwise: str) -> Result:
    """Return a failure with the reasons and remedies of gaps. `otherwise` is the remedy if the gaps have none."""
    reasons = named(f"{gap.fact}: {gap.reason}" for gap in gaps)
    remedies = dict.fromkeys(gap.remedy for gap in gaps if gap.remedy)
    return fails(f"not recorded: {reasons}", named(remedies) or otherwise)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `2 epochs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def named(names: Iterable[str]) -> str:
    """Return the first names, and the number of the others: `a, b, c, d, e and 3 more`."""
    every = list(names)
    more = len(every) - _MAX_NAMED
    return ", ".join(every[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
