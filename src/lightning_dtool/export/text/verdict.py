"""The result of a rerun as text for a terminal."""

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_dtool.printing import printable
from lightning_dtool.results.checklist.findings import counted
from lightning_dtool.results.reproduction import MetricRow, Reproduction

MAX_ENTRIES = 30
"""The largest number of lines of one kind that are shown; --json shows all."""

_STYLES = {
    "identical": "bold green",
    "within tolerance": "bold green",
    "resume exact": "bold green",
    "different": "bold red",
}


def document(found: Reproduction, everything: bool = False) -> RenderableType:
    """Return the result of a rerun as text, the verdict first.

    Args:
        found: The result.
        everything: Whether to list differences that made no difference, too. Default: their number.
    """
    verdict = found.verdict.value
    parts: list[RenderableType] = [Text(verdict.upper(), _STYLES.get(verdict, "bold yellow"))]
    parts += [Text(printable(line)) for line in found.reason.split("\n")]
    parts += [Text(""), _line("recorded", found.original.uri)]
    if found.rerun is not None:
        parts.append(_line("rerun", found.rerun.uri))
    if found.resume is not None:
        parts.append(_line("earlier", found.resume.earlier.uri))
    if found.uri is not None:
        parts.append(_line("verdict", found.uri))
    if found.first_difference is not None:
        parts.append(Text(f"\nThey first differ in {printable(found.first_difference)}."))
    if found.step is not None:
        parts.append(Text(f"\nStep by step: {printable(found.step)}."))
    if found.resume is not None:
        parts += _list("STATES THAT DIFFER (recorded -> resumed)", map(str, found.resume.differences))
        parts += _list("ANNOUNCED", found.resume.announced)
    parts += _list("DIFFERENCES THAT COULD EXPLAIN IT", found.factors)
    if found.metrics:
        title = "METRICS AT THE CHECKPOINT"
        if found.runs:
            title += f", AND THE INTERVALS THAT {found.runs} OTHER SEEDS PREDICT (level {found.level:g})"
        parts += [Text(f"\n{title}", "bold"), _table(found.metrics)]
        parts += _list("VALUES OF THE OTHER SEEDS", map(_values, filter(lambda row: row.values, found.metrics)))
    parts += _list("NOTES", found.notes)
    if found.successful and found.environment and not everything:
        differences = counted(len(found.environment), "difference")
        parts.append(Text(f"\n{differences} from the recorded environment had no effect (--all lists them)."))
    else:
        parts += _list("ENVIRONMENT", found.environment, everything)
    return Group(*parts)


def _line(label: str, uri: str) -> Text:
    text = Text(f"  {label:<9} ", no_wrap=True, overflow="ignore")
    return text.append(printable(uri), "cyan")


def _list(title: str, lines: Iterable[str], everything: bool = False) -> list[RenderableType]:
    entries = list(lines)
    if not entries:
        return []
    shown = entries if everything else entries[:MAX_ENTRIES]
    more = [Text(f"  and {len(entries) - len(shown)} more (--json shows all)")] if entries[len(shown) :] else []
    return [Text(f"\n{title}", "bold"), *(Text(f"  {printable(line)}") for line in shown), *more]


def _table(rows: tuple[MetricRow, ...]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    for _ in range(2):
        grid.add_column(no_wrap=True, justify="right")
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text("  "), Text("recorded"), Text("rerun"), Text("interval" if any(map(_judged, rows)) else ""))
    for row in rows:
        interval = f"{row.low:.6g} … {row.high:.6g}" if row.low is not None and row.high is not None else ""
        place = {True: "inside", False: "OUTSIDE" if interval else "NOT THE SAME", None: ""}[row.inside]
        place = "; ".join(filter(None, [place, printable(row.note)]))
        cells = (f"  {printable(row.name)}", _number(row.recorded), _number(row.rerun), interval, place)
        grid.add_row(*map(Text, cells))
    return grid


def _judged(row: MetricRow) -> bool:
    return row.low is not None


def _values(row: MetricRow) -> str:
    return f"{row.name}: {', '.join(map(_number, row.values))}"


def _number(value: Any) -> str:
    return "none" if value is None else f"{value:.9g}" if isinstance(value, float) else printable(value)
