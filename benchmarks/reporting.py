"""Tables of benchmark figures on the terminal, and the figures as JSON for the documentation."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measuring import Comparison

_PACKAGES = (
    "lightning-dtool",
    "lightning",
    "torch",
    "torchvision",
    "dtoolcore",
    "dtool-s3",
    "boto3",
    "mlflow",
    "dvclive",
)


def show(console: Console, comparison: Comparison, *, judge: bool = True) -> None:
    """Print a comparison as a table and, with `judge`, whether its goals are met."""
    table = Table(title=comparison.title, title_justify="left")
    for heading in ("", f"median ({comparison.unit})", "min", "max", "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, values in comparison.series.items():
        ratio = comparison.figure(name) / comparison.figure(comparison.baseline)
        table.add_row(name, *(f"{figure:.4g}" for figure in (comparison.figure(name), min(values), max(values), ratio)))
    console.print(table)
    for bar in comparison.bars if judge else ():
        reached = comparison.reached(bar)
        verdict = "met" if reached <= bar.at_most else "NOT MET"
        against = "" if bar.absolute else f" against {bar.against or comparison.baseline}"
        console.print(f"  {bar.series}{against} ({bar.statistic}): {reached:.3g}, at most {bar.at_most:g}: {verdict}")
    for note in comparison.notes:
        console.print(f"  {note}")


def write(folder: Path, name: str, comparisons: Sequence[Comparison]) -> None:
    """Write the figures of a benchmark as JSON, with the machine and package versions."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for comparison in comparisons:
        bars = [{**asdict(bar), "reached": comparison.reached(bar)} for bar in comparison.bars]
        kept.append({**asdict(comparison), "bars": bars})
    content = {"machine": machine(), "comparisons": kept}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Return a description of the machine and the package versions."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
