"""The list of what changed after training began: the differences between two observations of a part of the record."""

import difflib
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel

from lightning_dtool.record import Change, Gaps

MAX_CHANGES = 1000
"""Maximum number of changes that are listed."""

MAX_OF_A_FACT = 50
"""Maximum number of changes of the same fact that are listed."""

MAX_LENGTH = 2000
"""Maximum length of a value in a change, in characters of JSON."""

_FIRST = 3
"""Number of entries that are shown of a longer list."""

_ABSENT: Any = object()

_STAGE = re.compile(r"data\.stages\.\w+")


class ChangeList:
    """What changed during a run, in order.

    A fact that changes again and again is listed `MAX_OF_A_FACT` times. A gap says where the list is incomplete.
    """

    def __init__(self) -> None:
        self._changes: list[Change] = []
        self._numbers: Counter[str] = Counter()
        self._gaps = Gaps()

    def add(
        self,
        part: str,
        before: Any,
        after: Any,
        *,
        epoch: int,
        global_step: int,
        is_expected: Callable[[str], bool] = lambda fact: False,
    ) -> None:
        """List the differences between two observations of a part of the record.

        Args:
            part: Name of the part, such as `optimizers`.
            before: The part as it was observed before.
            after: The part as it is observed now.
            epoch: The Trainer's current epoch.
            global_step: The number of optimizer steps.
            is_expected: Returns True for a fact that changes in every run and is not listed.
        """
        for fact, old, new in _differences(part, _plain(before), _plain(after)):
            first_loaded = old is None and _STAGE.fullmatch(fact)  # the Trainer loads the data of a stage when needed
            if not first_loaded and not is_expected(fact):
                self._append(fact, old, new, epoch, global_step)

    def _append(self, fact: str, before: Any, after: Any, epoch: int, global_step: int) -> None:
        self._numbers[fact] += 1
        if self._numbers[fact] > MAX_OF_A_FACT:
            reason = f"only its first {MAX_OF_A_FACT} changes are listed; it has changed more often"
            self._gaps.at("changes").at(fact).add(reason, "see this fact itself for its value at the checkpoint")
        elif len(self._changes) >= MAX_CHANGES:
            reason = f"only the first {MAX_CHANGES} changes are listed"
            self._gaps.at("changes").add(reason, "see the other parts of the record for the values at the checkpoint")
        else:
            values = {"before": _cut_short(before), "after": _cut_short(after)}
            self._changes.append(Change(epoch=epoch, global_step=global_step, fact=fact, **values))

    def all(self) -> list[Change]:
        """Return the changes so far."""
        return list(self._changes)

    @property
    def gaps(self) -> Gaps:
        """The gaps of the list."""
        return self._gaps


def _plain(part: Any) -> Any:
    if isinstance(part, BaseModel):
        return part.model_dump(mode="json")
    return [_plain(entry) for entry in part] if isinstance(part, list) else part


def _differences(fact: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the paths of the smallest parts that differ, with the values before and after."""
    if type(before) is type(after) and before == after and not isinstance(before, dict | list):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from _differences(f"{fact}.{key}", before.get(key, _ABSENT), after.get(key, _ABSENT))
    elif isinstance(before, list) and isinstance(after, list) and _holds_containers(before + after):
        for old, new in _pairs(before, after):
            index = old if old is not None else new
            yield from _differences(
                f"{fact}[{index}]",
                before[old] if old is not None else _ABSENT,
                after[new] if new is not None else _ABSENT,
            )
    elif json.dumps(_none_if_absent(before)) != json.dumps(_none_if_absent(after)):
        yield fact, _none_if_absent(before), _none_if_absent(after)


def _pairs(before: list[Any], after: list[Any]) -> Iterator[tuple[int | None, int | None]]:
    """Yield the indexes of entries that correspond to each other. None for one that was added or removed.

    In a list that became longer or shorter, entries with a class, such as callbacks, are compared with those of the
    same class, so that those behind a callback that was removed are no changes. In others, an entry is compared with
    that in its place.
    """
    old, new = _classes(before), _classes(after)
    blocks = [("replace", 0, len(before), 0, len(after))]
    if old is not None and new is not None and len(old) != len(new):
        blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()  # type: ignore[assignment]
    for _, first, last, new_first, new_last in blocks:
        yield from itertools.zip_longest(range(first, last), range(new_first, new_last))


def _classes(entries: list[Any]) -> list[str] | None:
    found = [entry.get("class_path") if isinstance(entry, dict) else None for entry in entries]
    names = [name for name in found if isinstance(name, str)]
    return names if len(names) == len(entries) else None


def _holds_containers(entries: list[Any]) -> bool:
    return any(isinstance(entry, dict | list) for entry in entries)


def _none_if_absent(value: Any) -> Any:
    return None if value is _ABSENT else value


def _cut_short(value: Any) -> Any:
    """Return a value, or its size and digest if it is long."""
    text = json.dumps(value, sort_keys=True)
    if len(text) <= MAX_LENGTH:
        return value
    digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    if isinstance(value, list):
        first = [entry for entry in value[:_FIRST] if len(json.dumps(entry)) <= MAX_LENGTH // (2 * _FIRST)]
        return {"length": len(value), "first": first, "sha256": digest}
    if isinstance(value, str):
        return {"length": len(value), "first": value[: MAX_LENGTH // 2], "sha256": digest}
    return {"characters": len(text), "sha256": digest}
