"""The resume matrix: uninterrupted runs compared bit for bit with runs that were stopped and resumed.

Each case is a training without interruption, and one that is stopped where the case says and resumed from the dataset
of its checkpoint, with new objects. All that a checkpoint holds at the end of training is compared, as by
`lightning-dtool reproduce --from`, and the metrics and the order of the samples of each epoch. `resume_cases/` defines
the cases.

    python tests/resume_matrix.py                                # run all, one process per core
    python tests/resume_matrix.py --only "inside an epoch"       # run some
    python tests/resume_matrix.py --kinds                        # trainings with state that Lightning does not save
    python tests/resume_matrix.py --write docs/resume/newest.json
"""

import argparse
import json
import logging
import multiprocessing
import os
import platform
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightning_dtool.errors import ProvenanceWarning
from resume_cases.case import ITS_OWN, SILENT, Case
from resume_cases.data import DATA
from resume_cases.kinds import KINDS
from resume_cases.models import MODELS
from resume_cases.running import judge, train
from resume_cases.stops import STOPS


def cases() -> list[Case]:
    """Return every row of the table."""
    rows = [Case(where, data) for where in STOPS for data in DATA]
    some = ("end of epoch", "end of validation", "val_check_interval=0.5, mid-epoch", "inside an epoch", "SIGTERM")
    rows += [Case(where, data, workers=workers) for workers in ("2", "persistent") for where in some for data in DATA]
    rows += [Case(where, model=model) for model in MODELS for where in STOPS if model != "dropout and batch norm"]
    rows += [Case(where, data, processes=2) for where in STOPS for data in ("DtoolDataModule", "DataLoader")]
    augmented = "DtoolDataModule, random augmentation"
    rows += [Case(where, augmented, workers="2", processes=2) for where in some]
    rows += kinds()
    return [row for row in dict.fromkeys(rows) if _makes_sense(row)]


def kinds() -> list[Case]:
    """Return the rows of the trainings that keep state where Lightning does not save it."""
    return [
        Case(where, ITS_OWN if training.data else "DtoolDataModule", name)
        for name, training in KINDS.items()
        for where in ("end of epoch", "inside an epoch")
    ]


def _makes_sense(case: Case) -> bool:
    if case.model in ("ReduceLROnPlateau on validation", "EarlyStopping"):
        return "no validation" not in case.where
    if case.model == "gradient accumulation":  # no checkpoint is saved at a batch without an optimizer step
        return "validation due" not in case.where
    if case.model == "EMA weight averaging":
        import lightning.pytorch.callbacks as callbacks

        return hasattr(callbacks, "EMAWeightAveraging")
    return True


def prepare() -> None:
    """Let results depend on nothing but the case, and print nothing."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the workers of loaders, as in a script
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def judged(wanted: list[Case], jobs: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of cases, as soon as they are known."""
    groups: dict[Case, list[Case]] = {}
    for case in wanted:  # cases that differ only in the stop share an uninterrupted run, which their process keeps
        groups.setdefault(replace(case, where=""), []).append(case)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=prepare) as pool:
        for future in as_completed([pool.submit(_judge_all, group) for group in groups.values()]):
            yield from future.result()


def _judge_all(group: list[Case]) -> list[dict[str, Any]]:
    return [judge(case) for case in group]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="Run only the cases whose name contains this text.")
    parser.add_argument(
        "--kinds", action="store_true", help="Run only trainings with state that Lightning does not save."
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="How many processes. Default: one per core.")
    parser.add_argument(
        "--write",
        type=Path,
        help="Write the results as JSON for the documentation. Rows of cases that were not run are kept.",
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        prepare()
        warnings.simplefilter("always", ProvenanceWarning)
        case, folder, *rest = json.loads(options.child)
        train(Case(**case), Path(folder), *rest)
        return
    rows = []
    chosen = kinds() if options.kinds else cases()
    for row in judged([case for case in chosen if options.only in case.name], options.jobs):
        rows.append(row)
        name = Case(**{field: row[field] for field in Case.__annotations__}).name
        print(f"{row['verdict']:24} {name}: {', '.join(row['differing'])}", flush=True)
    counts = Counter(row["verdict"] for row in rows)
    print(dict(counts))
    if options.write:
        versions = {"python": platform.python_version(), "lightning": L.__version__, "torch": torch.__version__}
        known = json.loads(options.write.read_text(encoding="utf-8")) if options.write.exists() else {}
        found = {_key(row): row for row in [*known.get("rows", []), *known.get("kinds", []), *rows]}
        kept = [found[key] for key in map(_key, map(asdict, cases())) if key in found]
        content = {
            "versions": versions,
            "kinds": [row for row in kept if row["model"] in KINDS],
            "rows": [row for row in kept if row["model"] not in KINDS],
        }
        options.write.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if counts[SILENT] or counts["failed"]:
        raise SystemExit(1)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in Case.__annotations__)


if __name__ == "__main__":
    main()
