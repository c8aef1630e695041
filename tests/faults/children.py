"""What a process of the campaign does. The server of forks imports this module once."""

import faulthandler
import json
import signal
from pathlib import Path
from typing import Any

from faults import checks, training
from faults.plan import Plan


def child(what: str, plan: Plan, log: str, *arguments: Any) -> None:
    """Do one thing, in a process of its own."""
    with training.begun(plan, log):
        if what == "train":
            with open(plan.folder / "trace.txt", "w") as trace:
                faulthandler.register(signal.SIGUSR1, trace, all_threads=True)
                training.train(plan)
        elif what == "recover":
            training.recover(plan)
        else:
            _examine(plan, *arguments)


def _examine(plan: Plan, when: str, saved: list[int]) -> None:
    paths, findings = checks.check_paths(plan.paths, saved)
    datasets, wrong = {}, []
    if not plan.base_uri.startswith("file://") or Path(plan.base_uri.removeprefix("file://")).is_dir():
        verified = plan.folder / "verified.json"
        known = json.loads(verified.read_text()) if verified.exists() else {}
        datasets, wrong = checks.check_datasets(plan.base_uri, saved, known)
        verified.write_text(json.dumps(known))
    content = {
        "paths": paths,
        "datasets": datasets,
        "findings": checks.as_json([*findings, *wrong]),
    }
    (plan.folder / f"{when}.json").write_text(json.dumps(content))
