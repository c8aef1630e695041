"""The fuzz campaign: datasets with one file mutated, through every command and every reader, and how each ends.

    python tests/fuzz_campaign.py                       # all of it, more than 30,000 operations
    python tests/fuzz_campaign.py --short               # a choice, which runs with the tests
    python tests/fuzz_campaign.py --only "README.yml"   # the cases whose name contains a text
    python tests/fuzz_campaign.py --write docs/fuzz.json

The exit code is 1 if an operation ends neither in a right result nor in an error of this package.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

from fuzz.cases import cases, short
from fuzz.forging import NOTHING, Case
from fuzz.judging import FINDINGS, RIGHT, TYPED, Finding
from fuzz.mutations import MUTATIONS
from fuzz.operations import operations
from fuzz.originals import KINDS
from fuzz.running import Result, prepare, results


def rows(found: list[Result]) -> list[dict[str, Any]]:
    """Return the rows of the table: one for each kind of dataset and mutation."""
    return [
        {
            "kind": kind,
            "mutation": mutation,
            "datasets": len({result.case for result in each}),
            "operations": len(each),
            RIGHT: sum(result.ended == RIGHT and not result.findings for result in each),
            TYPED: sum(result.ended == TYPED and not result.findings for result in each),
            "found": {name: sum(_has(result, name) for result in each) for name in FINDINGS},
        }
        for kind in KINDS
        for mutation in (NOTHING, *MUTATIONS)
        if (each := [result for result in found if result.case.kind == kind and result.case.mutation == mutation])
    ]


def _has(result: Result, name: str) -> bool:
    return any(finding.kind == name for finding in result.findings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="Run a choice of the cases.")
    parser.add_argument("--only", default="", help="Run only the cases whose name contains this text.")
    parser.add_argument("--operation", default="", help="Run only the operations whose name contains this text.")
    parser.add_argument("--seed", type=int, default=1, help="Of the mutations. Default: 1.")
    parser.add_argument(
        "--part", default="1/1", help="Run only each n-th case: 1/4, 2/4, and so on. Default: 1/1, all."
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=20,
        help="Seconds without computing after which an operation hangs. Default: 20.",
    )
    parser.add_argument(
        "--results", type=Path, help="Keep the results in this file, and run only what is not in it, or has findings."
    )
    parser.add_argument("--write", type=Path, help="Write the table as JSON.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
        found = _found(options, Path(folder))
    counts = Counter(finding.kind for result in found for finding in result.findings)
    table = rows(found)
    for row in table:
        bad = ", ".join(f"{count} {kind}" for kind, count in row["found"].items() if count)
        print(
            f"{row['operations']:5} x {row['kind']}, {row['mutation']}: {row[RIGHT]} right, {row[TYPED]} typed; {bad}"
        )
    datasets = len({result.case for result in found})
    print(f"{len(found)} operations on {datasets} datasets: {dict(counts) or 'nothing found'}")
    if options.write:
        import lightning
        import torch

        versions = {"python": platform.python_version(), "lightning": lightning.__version__, "torch": torch.__version__}
        content = {"versions": versions, "seed": options.seed, "rows": table}
        options.write.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if counts else 0)


def _found(options: argparse.Namespace, folder: Path) -> list[Result]:
    originals, work = folder / "originals", folder / "work"
    originals.mkdir()
    prepare(originals)
    chosen = short(originals, options.seed) if options.short else cases(originals)
    part, _, parts = options.part.partition("/")
    chosen = [case for case in chosen if options.only in case.name][int(part) - 1 :: int(parts)]
    known = _read(options.results)
    found = {(result.case, result.operation): result for result in known}
    todo = [case for case in chosen if not _is_done(case, found, options.operation)]
    for result in results(todo, originals, work, options.seed, options.patience, options.operation):
        found[result.case, result.operation] = result
        if options.results:
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(result)) + "\n")
        for finding in result.findings:
            print(f"{finding.kind}: {result.case.name}: {result.operation}\n    {finding.text}", flush=True)
        if result.where:
            print("      " + result.where.replace("\n", "\n      "), flush=True)
    return list(found.values())


def _is_done(case: Case, found: dict[tuple[Case, str], Result], only: str) -> bool:
    """Return whether each operation on a case has been run, without a finding."""
    known = [found.get((case, operation.name)) for operation in operations(case.kind, only)]
    return all(result is not None and not result.findings for result in known)


def _read(file: Path | None) -> list[Result]:
    """Return the results in a file."""
    lines = file.read_text(encoding="utf-8").splitlines() if file is not None and file.exists() else []
    found = {}
    for value in map(json.loads, lines):
        findings = tuple(Finding(**finding) for finding in value["findings"])
        result = Result(Case(**value["case"]), value["operation"], value["ended"], findings, value["where"])
        found[result.case, result.operation] = result
    return list(found.values())


if __name__ == "__main__":
    main()
