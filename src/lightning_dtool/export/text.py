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
from lightning_dtool.record import Child, DatasetReference, Epoch, Gap, Provenance
from lightning_dtool.results.checklist import Finding, Status, by_group
from lightning_dtool.results.comparison import Comparison, MetricsComparison, OrderComparison, Weights
from lightning_dtool.results.differences import Difference
from lightning_dtool.results.evaluation import Evaluation

MAX_ENTRIES = 24
"""Entries of one list or dictionary that are shown; the rest is counted."""

MAX_CELL = 40
"""Characters of a cell in a listing."""

MAX_TEXT = 300
"""Characters of a text in a record that are shown."""

MAX_PATCH_LINES = 200
"""Lines of one patch that are shown."""

_STATUS_STYLES = {Status.PASS: "green", Status.FAIL: "bold red", Status.NOT_CHECKED: "yellow"}

_AGREEMENT_STYLES = {"identical": "green", "different": "bold red", "not recorded": "yellow"}

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
        _title(name),
        _address(uri),
        _grid((fact, _inline(value)) for fact, value in facts.items() if value),
    ]
    if record.gaps:
        parts.append(Text(f"\nNot everything is recorded. Gaps: {len(record.gaps)}, at the end.", "bold yellow"))
    for field, value in record:
        if field not in ("schema_version", "gaps"):
            rows = list(_rows("", value, 0)) or [("none", "")]
            parts += [Text(f"\n{field.replace('_', ' ').upper()}", "bold"), _grid(rows)]
    return Group(*parts, *_gaps(record.gaps))


def checklist(findings: Sequence[Finding], name: str, uri: str) -> RenderableType:
    """Return a checklist: each point with its verdict, what was found, and how to mend it.

    Args:
        findings: The points.
        name: The dataset's name.
        uri: Its URI.
    """
    parts: list[RenderableType] = [_title(name), _address(uri)]
    for group, points in by_group(findings):
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for point in points:
            grid.add_row(Text(f"  {point.status.value}", _STATUS_STYLES.get(point.status, "dim")), Text(point.title))
            grid.add_row("", Text(f"  {_short(point.found)}", "dim"))
            if point.remedy:
                grid.add_row("", Text(f"  Remedy: {_short(point.remedy)}"))
        parts += [Text(f"\n{group}", "bold"), grid]
    counts = (f"{sum(point.status is status for point in findings)} {status.value}" for status in Status)
    return Group(*parts, Text(f"\n{', '.join(counts)}", "bold"))


def record_differences(
    found: Sequence[Difference], names: tuple[str, str], uris: tuple[str, str], metrics: tuple[Mapping[str, Any], ...]
) -> RenderableType:
    """Return what differs between two checkpoints, section by section, with the metrics side by side.

    Args:
        found: The differences to show.
        names: The names of the two datasets.
        uris: Their URIs.
        metrics: What each had measured at the checkpoint.
    """
    parts: list[RenderableType] = []
    for sign, name, uri in zip("-+", names, uris, strict=True):
        parts += [_title(f"{sign} {name}"), _address(f"  {uri}")]
    sections: dict[str, list[Difference]] = {}
    for difference in found:
        if not difference.path.startswith("metrics.at_checkpoint"):
            sections.setdefault(difference.section, []).append(difference)
    for section, entries in sections.items():
        parts.append(Text(f"\n{section.replace('_', ' ').upper()}", "bold"))
        for difference in entries[:MAX_ENTRIES]:
            parts += _difference(difference)
        if len(entries) > MAX_ENTRIES:
            parts.append(Text(f"  and {len(entries) - MAX_ENTRIES} more (--json shows all)"))
    if any(metrics):
        parts += [Text("\nMETRICS AT THE CHECKPOINT", "bold"), _side_by_side(*metrics)]
    if all(difference.weight != "matters" for difference in found):
        parts.append(Text("\nNothing that matters differs."))
    return Group(*parts)


def model_comparison(found: Comparison) -> RenderableType:
    """Return what was found when two models were compared, part by part, and what could explain it.

    Args:
        found: The comparison.
    """
    rows = [
        ("weights", found.weights.agreement, _weights(found.weights)),
        ("optimizers", found.optimizers.agreement, ""),
        ("schedulers", found.schedulers.agreement, ""),
        ("metrics", found.metrics.agreement, _metrics(found.metrics)),
        ("order of samples", found.order.agreement, _order(found.order)),
    ]
    grid = Table.grid(padding=(0, 2, 0, 0))
    for column in range(3):
        grid.add_column(no_wrap=column < 2, overflow="fold")
    for label, agreement, detail in rows:
        grid.add_row(Text(f"  {label}"), Text(agreement, _AGREEMENT_STYLES[agreement]), Text(_short(detail)))
    parts: list[RenderableType] = [_address(f"- {found.uri_a}"), _address(f"+ {found.uri_b}"), Text(""), grid]
    first = found.first_difference
    if first is not None:
        parts.append(Text(f"\nThey first differ in {_short(first)}."))
    elif not found.identical:
        parts.append(Text("\nNo epoch that both recorded shows where they first differ."))
    if found.factors:
        parts.append(Text(f"\nRECORDED FACTORS THAT DIFFER ({len(found.factors)})", "bold"))
        for factor in found.factors[:MAX_ENTRIES]:
            parts += _difference(factor)
        if len(found.factors) > MAX_ENTRIES:
            parts.append(Text(f"  and {len(found.factors) - MAX_ENTRIES} more (--json shows all)"))
    elif not found.identical:
        parts.append(Text("\nNo recorded factor differs: the cause was not recorded."))
    identical = "The two are identical." if found.identical else "The two are not identical."
    return Group(*parts, Text(f"\n{identical}", "bold"))


def _weights(weights: Weights) -> str:
    if weights.agreement != "different":
        return f"{weights.tensor_count} tensors"
    if weights.greatest_absolute is None or weights.greatest_relative is None:
        size = ""
    else:
        size = f"; by at most {weights.greatest_absolute:.3g}, {100 * weights.greatest_relative:.3g} % of the larger"
    return f"{weights.differing_count} of {weights.tensor_count} tensors{size}"


def _metrics(metrics: MetricsComparison) -> str:
    places = (
        f"{entry.name} {'at the checkpoint' if entry.epoch is None else f'in epoch {entry.epoch}'}"
        for entry in metrics.differing[:3]
    )
    more = len(metrics.differing) - 3
    text = ", ".join([f"{len(metrics.epochs)} epochs", *places])
    return f"{text}, and {more} more (--json shows all)" if more > 0 else text


def _order(order: OrderComparison) -> str:
    differs = (
        f", different in {len(order.differing)} of them, first in epoch {order.differing[0]}" if order.differing else ""
    )
    return f"{len(order.epochs)} epochs{differs}" if order.epochs else ""


def evaluation(found: Evaluation) -> RenderableType:
    """Return the metrics of an evaluation, overall and by class.

    Args:
        found: The evaluation.
    """
    checkpoint, data, trained_on = found.checkpoint, found.data, found.training_items
    whole = "a selection" if "select" in found.reading else "all of it"
    part = whole if found.part == "whole" else f"its part for {found.part}"
    parts: list[RenderableType] = [
        _title(f"{checkpoint['name']} on {data['name']}"),
        _grid(
            [
                ("checkpoint", printable(checkpoint["uri"])),
                ("data", printable(data["uri"])),
                ("samples", f"{found.count}, {part}"),
                ("seen in training", "unknown" if trained_on is None else f"{trained_on} of them"),
                *([] if found.dataset_uri is None else [("stored as", printable(found.dataset_uri))]),
            ]
        ),
        Text("\nMETRICS", "bold"),
        _grid((name, "not defined" if value is None else _inline(value)) for name, value in found.metrics.items()),
    ]
    if found.per_class:
        parts += [Text("\nCLASSES", "bold"), _classes(found.per_class)]
    return Group(*parts)


def _classes(per_class: Mapping[str, Mapping[str, Any]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    for _ in range(3):
        grid.add_column(no_wrap=True, justify="right")
    grid.add_row(*(Text(title, "dim") for title in ("", "accuracy", "samples", "predicted")))
    for name, facts in list(per_class.items())[:MAX_ENTRIES]:
        accuracy = "none" if facts["accuracy"] is None else f"{facts['accuracy']:.4f}"
        grid.add_row(*map(Text, (f"  {_short(name)}", accuracy, str(facts["count"]), str(facts["predicted"]))))
    if len(per_class) > MAX_ENTRIES:
        grid.add_row(Text(f"  and {len(per_class) - MAX_ENTRIES} more (--json shows all)"))
    return grid


def _difference(difference: Difference) -> Iterator[RenderableType]:
    path, note = printable(difference.path), f"  ({_short(difference.note)})" if difference.note else ""
    if difference.patch:
        sign = {"added": "+ ", "removed": "- "}.get(difference.kind, "")
        yield Text(f"  {sign}{path}{note}", "cyan")
        yield from _patch(difference.patch)
        return
    before, after = (_short(_shown(value)) for value in (difference.before, difference.after))
    change = {"added": f"+ {path}  {after}", "removed": f"- {path}  {before}"}
    style = "" if difference.weight == "matters" else "dim"
    yield Text(f"  {change.get(difference.kind, f'{path}  {before} -> {after}')}{note}", style)


def _shown(value: Any) -> str:
    """Return one side of a difference: of a dataset its URI, which says enough beside the note."""
    if isinstance(value, dict) and value.keys() == DatasetReference.model_fields.keys():
        return str(value["uri"])
    return "none" if value is None else _nested(value)


def _patch(patch: str) -> Iterator[RenderableType]:
    lines = patch.split("\n")
    for line in lines[:MAX_PATCH_LINES]:
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        yield Text(f"    {_short(line.expandtabs())}", style)
    if len(lines) > MAX_PATCH_LINES:
        yield Text(f"    and {len(lines) - MAX_PATCH_LINES} more lines (--json shows all)")


def _side_by_side(a: Mapping[str, Any], b: Mapping[str, Any]) -> Table:
    """Return the metrics of two checkpoints, and the difference of those that are numbers."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    for _ in range(3):
        grid.add_column(no_wrap=True, justify="right")
    names = [*a, *(name for name in b if name not in a)]
    for name in names[:MAX_ENTRIES]:
        one, two = a.get(name), b.get(name)
        change = _change(one, two)
        cells = ("none" if value is None else _short(_inline(value)) for value in (one, two))
        grid.add_row(*map(Text, (f"  {_short(name)}", *cells, change)))
    if len(names) > MAX_ENTRIES:
        grid.add_row(Text(f"  and {len(names) - MAX_ENTRIES} more (--json shows all)"))
    return grid


def _change(one: Any, two: Any) -> str:
    """Return by how much one number is more than another; of what is no number nothing."""
    numbers = [value for value in (one, two) if isinstance(value, int | float) and not isinstance(value, bool)]
    return f"{numbers[1] - numbers[0]:+.3g}" if len(numbers) == 2 and one != two else ""


def _title(name: str) -> Text:
    return Text(printable(name), "bold")


def _address(uri: str) -> Text:
    return Text(printable(uri), "cyan", no_wrap=True, overflow="ignore")


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
    if _is_sections(value) and len(value) == 1 and not isinstance(value[0], Child | Epoch):
        value = value[0]
    indented = "  " * depth + printable(label)
    children = list(_children(value))
    if not children:
        yield indented, _inline(value)
        return
    if label:
        yield indented, ""
    for name, child in children:
        yield from _rows(name, child, depth + 1 if label else depth)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the named parts of what takes more than one line: sections, and what holds sections."""
    if isinstance(value, Child | Epoch):
        return  # one line says it all
    if isinstance(value, BaseModel):
        # A group's options say all that its optimizer's defaults do.
        yield from ((name.replace("_", " "), child) for name, child in value if name != "defaults")
    elif _is_sections(value):
        yield from _numbered(value)
    elif isinstance(value, dict) and any(
        isinstance(child, BaseModel) or _is_sections(child) for child in value.values()
    ):
        yield from value.items()


def _numbered(sections: Sequence[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Yield a list's sections under their names or numbers; of a long one the first, of epochs the last."""
    labelled = [(_label(section, number), section) for number, section in enumerate(sections, 1)]
    more = len(labelled) - MAX_ENTRIES
    if more > 0 and isinstance(sections[0], Epoch):
        yield "..", f"{more} epochs before these (--json shows all)"
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


def _inline(value: Any) -> str:
    """Return a value on one line."""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, Child):
        trainable = f"{value.parameters_trainable} of {value.parameters_total} parameters trainable"
        return f"{_short(value.class_path)}, {trainable}"
    if isinstance(value, Epoch):
        rates = f"; learning rates {_nested(value.learning_rates)}" if value.learning_rates else ""
        return f"step {value.global_step}, {value.seconds:.1f} s: {_inline(value.metrics)}{rates}"
    if isinstance(value, float):
        text = f"{value:.6g}"
        # A whole float keeps its point: to Lightning 1.0 is all batches, and 1 is one.
        return f"{text}.0" if text.lstrip("-").isdigit() else text
    if isinstance(value, list):
        return _joined([_nested(item) for item in value])
    if isinstance(value, dict):
        return _typed(value) if "type" in value else _arguments(value)
    return _short(value)


def _short(value: object) -> str:
    """Return text on one line that does not flood a terminal, and says what it leaves out."""
    text = str(value)
    first, line_break, rest = text.partition("\n")
    if len(first) <= MAX_TEXT and not rest:
        return printable(text)
    size = f"{text.count(line_break) + 1} lines" if rest else f"{len(text)} characters"
    return f"{printable(first[:MAX_TEXT])} .. ({size}; --json shows all)"


def _nested(value: Any) -> str:
    if isinstance(value, list):
        return f"[{_inline(value)}]"
    return f"{{{_inline(value)}}}" if isinstance(value, dict) and "type" not in value else _inline(value)


_BRACKETS = {
    "builtins:tuple": "()",
    "torch:Size": "()",
    "builtins:set": "{}",
    "builtins:frozenset": "{}",
}
_DEFINITIONS = ("builtins:function", "builtins:type", "builtins:method", "builtins:module", "numpy:ufunc")


def _typed(value: Mapping[str, Any]) -> str:
    """Return a value that JSON does not know as Python would show it: `(0.9, 0.999)`, `inf`, `Dropout(p=0.1)`."""
    path = str(value["type"])
    name = printable(path.rpartition(":")[2])
    content = {key: entry for key, entry in value.items() if key not in ("type", "source")}
    if "repr" in content:
        return _short(content["repr"])
    if "name" in content:
        return _short(content["name"]) if path in _DEFINITIONS else f"{name}.{_short(content['name'])}"
    for key in ("init", "fields", "state"):
        if isinstance(content.get(key), dict) and content[key]:
            return f"{name}({_arguments(content[key])})"
    if "init" in content:
        return f"{name}()"
    if isinstance(content.get("items"), list):
        return f"{{{_joined([_pair(pair) for pair in content['items']])}}}"
    found = content.get("value")
    if isinstance(found, list):
        brackets = _BRACKETS.get(path, "[]")
        text = f"{brackets[0]}{_inline(found)}{brackets[1]}"
        return f"{name}({text})" if "dtype" in content else text
    if isinstance(found, dict) and "type" not in found:
        return f"{name}({_arguments(found)})"
    if found is not None:
        return _inline(found)
    return f"{name}({_arguments(content)})"


def _pair(pair: Any) -> str:
    return ": ".join(map(_nested, pair)) if isinstance(pair, list) else _nested(pair)


def _arguments(values: Mapping[str, Any]) -> str:
    return _joined([f"{printable(key)}={_nested(value)}" for key, value in values.items()])


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
