"""The result of an evaluation as text."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_dtool.export.text.layout import rows_of, title
from lightning_dtool.export.text.values import MAX_ENTRIES, inline, shortened
from lightning_dtool.printing import printable
from lightning_dtool.results.evaluation import Evaluation


def evaluation(found: Evaluation) -> RenderableType:
    """Return the metrics of an evaluation, overall and by class.

    Args:
        found: The evaluation.
    """
    checkpoint, data, trained_on = found.checkpoint, found.data, found.training_items
    whole = "a selection" if "select" in found.reading else "all of it"
    part = whole if found.part == "whole" else f"its part for {found.part}"
    parts: list[RenderableType] = [
        title(f"{checkpoint['name']} on {data['name']}"),
        rows_of(
            [
                ("checkpoint", printable(checkpoint["uri"])),
                ("data", printable(data["uri"])),
                ("samples", f"{found.count}, {part}"),
                ("seen in training", "unknown" if trained_on is None else f"{trained_on} of them"),
                *([] if not found.missing_keys else [("missing weights", shortened(", ".join(found.missing_keys)))]),
                *([] if found.dataset_uri is None else [("stored as", printable(found.dataset_uri))]),
            ]
        ),
        Text("\nMETRICS", "bold"),
        rows_of((name, "not defined" if value is None else inline(value)) for name, value in found.metrics.items()),
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
        grid.add_row(*map(Text, (f"  {shortened(name)}", accuracy, str(facts["count"]), str(facts["predicted"]))))
    if len(per_class) > MAX_ENTRIES:
        grid.add_row(Text(f"  and {len(per_class) - MAX_ENTRIES} more (--json shows all)"))
    return grid
