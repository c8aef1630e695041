"""Titles, addresses and tables for a terminal."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from lightning_dtool.printing import printable


def title(name: str) -> Text:
    """Return a name in bold."""
    return Text(printable(name), "bold")


def address(uri: str) -> Text:
    """Return a URI on a line that is not wrapped, so that it can be copied."""
    return Text(printable(uri), "cyan", no_wrap=True, overflow="ignore")


def rows_of(rows: Iterable[tuple[str, str]]) -> Table:
    """Return a table of labels and values."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(Text(f"  {label}", "cyan"), Text(value))
    return grid
