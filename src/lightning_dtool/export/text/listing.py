"""A list of checkpoints as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from lightning_dtool.export.text.values import inline
from lightning_dtool.items import CHECKPOINT_TAG
from lightning_dtool.printing import printable

MAX_CELL = 40
"""The greatest width of a cell, in characters."""

_HEADER = ("NAME", "DATE (UTC)", "EPOCH", "MONITOR", "STATUS", "TAGS")
_MIN_NAME = 12


def listing(checkpoints: Sequence[Mapping[str, Any]], width: int | None) -> Text:
    """Return a table of checkpoints.

    Args:
        checkpoints: For each checkpoint its `name`, `uri`, `frozen_at`, `epoch`, `monitor`, `run_status` and `tags`.
        width: The width of the terminal. If the URIs do not fit, each is below the rest of its row. None without a
            terminal: then each checkpoint is one line, and only cells of more than `MAX_CELL` are shortened.
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


def _cells(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    monitor = checkpoint["monitor"]
    metric = [monitor.get("name"), monitor.get("value")] if isinstance(monitor, dict) else []
    cells = (
        checkpoint["name"],
        checkpoint["frozen_at"].strftime("%Y-%m-%d %H:%M"),
        "" if checkpoint["epoch"] is None else checkpoint["epoch"],
        " ".join(inline(part) for part in metric if part is not None),
        checkpoint["run_status"] or "",
        " ".join(tag for tag in checkpoint["tags"] if tag != CHECKPOINT_TAG),
    )
    name, *others = map(printable, cells)
    return name, *(_fit(cell, min(cell_len(cell), MAX_CELL)) for cell in others)


def _fit(text: str, width: int) -> str:
    """Return the text, cut or padded to exactly this many columns of a terminal."""
    return set_cell_size(text, width) if cell_len(text) <= width else f"{set_cell_size(text, width - 2)}.."
