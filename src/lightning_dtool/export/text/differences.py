"""The differences between two records as text."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_dtool.export.text.layout import address, title
from lightning_dtool.export.text.values import MAX_ENTRIES, inline, nested, shortened
from lightning_dtool.printing import printable
from lightning_dtool.record import DatasetReference
from lightning_dtool.results.differences import Difference

MAX_PATCH_LINES = 200
"""The largest number of lines of a patch that are shown."""


MAX_VARIABLES = 3
"""The largest number of differing environment variables that are listed."""

_OF_MANY = re.compile(
    r"environment\.variables\W+(?!CU|NVIDIA|TORCH|PYTORCH|OMP|MKL|KMP|OPENBLAS|ONEDNN|DNNL|PYTHONHASHSEED)"
)
"""The paths of environment variables that are not known to affect numerical results."""


def record_differences(
    found: Sequence[Difference],
    names: tuple[str, str],
    uris: tuple[str, str],
    metrics: tuple[Mapping[str, Any], ...],
    relation: str | None = None,
    everything: bool = False,
) -> RenderableType:
    """Return the differences between two checkpoints by section, with the metrics side by side.

    Args:
        found: The differences to show.
        names: The names of the two datasets.
        uris: Their URIs.
        metrics: The metrics at each checkpoint.
        relation: What the two checkpoints have to do with each other. Default: nothing is said.
        everything: Whether to list every environment variable that differs. Default: their number, if there are many.
    """
    parts: list[RenderableType] = []
    for sign, name, uri in zip("-+", names, uris, strict=True):
        parts += [title(f"{sign} {name}"), address(f"  {uri}")]
    parts += relation_line(relation)
    sections: dict[str, list[Difference]] = {}
    unknown = [difference for difference in found if difference.weight == "unknown"]
    for difference in found:
        if not difference.path.startswith("metrics.at_checkpoint") and difference.weight != "unknown":
            sections.setdefault(difference.section, []).append(difference)
    for section, entries in sections.items():
        parts.append(Text(f"\n{section.replace('_', ' ').upper()}", "bold"))
        parts += folded_lines(entries, everything)
    if any(metrics):
        parts += [Text("\nMETRICS AT THE CHECKPOINT", "bold"), _side_by_side(*metrics)]
    parts += unknown_lines(unknown)
    if all(difference.weight != "matters" for difference in found):
        but = " in what is recorded" if unknown else ""
        parts.append(Text(f"\nNo relevant difference was found{but}."))
    return Group(*parts)


def folded_lines(found: Sequence[Difference], everything: bool) -> Iterator[RenderableType]:
    """Yield the lines for differences, with many environment variables as one line.

    Args:
        found: The differences.
        everything: Whether to yield lines for all of them.
    """
    variables = [entry for entry in found if _OF_MANY.match(entry.path)]
    folded = variables if len(variables) > MAX_VARIABLES and not everything else []
    shown = [entry for entry in found if entry not in folded]
    limit = len(shown) if everything else MAX_ENTRIES
    for difference in shown[:limit]:
        yield from difference_lines(difference)
    if shown[limit:]:
        yield Text(f"  and {len(shown) - limit} more (--json shows all)")
    if folded:
        yield Text(f"  environment.variables  {len(folded)} more differ (--all lists them)", "dim")


def relation_line(relation: str | None) -> list[RenderableType]:
    """Return the line that says what two checkpoints have to do with each other, if anything.

    Args:
        relation: As in a `Comparison`.
    """
    return [Text(f"\nThese are {printable(relation)}.", "bold")] if relation is not None else []


def unknown_lines(unknown: Sequence[Difference]) -> Iterator[RenderableType]:
    """Yield a heading and a line for each fact that is not known to be the same.

    Args:
        unknown: Differences of the kind `unknown`.
    """
    if unknown:
        yield Text(f"\nNOT KNOWN TO BE THE SAME ({len(unknown)})", "bold yellow")
    for difference in unknown[:MAX_ENTRIES]:
        yield Text(f"  {printable(difference.path)}  ({shortened(difference.note)})", "yellow")
    if len(unknown) > MAX_ENTRIES:
        yield Text(f"  and {len(unknown) - MAX_ENTRIES} more (--json shows all)")


def difference_lines(difference: Difference) -> Iterator[RenderableType]:
    """Yield the lines for one difference."""
    path, note = printable(difference.path), f"  ({shortened(difference.note)})" if difference.note else ""
    if difference.patch:
        sign = {"added": "+ ", "removed": "- "}.get(difference.kind, "")
        yield Text(f"  {sign}{path}{note}", "cyan")
        yield from _patch(difference.patch)
        return
    before, after = (shortened(_shown(value)) for value in (difference.before, difference.after))
    change = {"added": f"+ {path}  {after}", "removed": f"- {path}  {before}"}
    style = "" if difference.weight == "matters" else "dim"
    yield Text(f"  {change.get(difference.kind, f'{path}  {before} -> {after}')}{note}", style)


def _shown(value: Any) -> str:
    """Return one side of a difference. A dataset is shown by its URI alone, because the note contains the rest."""
    if isinstance(value, dict) and value.keys() == DatasetReference.model_fields.keys():
        return str(value["uri"])
    return "none" if value is None else nested(value)


def _patch(patch: str) -> Iterator[RenderableType]:
    lines = patch.split("\n")
    for line in lines[:MAX_PATCH_LINES]:
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        yield Text(f"    {shortened(line.expandtabs())}", style)
    if len(lines) > MAX_PATCH_LINES:
        yield Text(f"    and {len(lines) - MAX_PATCH_LINES} more lines (--json shows all)")


def _side_by_side(a: Mapping[str, Any], b: Mapping[str, Any]) -> Table:
    """Return the metrics of two checkpoints as a table, with the change of each metric that is a number."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    for _ in range(3):
        grid.add_column(no_wrap=True, justify="right")
    names = [*a, *(name for name in b if name not in a)]
    for name in names[:MAX_ENTRIES]:
        one, two = a.get(name), b.get(name)
        change = _change(one, two)
        cells = ("none" if value is None else shortened(inline(value)) for value in (one, two))
        grid.add_row(*map(Text, (f"  {shortened(name)}", *cells, change)))
    if len(names) > MAX_ENTRIES:
        grid.add_row(Text(f"  and {len(names) - MAX_ENTRIES} more (--json shows all)"))
    return grid


def _change(one: Any, two: Any) -> str:
    """Return the change from one number to another; empty for values that are not numbers."""
    numbers = [value for value in (one, two) if isinstance(value, int | float) and not isinstance(value, bool)]
    return f"{numbers[1] - numbers[0]:+.3g}" if len(numbers) == 2 and one != two else ""
