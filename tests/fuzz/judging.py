"""What is wrong with the end of an operation."""

import re
from dataclasses import dataclass

from fuzz import watching
from fuzz.forging import Case
from fuzz.mutations import SECRET
from fuzz.operations import Ended, Operation, Places, is_json
from lightning_dtool.errors import LightningDtoolError
from lightning_dtool.store import normalize_uri

FOREIGN = "foreign"
UNNAMED = "unnamed"
WRONG = "wrong"
CONTROL = "control"
TOLD = "told"
MEMORY = "memory"
HANGING = "hanging"
CRASHED = "crashed"
FINDINGS = (
    FOREIGN,
    UNNAMED,
    WRONG,
    CONTROL,
    TOLD,
    MEMORY,
    HANGING,
    CRASHED,
    watching.OUTSIDE,
    watching.PROGRAM,
    watching.NETWORK,
    watching.RAN,
)
"""The endings that must not be. The page of the table defines them."""

RIGHT, TYPED = "right", "typed"

MORE_MEMORY = 512 * 2**20
"""Bytes that no operation may take, on files that are smaller by far."""

SECONDS = 20.0
"""Processor time that no operation may take."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Finding:
    """An ending that must not be.

    Attributes:
        kind: One of `FINDINGS`.
        text: What was seen.
    """

    kind: str
    text: str


def judge(case: Case, changed: bool, operation: Operation, places: Places, ended: Ended) -> list[Finding]:
    """Return what is wrong with the end of an operation.

    Args:
        case: The mutation.
        changed: Whether it changed anything.
        operation: The operation.
        places: Where it found the dataset.
        ended: How it ended.
    """
    found = []
    if ended.error is not None and not isinstance(ended.error, LightningDtoolError):
        found.append(Finding(FOREIGN, f"{type(ended.error).__name__}: {str(ended.error)[:200]}"))
    elif not ended.is_right:
        found += _named(operation, places, ended)
    if _raised_for_memory(ended.error):
        found.append(Finding(MEMORY, "MemoryError"))
    for text in ended.shown:
        if control := _CONTROL.search(text):
            found.append(Finding(CONTROL, repr(text[max(0, control.start() - 60) : control.end() + 20])))
            break
    if any(SECRET in text for text in (*ended.shown, ended.told)):
        found.append(Finding(TOLD, "the content of a file outside of the dataset"))
    if ended.as_json and ended.shown[0] and not is_json(ended.shown[0]):
        found.append(Finding(WRONG, f"no JSON: {ended.shown[0][:80]!r}"))
    if ended.is_right and changed and not case.sealed and _must_refuse(case, operation):
        found.append(Finding(WRONG, f"{case.relpath} is not as it was hashed, and was used"))
    return found


def _named(operation: Operation, places: Places, ended: Ended) -> list[Finding]:
    said = ended.shown[0] + ended.shown[1] if ended.code is not None else str(ended.error)
    if "Usage: " in said:
        return [Finding(FOREIGN, said[-200:])]
    if ended.code == 1 and operation.name.split()[1] in ("compare", "diff"):
        return [Finding(WRONG, f"exit code 1 for an error: {said[-200:]}")]
    addresses = (places.base, str(places.originals), str(places.scratch), normalize_uri(places.uri))
    return [] if any(address in said for address in addresses) else [Finding(UNNAMED, said[-300:])]


def _must_refuse(case: Case, operation: Operation) -> bool:
    if not case.relpath.startswith("data/"):
        return False
    return operation.verifies is None or case.relpath.removeprefix("data/") in operation.verifies


def _raised_for_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False
