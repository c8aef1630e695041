"""Comparison of two traces, step by step."""

import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any


def first_differing_step(one: Path, two: Path, first: int = 0) -> str | None:
    """Return the first step that differs, with the first parameter that differs in it; None if none does.

    If one trace is shorter, the steps that both contain are compared.

    Args:
        one: A file with a line for each step, as the callback's `trace=True` stores it.
        two: Another such file.
        first: The first step to compare, since the trace of a resumed run begins later. Default: all.
    """
    for a, b in zip_longest(_lines(one, first), _lines(two, first)):
        if a is None or b is None:
            return None
        if a == b:
            continue
        where = f"epoch {b.get('epoch')}, step {b.get('step')}"
        if (a.get("epoch"), a.get("step")) != (b.get("epoch"), b.get("step")):
            return f"epoch {a.get('epoch')}, step {a.get('step')}, while the other is at {where}"
        mine, theirs = a.get("parameters", {}), b.get("parameters", {})
        names = [name for name in dict.fromkeys([*mine, *theirs]) if mine.get(name) != theirs.get(name)]
        if not names:
            return f"{where}: the loss ({_shown(a.get('loss'))} and {_shown(b.get('loss'))}), but no parameter"
        more = f" and {len(names) - 1} more" if names[1:] else ""
        return f"{where}: parameter {names[0]}{more}"
    return None


def _lines(path: Path, first: int) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.get("step", first) >= first:
                yield entry


def _shown(loss: Any) -> str:
    try:
        return repr(float.fromhex(loss))
    except (TypeError, ValueError):
        return str(loss)
