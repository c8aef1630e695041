"""Records and listings as text for people.

What a dataset says was written by strangers: whatever a terminal or rich would interpret is shown as its
escape. What this module adds is ASCII, so that it reads the same in every locale.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lightning_dtool.items import CHECKPOINT_TAG
from lightning_dtool.record import Gap, Provenance

MAX_ENTRIES = 24
"""Entries of one list or dictionary that are shown; the rest is counted."""

MAX_CELL = 40
"""Characters of a cell in a listing."""

_HEADER = ("NAME", "DATE (UTC)", "EPOCH", "MONITOR", "STATUS", "TAGS")
_MIN_NAME = 12


def printable(value: object) -> str:
    r"""Return text in which control characters, escape sequences and invisible characters are visible.

    >>> printable("a\x1b[31mb\n")
    'a\\x1b[31mb\\n'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(value)
    )


def listing(checkpoints: Sequence[Mapping[str, Any]], width: int | None) -> Text:
    """Return a table of checkpoints.

    Args:
        checkpoints: For each its `name`, `uri`, `frozen_at`, `epoch`, `monitor`, `run_status` and `tags`.
        width: The terminal's width: where the URI does not fit into it, it has a line of its own. None for no
            terminal: then each checkpoint is one line, and nothing is shortened but what is absurdly long.
    """
    rows = [_HEADER, *(_cells(checkpoint) for checkpoint in checkpoints)]
    uris = ["URI", *(printable(checkpoint["uri"]) for checkpoint in checkpoints)]
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(_HEADER))]
    facts = sum(widths) + 2 * (len(widths) - 1)
    folded = width is not None and facts + 2 + max(map(cell_len, uris)) > width
    if width is not None and folded:
        widths[0] = max(_MIN_NAME, min(widths[0], widths[0] + width - facts))
    text = Text(no_wrap=True, overflow="ignore")
    for row, uri in zip(rows, uris, strict=True):
        style = "bold" if row is _HEADER else ""
        line = "  ".join(_fit(cell, size) for cell, size in zip(row, widths, strict=True))
        if not folded:
            text.append(f"{line}  {uri}\n", style)
            continue
        text.append(f"{line.rstrip()}\n", style)
        if row is not _HEADER:
            text.append(f"  {uri}\n", "cyan")
    return text


def document(record: Provenance, name: str, uri: str, facts: Mapping[str, object]) -> RenderableType:
    """Return a whole record, in its own order, with what it does not know at the end.

    Args:
        record: The record.
        name: The dataset's name.
        uri: Its URI.
        facts: What else is known of the dataset beside the record, by name, such as its tags.
    """
    parts: list[RenderableType] = [
        Text(printable(name), "bold"),
        Text(printable(uri), "cyan", no_wrap=True, overflow="ignore"),
        _grid((fact, _inline(value)) for fact, value in facts.items() if value),
    ]
    if record.gaps:
        parts.append(Text(f"\nNot everything is recorded. Gaps: {len(record.gaps)}, at the end.", "bold yellow"))
    for field, value in record:
        if field not in ("schema_version", "gaps"):
            rows = list(_rows("", value, 0)) or [("none", "")]
            parts += [Text(f"\n{field.replace('_', ' ').upper()}", "bold"), _grid(rows)]
    return Group(*parts, *_gaps(record.gaps))


def _cells(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    monitor = checkpoint["monitor"]
    metric = [monitor.get("name"), monitor.get("value")] if isinstance(monitor, dict) else []
    cells = (
        checkpoint["name"],
        checkpoint["frozen_at"].strftime("%Y-%m-%d %H:%M"),
        "" if checkpoint["epoch"] is None else checkpoint["epoch"],
        " ".join(_inline(part) for part in metric if part is not None),
        checkpoint["run_status"] or "",
        " ".join(tag for tag in checkpoint["tags"] if tag != CHECKPOINT_TAG),
    )
    name, *others = map(printable, cells)
    return name, *(_fit(cell, min(cell_len(cell), MAX_CELL)) for cell in others)


def _fit(text: str, width: int) -> str:
    """Return text that takes exactly this many columns of a terminal."""
    return set_cell_size(text, width) if cell_len(text) <= width else f"{set_cell_size(text, width - 2)}.."


def _rows(label: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    """Yield the lines, label and value, for a part of a record; what is empty has none."""
    if value in (None, "", [], {}):
        return
    if _is_sections(value) and len(value) == 1:
        value = value[0]
    indented = "  " * depth + printable(label)
    children = dict(_children(value))
    if not children:
        yield indented, _inline(value)
        return
    if label:
        yield indented, ""
    for name, child in children.items():
        yield from _rows(name, child, depth + 1 if label else depth)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the named parts of what takes more than one line: sections, and what holds sections."""
    if isinstance(value, BaseModel):
        # A group's options say all that its optimizer's defaults do.
        yield from ((name.replace("_", " "), child) for name, child in value if name != "defaults")
    elif _is_sections(value):
        yield from ((str(number), child) for number, child in enumerate(value, 1))
    elif isinstance(value, dict) and any(
        isinstance(child, BaseModel) or _is_sections(child) for child in value.values()
    ):
        yield from value.items()


def _is_sections(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], BaseModel)


def _inline(value: Any) -> str:
    """Return a value on one line."""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, float):
        text = f"{value:.6g}"
        # A whole float keeps its point: to Lightning 1.0 is all batches, and 1 is one.
        return f"{text}.0" if text.lstrip("-").isdigit() else text
    if isinstance(value, list):
        return _joined([_nested(item) for item in value])
    if isinstance(value, dict):
        content = _content(value)
        if content is not value:
            return _inline(content)
        return _joined([f"{printable(key)}={_nested(item)}" for key, item in value.items()])
    return printable(value)


def _nested(value: Any) -> str:
    value = _content(value)
    if isinstance(value, list):
        return f"[{_inline(value)}]"
    return f"{{{_inline(value)}}}" if isinstance(value, dict) else _inline(value)


def _content(value: Any) -> Any:
    """Return what stands in the record for a value that JSON does not know, without its type."""
    if isinstance(value, dict) and "type" in value:
        for key in ("value", "repr", "name"):
            if key in value:
                return value[key]
    return value


def _joined(parts: list[str]) -> str:
    shown = ", ".join(parts[:MAX_ENTRIES])
    more = len(parts) - MAX_ENTRIES
    return f"{shown}, and {more} more (--json shows all)" if more > 0 else shown


def _gaps(gaps: Sequence[Gap]) -> Iterator[RenderableType]:
    if not gaps:
        return
    yield Text(f"\nGAPS ({len(gaps)}): WHAT IS NOT RECORDED", "bold yellow")
    for gap in gaps:
        yield Text(f"  {printable(gap.fact)}", "yellow")
        yield _indented(printable(gap.reason))
        if gap.remedy:
            yield _indented(f"Remedy: {printable(gap.remedy)}")


def _indented(text: str) -> RenderableType:
    return Padding(Text(text), (0, 0, 0, 4), expand=False)


def _grid(rows: Iterable[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(Text(f"  {label}", "cyan"), Text(value))
    return grid
