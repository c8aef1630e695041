"""The fault campaign: real trainings that are killed, filled up and cut off, and what must hold after each.

    python tests/fault_campaign.py                          # all of it
    python tests/fault_campaign.py --short                  # a choice, in less than two minutes
    python tests/fault_campaign.py --only "the store"       # the cases whose name contains a text
    python tests/fault_campaign.py --write docs/faults.json

The exit code is 1 if something does not hold. Some faults need the right to mount file systems; without it their cases
are skipped, and listed.
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

# The server of forks, which imports what all processes need, has no other way to know this folder.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("OMP_NUM_THREADS", "1")

from faults.cases import S3, Case, cases, short
from faults.checks import KINDS
from faults.running import Result, judge, prepare
from s3_server import running_s3_server


def rows(results: list[Result]) -> list[dict[str, Any]]:
    """Return the rows of the table: one for each fault, size of the state and place of the datasets."""
    found: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result.case.fault, result.case.state, result.case.place), []).append(result)
    return [
        {
            "fault": fault,
            "state": state,
            "place": place,
            "runs": sum(not result.skipped for result in each),
            "skipped": next((result.skipped for result in each if result.skipped), ""),
            "where": dict(Counter(result.where for result in each if result.where).most_common()),
            "found": {
                kind: sum(any(finding.kind == kind for finding in result.findings) for result in each) for kind in KINDS
            },
        }
        for (fault, state, place), each in found.items()
    ]


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["fault"], row["state"], row["place"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="Run a choice of the cases.")
    parser.add_argument("--only", default="", help="Run only the cases whose name contains this text.")
    parser.add_argument("--seed", type=int, default=1, help="Of the moments at which faults strike. Default: 1.")
    parser.add_argument("--share", type=float, default=1.0, help="How many of the kills to run. Default: 1, all.")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="How many at once. Default: one per core."
    )
    parser.add_argument("--keep", action="store_true", help="Leave the folders, and print where they are.")
    parser.add_argument("--write", type=Path, help="Write the table as JSON. Rows of cases that were not run stay.")
    options = parser.parse_args()
    chosen = short(options.seed) if options.short else cases(options.seed, options.share)
    results = _judged([case for case in chosen if options.only in case.name], options.jobs, options.keep)
    for row in rows(results):
        found = ", ".join(f"{count} {kind}" for kind, count in row["found"].items() if count)
        print(f"{row['runs']:4} x {row['fault']}, {row['state']}, {row['place']}: {found or 'nothing'} {row['where']}")
    counts = Counter(kind for result in results for kind in {finding.kind for finding in result.findings})
    print(f"{len(results)} cases: {dict(counts) or 'nothing found'}")
    if options.write:
        import lightning
        import torch

        versions = {"python": platform.python_version(), "lightning": lightning.__version__, "torch": torch.__version__}
        known = json.loads(options.write.read_text(encoding="utf-8"))["rows"] if options.write.exists() else []
        found = {_key(row): row for row in [*known, *rows(results)]}
        order = list(dict.fromkeys((case.fault, case.state, case.place) for case in cases(options.seed)))
        content = {
            "versions": versions,
            "seed": options.seed,
            "rows": sorted((row for key, row in found.items() if key in order), key=lambda row: order.index(_key(row))),
        }
        options.write.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if counts else 0)


def _judged(chosen: list[Case], jobs: int, keep: bool) -> list[Result]:
    prepare()
    results: dict[Case, Result] = {}
    with contextlib.ExitStack() as stack:
        server = None
        if any(case.place == S3 for case in chosen):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True))
            server = stack.enter_context(running_s3_server(Path(folder)))
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        for future in as_completed([pool.submit(judge, case, server, keep) for case in chosen]):
            result = future.result()
            results[result.case] = result
            said = result.skipped or ("ok" if not result.findings else "")
            print(f"{result.seconds:5.1f} s  {result.case.name} [{result.where}]: {said}", flush=True)
            for finding in result.findings:
                print(f"         {finding.kind}: {finding.text}", flush=True)
    return [results[case] for case in chosen]


if __name__ == "__main__":
    main()
