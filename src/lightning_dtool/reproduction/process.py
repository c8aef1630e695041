"""The child process of a rerun, which always ends with its parent."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GRACE = 300.0
"""The seconds that a process has to end by itself after it has published the checkpoint."""

SHORT_GRACE = 10.0
"""The seconds that it has after its last report: a launcher may wait forever for a process that has ended."""

Event = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes:
        exit_code: Its exit code; negative for a signal.
        events: The events that it reported.
        timed_out: Whether it exceeded its time limit.
        seconds: Its duration.
    """

    exit_code: int
    events: list[Event] = field(default_factory=list)
    timed_out: bool = False
    seconds: float = 0.0

    def last(self, name: str) -> Event | None:
        """Return the last event of that name."""
        return next((event for event in reversed(self.events) if event.get("event") == name), None)


def run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    report: Path,
    on_event: Callable[[Event], None],
    timeout: float | None = None,
) -> Outcome:
    """Run a process to its end.

    Args:
        command: The command.
        folder: Its working directory.
        environment: Its environment variables.
        log: The file for its output.
        report: The file to which it appends events.
        on_event: Called with each event.
        timeout: The time limit in seconds; None for no limit.
    """
    began = time.monotonic()
    events: list[Event] = []
    report.touch()
    with log.open("ab") as output, report.open(encoding="utf-8") as reported:
        # The child has its own session: all of its processes can be ended together, and Ctrl-C reaches only the parent.
        process = subprocess.Popen(  # noqa: S603  # the user has asked for it
            list(command),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        timed_out, deadline = False, None
        rest = ""
        try:
            while True:
                running = process.poll() is None
                lines = (rest + reported.read()).split("\n")
                rest = lines.pop()
                for event in _events(lines):
                    events.append(event)
                    on_event(event)
                    if event["event"] in ("target", "done"):
                        deadline = time.monotonic() + (GRACE if event["event"] == "target" else SHORT_GRACE)
                if not running:
                    break
                timed_out = timeout is not None and deadline is None and time.monotonic() - began > timeout
                if timed_out or (deadline is not None and time.monotonic() > deadline):
                    break
                time.sleep(0.05)
        finally:
            end(process)
    return Outcome(process.returncode, events, timed_out, time.monotonic() - began)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all processes in its group."""
    for sent in ("SIGTERM", "SIGKILL"):
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, getattr(signal, sent))
            elif process.poll() is None:
                process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
            if sent == "SIGTERM":
                # Processes that it started may remain in its group.
                continue
    process.wait()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End the block on SIGTERM as on Ctrl-C, so that child processes and temporary folders are cleaned up."""

    def stop(number: int, _: Any) -> None:
        sys.exit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # only the main thread can set signal handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _events(lines: Sequence[str]) -> Iterator[Event]:
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # the training may write to this file as well
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            yield event
