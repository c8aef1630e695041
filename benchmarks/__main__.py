"""The command `python -m benchmarks`: run benchmarks and print their tables."""

import argparse
import importlib
import logging
import pkgutil
import tempfile
import warnings
from pathlib import Path

import torch
from rich.console import Console

import benchmarks
from benchmarks.measuring import Settings
from benchmarks.reporting import show, write

_HARNESS = {"__main__", "measuring", "reporting", "training"}


def main() -> None:
    """Run the benchmarks named on the command line and print their tables."""
    names = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name not in _HARNESS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run benchmarks and print their tables.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"the benchmarks to run (default: all): {', '.join(names)}"
    )
    parser.add_argument(
        "--short", action="store_true", help="run each case once at a tiny size, only to test that it runs"
    )
    parser.add_argument("--without", nargs="+", metavar="NAME", default=[], help="benchmarks to leave out")
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure (default: a temporary folder)")
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="write the figures there as JSON, for the documentation"
    )
    arguments = parser.parse_args()
    unknown = {*arguments.names, *arguments.without} - set(names)
    if unknown:
        parser.error(f"unknown benchmark: {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    console = Console()
    for name in arguments.names or [name for name in names if name not in arguments.without]:
        module = importlib.import_module(f"benchmarks.{name}")
        for package in ("lightning.pytorch", "pytorch_lightning"):  # importing them sets another level
            logging.getLogger(package).setLevel(logging.ERROR)
        console.rule(name)
        with tempfile.TemporaryDirectory(prefix="benchmark-", dir=arguments.folder) as folder:
            comparisons = []
            for comparison in module.run(Settings(Path(folder), arguments.short)):
                show(console, comparison, judge=not arguments.short)
                comparisons.append(comparison)
        if arguments.write is not None:
            write(arguments.write, name, comparisons)


if __name__ == "__main__":
    main()
