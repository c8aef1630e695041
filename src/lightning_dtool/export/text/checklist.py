"""A checklist as text."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_dtool.export.text.layout import address, title
from lightning_dtool.export.text.values import shortened
from lightning_dtool.results.checklist import Finding, Status, by_group

_STATUS_STYLES = {Status.PASS: "green", Status.FAIL: "bold red", Status.NOT_CHECKED: "yellow", Status.PARTLY: "yellow"}


def checklist(findings: Sequence[Finding], name: str, uri: str) -> RenderableType:
    """Return the findings of a checklist, by group, with the number of each status at the end.

    Args:
        findings: The findings.
        name: The name of the dataset.
        uri: The URI of the dataset.
    """
    parts: list[RenderableType] = [title(name), address(uri)]
    for group, points in by_group(findings):
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for point in points:
            grid.add_row(Text(f"  {point.status.value}", _STATUS_STYLES.get(point.status, "dim")), Text(point.title))
            grid.add_row("", Text(f"  {shortened(point.found)}", "dim"))
            if point.remedy:
                grid.add_row("", Text(f"  Remedy: {shortened(point.remedy)}"))
        parts += [Text(f"\n{group}", "bold"), grid]
    counts = (f"{sum(point.status is status for point in findings)} {status.value}" for status in Status)
    return Group(*parts, Text(f"\n{', '.join(counts)}", "bold"))
