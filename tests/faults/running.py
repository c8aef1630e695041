"""One case from its arrangement to its verdict."""

import functools
import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

from faults import checks, processes
from faults.arranging import Arrangement, CannotBeArranged, arranged
from faults.cases import FULL_DISK, KILL_ALL, KILL_AT, KILLS, TROUBLE_AT_PATHS, Case
from faults.checks import FAILED, HANGING, LEFT, LOST, Finding, Held
from faults.ledger import Ledger
from faults.links import LINKS
from faults.plan import EVERY, Plan
from s3_server import S3Server

_PATIENCE = 120.0
"""Seconds after which a training that takes some two seconds alone is said to hang."""

_FOR_A_WHILE = 3.0
"""Seconds that a fault on the way to a store lasts, if it ends by itself."""

_SOON = 20.0
"""Seconds within which a child process of a killed training ends."""

_forks = multiprocessing.get_context("forkserver")
_starting = threading.Lock()


@dataclass
class Result:
    """What one case has shown.

    Attributes:
        case: The case.
        findings: What did not hold.
        where: What the training was doing when it was killed, if it was.
        seconds: How long the case took.
        skipped: Why the case could not be arranged, or "".
    """

    case: Case
    findings: list[Finding] = field(default_factory=list)
    where: str = ""
    seconds: float = 0.0
    skipped: str = ""


@dataclass(frozen=True)
class Baseline:
    """A training to which nothing happens: its seconds from the first step to the end, and its file operations."""

    seconds: float
    operations: int


def prepare() -> None:
    """Let processes begin with torch and this package imported."""
    _forks.set_forkserver_preload(["faults.children"])


def judge(case: Case, server: S3Server | None, keep: bool = False) -> Result:
    """Run a case.

    Args:
        case: The case.
        server: The S3 server. None if there is none.
        keep: Leave its folders.
    """
    begun = time.monotonic()
    try:
        with arranged(case, server, keep) as arrangement:
            result = _Run(case, arrangement, server).judged()
            if keep:
                print(f"{case.name}: {arrangement.plan.folder}", flush=True)
    except CannotBeArranged as error:
        result = Result(case, skipped=str(error))
    result.seconds = time.monotonic() - begun
    return result


class _Run:
    def __init__(self, case: Case, arrangement: Arrangement, server: S3Server | None) -> None:
        self.case, self.arrangement, self.server = case, arrangement, server
        self.plan = arrangement.plan
        self.relieved = False
        self.result = Result(case)

    def judged(self) -> Result:
        if self.case.fault == KILL_AT:
            self.plan = replace(self.plan, at=int(self.case.moment * self.baseline().operations))
        code = self.train()
        if not self.relieved:
            self.arrangement.relieve()
        ledger = Ledger.read(self.plan.ledger_file)
        self.check_end(code, ledger)
        held = self.examine("killed", ledger.begun)
        certain = self.certain(ledger)
        self.add(checks.check_kept(held.paths, certain, self.plan.kept, self.plan.has_last))
        self.check_newest(held, ledger)
        if self.case.recovers_first:
            held = self.recover(held, ledger.begun)
        next_ledger = self.go_on(held, certain)
        saved = [*ledger.begun, *next_ledger.begun]
        after = self.examine("next", saved)
        self.add(checks.check_nothing_gone(held.datasets, after.datasets, "the next run"))
        if not self.case.recovers_first:
            self.recover(after, saved)
        return self.result

    def add(self, findings: list[Finding]) -> None:
        self.result.findings += findings

    # -- the training ---------------------------------------------------------------------------

    def train(self) -> int | None:
        process = _start("train", self.plan, "train.log")
        if self.case.fault in KILLS and self.case.fault != KILL_AT:
            self.kill_in_time(process)
        elif self.case.fault in LINKS:
            self.strike_in_time(process)
        return self.wait(process, "training")

    def baseline(self) -> Baseline:
        return baseline(self.server, self.case.state, self.case.policy, self.case.retention, self.case.place)

    def strike_in_time(self, process: Any) -> None:
        at = self.case.step(self.plan.steps)
        while process.is_alive() and not any(step >= at - EVERY for step in Ledger.read(self.plan.ledger_file).begun):
            time.sleep(0.005)
        self.arrangement.strike()
        if self.case.ends:
            process.join(_FOR_A_WHILE)
            self.arrangement.relieve()
            self.relieved = True

    def kill_in_time(self, process: Any) -> None:
        known = self.baseline()
        deadline = time.monotonic() + _PATIENCE
        while Ledger.read(self.plan.ledger_file).resumed is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(self.case.moment * known.seconds)
        trace = self.plan.folder / "trace.txt"
        try:
            os.kill(process.pid, signal.SIGUSR1)
            until = time.monotonic() + 0.05
            while (not trace.exists() or not trace.stat().st_size) and time.monotonic() < until:
                time.sleep(0.0005)
            time.sleep(0.002)  # it is written piece by piece
            if self.case.fault == KILL_ALL:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.result.where = _doing(trace.read_text()) if trace.exists() else ""

    def wait(self, process: Any, what: str) -> int | None:
        process.join(_PATIENCE)
        code = process.exitcode
        if code is None:
            self.result.findings.append(Finding(HANGING, f"{what} had not ended after {_PATIENCE:.0f} s"))
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        if left := processes.wait_until_gone(process.pid, _SOON):
            self.result.findings.append(Finding(LEFT, f"{len(left)} processes of {what}"))
            os.killpg(process.pid, signal.SIGKILL)
        if names := processes.shared_memory_of(process.pid):
            self.result.findings.append(Finding(LEFT, f"{names} in /dev/shm"))
        return code

    def check_end(self, code: int | None, ledger: Ledger) -> None:
        # Before a kill, faulthandler writes what the threads do, at SIGUSR1. It reads them while they run, and may
        # crash, and it is no longer there when the interpreter ends.
        killed = {-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGUSR1, 0}
        expected = killed if self.case.fault in KILLS else _EXPECTED.get(self.case.fault, {0})
        if code is not None and code not in expected:
            self.result.findings.append(Finding(FAILED, f"exit code {code}\n{self.log('train.log')}"))
        if expected == {0} and self.case.fault != "SIGTERM" and not ledger.ended:
            self.result.findings.append(Finding(FAILED, f"training ended at {ledger.returned}"))
        trace = self.plan.folder / "killed.txt"
        if trace.exists():
            self.result.where = _doing(trace.read_text())

    # -- what must hold -------------------------------------------------------------------------

    def certain(self, ledger: Ledger) -> list[int]:
        """Return the steps that Lightning's paths must hold, as far as the policy keeps them."""
        in_flight = 1 if self.plan.state == "large" else 0
        if ledger.struck is None or self.case.fault not in TROUBLE_AT_PATHS:
            return ledger.certain(in_flight)
        if self.case.fault.endswith("is deleted"):
            return [step for step in ledger.certain(in_flight) if step > ledger.struck]
        before = [step for step in ledger.returned if step < ledger.struck]
        return before[: len(before) - in_flight]

    def check_newest(self, held: "Examined", ledger: Ledger) -> None:
        """Check that a path or a dataset holds the newest checkpoint that must be whole."""
        steps = ledger.certain(in_flight=1 if self.plan.state == "large" else 0)
        newest = max([*held.paths.values(), *held.datasets.values()], default=0)
        if self.case.fault == FULL_DISK:
            steps = self.certain(ledger)
        elif self.case.fault in TROUBLE_AT_PATHS and not ledger.ended:
            steps = steps[:-1]  # its dataset may have been on its way
        if steps and newest < max(steps):
            text = f"step {max(steps)} was saved; paths {held.paths}, datasets {held.datasets}"
            self.result.findings.append(Finding(LOST, text))

    def examine(self, when: str, saved: list[int]) -> "Examined":
        """Check, in a process of its own, what the paths and the store hold."""
        process = _start("examine", self.plan, "examine.log", when, saved)
        code = self.wait(process, "examining")
        file = self.plan.folder / f"{when}.json"
        if not file.exists():
            self.result.findings.append(Finding(FAILED, f"examining: exit code {code}\n{self.log('examine.log')}"))
            return Examined({}, {})
        found = json.loads(file.read_text())
        self.add([Finding(**finding) for finding in found["findings"]])
        return Examined(found["paths"], found["datasets"])

    def go_on(self, held: "Examined", certain: list[int]) -> Ledger:
        steps = self.plan.steps + EVERY
        plan = replace(
            self.plan,
            ckpt_path="last",
            steps=steps,
            ledger="next.jsonl",
            fault="",
            with_callback=self.case.next_records,
        )
        code = self.wait(_start("train", plan, "next.log"), "the next run")
        ledger = Ledger.read(plan.ledger_file)
        if code:
            self.result.findings.append(Finding(FAILED, f"the next run: exit code {code}\n{self.log('next.log')}"))
        self.add(checks.check_resumed(ledger.resumed, held.paths, certain, self.plan.has_last))
        return ledger

    def recover(self, before: "Examined", saved: list[int]) -> "Examined":
        code = self.wait(_start("recover", self.plan, "recover.log"), "recover")
        if code:
            self.result.findings.append(Finding(FAILED, f"recover: exit code {code}\n{self.log('recover.log')}"))
        after = self.examine("recovered", saved)
        self.add(checks.check_nothing_gone(before.datasets, after.datasets, "recover"))
        self.add(checks.check_nothing_gone(before.paths, after.paths, "recover"))
        self.add(checks.check_nothing_left(self.arrangement.left(after.datasets), self.plan.paths, self.plan.temporary))
        return after

    def log(self, name: str) -> str:
        file = self.plan.folder / name
        return file.read_text(errors="replace").strip()[-600:] if file.exists() else ""


_EXPECTED: dict[str, set[int]] = {
    "an exception in user code": {1},
    "os._exit": {3},
    "Ctrl-C twice": {0, 1, -signal.SIGINT},
    # As in Lightning, which has nowhere to write.
    FULL_DISK: {0, 1},
}


@dataclass(frozen=True)
class Examined:
    """What the paths and the store hold: steps by path, and by URI."""

    paths: Held
    datasets: Held


@functools.cache
def _lock_of(*setting: str) -> threading.Lock:
    return threading.Lock()


_known: dict[tuple[str, ...], Baseline] = {}


def baseline(server: S3Server | None, *setting: str) -> Baseline:
    """Return how long a training takes to which nothing happens, and how many file operations it makes."""
    with _lock_of(*setting):
        if setting not in _known:
            _known[setting] = _measured(Case("nothing", *setting), server)
        return _known[setting]


def _measured(case: Case, server: S3Server | None) -> Baseline:
    with arranged(case, server) as arrangement:
        plan = arrangement.plan
        process = _start("train", plan, "train.log")
        while Ledger.read(plan.ledger_file).resumed is None and process.is_alive():
            time.sleep(0.005)
        begun = time.monotonic()
        process.join(_PATIENCE)
        ledger = Ledger.read(plan.ledger_file)
        if process.exitcode:
            raise RuntimeError(f"a training without a fault failed:\n{(plan.folder / 'train.log').read_text()}")
        return Baseline(time.monotonic() - begun, ledger.operations)


def _start(what: str, plan: Plan, log: str, *arguments: Any) -> Any:
    from faults.children import child

    with _starting:
        process = _forks.Process(target=child, args=(what, plan, log, *arguments))
        process.start()
        # Each start asks all other children whether they have ended. The thread that waits for one would then find that
        # its exit code is already read, and take 255 for it.
        multiprocessing.process._children.discard(process)
    return process


_WORDS = (
    ("retiring", ("retiring.py", "delete_dataset", "remove_checkpoint", "removing")),
    ("freezing", ("freezing.py", "commit")),
    ("hashing", ("hashing_writer.py", "hashing_file.py", "digest")),
    ("writing", ("writer.py", "write_dataset", "disk.py", "metadata.py")),
    ("filling a path", ("linking.py", "fill")),
    ("tagging", ("on_flushed", "put_tag", "put_annotation", "run_status")),
    ("saving", ("save_checkpoint", "dump_checkpoint")),
    ("ending", ("teardown", "_shutdown", "on_train_end")),
)
"""What a program is doing, and words in its stacks that say so. The first of these that is found counts."""


def _doing(trace: str) -> str:
    for doing, words in _WORDS:
        if any(word in trace for word in words):
            return doing
    return "training"
