"""A record as text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from lightning_dtool.export.text.layout import address, rows_of, title
from lightning_dtool.export.text.values import MAX_ENTRIES, inline, nested
from lightning_dtool.printing import printable
from lightning_dtool.record import Change, Child, Epoch, Gap, Provenance
from lightning_dtool.results.checklist.findings import counted


def document(record: Provenance, name: str, uri: str, facts: Mapping[str, object]) -> RenderableType:
    """Return a whole record in its own order, with its gaps at the end.

    Args:
        record: The record.
        name: The name of the dataset.
        uri: The URI of the dataset.
        facts: Facts about the dataset that are not in the record, by name, such as its tags.
    """
    parts: list[RenderableType] = [
        title(name),
        address(uri),
        rows_of((fact, inline(value)) for fact, value in facts.items() if value),
    ]
    if record.gaps:
        parts.append(Text(f"\nGaps in this record: {len(record.gaps)}, listed at the end.", "bold yellow"))
    for field, value in record:
        if field not in ("schema_version", "gaps"):
            rows = list(_changes(value) if field == "changes" else _rows("", value, 0)) or [("none", "")]
            parts += [Text(f"\n{field.replace('_', ' ').upper()}", "bold"), rows_of(rows)]
    return Group(*parts, *_gaps(record.gaps))


def _rows(label: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    """Yield the label and the value of each line for a part of a record; no lines for an empty part."""
    if value in (None, "", [], {}):
        return
    if _is_sections(value) and len(value) == 1 and not isinstance(value[0], Child | Epoch):
        value = value[0]
    indented = "  " * depth + printable(label)
    children = list(_children(value))
    if not children:
        yield indented, inline(value)
        return
    if label:
        yield indented, ""
    for name, child in children:
        yield from _rows(name, child, depth + 1 if label else depth)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the named parts of a value that takes more than one line: a section, or a value that contains sections."""
    if isinstance(value, Child | Epoch):
        return  # shown on one line
    if isinstance(value, BaseModel):
        # The options of each parameter group repeat the defaults of the optimizer.
        yield from ((name.replace("_", " "), child) for name, child in value if name != "defaults")
    elif _is_sections(value):
        yield from _numbered(value)
    elif isinstance(value, dict) and any(
        isinstance(child, BaseModel) or _is_sections(child) for child in value.values()
    ):
        yield from value.items()


def _numbered(sections: Sequence[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Yield the sections of a list by name or number. A long list is cut: epochs at its start, others at its end."""
    labelled = [(_label(section, number), section) for number, section in enumerate(sections, 1)]
    more = len(labelled) - MAX_ENTRIES
    if more > 0 and isinstance(sections[0], Epoch):
        yield "..", f"{counted(more, 'earlier epoch')} (--json shows all)"
        yield from labelled[more:]
        return
    yield from labelled[:MAX_ENTRIES]
    if more > 0:
        yield "..", f"and {more} more (--json shows all)"


def _label(section: BaseModel, number: int) -> str:
    if isinstance(section, Child):
        return section.name
    return f"epoch {section.epoch}" if isinstance(section, Epoch) else str(number)


def _is_sections(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], BaseModel)


def _changes(changes: Sequence[Change]) -> Iterator[tuple[str, str]]:
    """Yield a line for each change. The first changes of a long list are left out."""
    more = len(changes) - MAX_ENTRIES
    if more > 0:
        yield "..", f"{more} earlier changes (--json shows all)"
    for change in changes[max(0, more) :]:
        before, after = nested(change.before), nested(change.after)
        yield f"epoch {change.epoch}, step {change.global_step}", f"{printable(change.fact)}: {before} -> {after}"


def _gaps(gaps: Sequence[Gap]) -> Iterator[RenderableType]:
    if not gaps:
        return
    yield Text(f"\nGAPS ({len(gaps)}): FACTS THAT ARE NOT RECORDED", "bold yellow")
    for gap in gaps:
        yield Text(f"  {printable(gap.fact)}", "yellow")
        yield _indented(printable(gap.reason))
        if gap.remedy:
            yield _indented(f"Remedy: {printable(gap.remedy)}")


def _indented(text: str) -> RenderableType:
    return Padding(Text(text), (0, 0, 0, 4), expand=False)
