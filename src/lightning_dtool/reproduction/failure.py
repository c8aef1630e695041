"""The error for a rerun that produced no checkpoint, with its cause."""

from collections.abc import Sequence
from pathlib import Path

from lightning_dtool.errors import ReproductionError, ReproductionErrorKind
from lightning_dtool.reproduction.process import Event, Outcome
from lightning_dtool.reproduction.refusals import (
    is_related,
    named_paths,
    network_reason,
    reason_without_path,
    refused_hosts,
    refused_writes,
    write_reason,
)
from lightning_dtool.rerun import Plan, Target
from lightning_dtool.store import local_path

LAST_LINES = 15
"""The number of lines, at the end of the output, that an error keeps."""


def failure(
    outcome: Outcome, plan: Plan, log: Path, timeout: float | None, folder: Path, notes: Sequence[str] = ()
) -> ReproductionError:
    """Return the error for a rerun that produced no checkpoint.

    Args:
        outcome: How its process ended.
        plan: Its plan.
        log: The file with its output.
        timeout: The seconds that it was allowed to take; None for no limit.
        folder: The folder of its source. Paths in it are shown relative to it.
        notes: Remarks for the result.
    """
    output = _tail(log)
    refused = [*refused_writes(outcome), *named_paths(output, plan.writable)]
    found = _refused(outcome, plan, refused)
    if found is None:
        kind, reason = _cause(outcome, plan.target, timeout, folder)
        if refused and kind == "failed":
            reason += f"\nIt was also kept from writing: {write_reason(refused[0], _held(plan))}"
        if kind in ("failed", "not_reached", "timed_out") and (hosts := refused_hosts(outcome)):
            reason += f"\nIt was also kept from the network: {network_reason(hosts)}"
        found = kind, reason
    return ReproductionError(found[1], kind=found[0], output=output, notes=notes)


def _refused(outcome: Outcome, plan: Plan, refused: list[str]) -> tuple[ReproductionErrorKind, str] | None:
    """Return the cause if it is that the rerun was not allowed to write or to connect; else None."""
    unprotected = outcome.last("unprotected")
    if unprotected is not None:
        return "unprotected", f"it was not started, because it could not be protected: {unprotected.get('reason')}"
    if outcome.timed_out or outcome.exit_code < 0:
        return None
    error = outcome.last("error") or {}
    chain = [entry for entry in error.get("chain", []) if isinstance(entry, dict)]
    for entry in chain:
        if entry.get("refused"):
            return "refused_write", write_reason(str(entry["refused"]), _held(plan))
        if entry.get("disconnected"):
            return "refused_network", network_reason(refused_hosts(outcome))
    # The script may have ignored that it could not remove, make or write a file, and failed later because of that.
    named = [str(entry["filename"]) for entry in chain if entry.get("filename")]
    by_command = any(entry.get("type") == "CalledProcessError" for entry in chain)
    messages = [str(entry.get("message")) for entry in chain]
    likely = named_paths(messages, plan.writable)
    likely += [path for path in refused if is_related(path, named)]
    if not likely and (by_command or not chain) and outcome.last("started") is not None:
        likely = refused
    if likely:
        return "refused_write", write_reason(likely[0], _held(plan))
    without_path = reason_without_path(messages) if plan.writable is not None else None
    return ("refused_write", without_path) if without_path is not None else None


def _held(plan: Plan) -> list[str]:
    """Return the local folders of the original and of the datasets that a rerun reads."""
    uris = [str(plan.original.get("uri", "")), *plan.uris.values(), *plan.data.values()]
    return [path for uri in uris if uri.startswith("file:") and (path := str(local_path(uri)))]


def _tail(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 20_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line[:300] for line in text.splitlines() if line.strip()][-LAST_LINES:]


def _cause(outcome: Outcome, target: Target, timeout: float | None, folder: Path) -> tuple[ReproductionErrorKind, str]:
    if outcome.timed_out:
        return "timed_out", f"it did not reach the checkpoint within {timeout:g} seconds. Allow more time: --timeout"
    error = outcome.last("error")
    if error is not None:
        return _of_chain(error, folder)
    if outcome.exit_code < 0:
        return "killed", f"signal {-outcome.exit_code} ended its process (9 is often a lack of memory)"
    if outcome.last("started") is None:
        return "not_started", f"its process could not start (exit code {outcome.exit_code})"
    fits = [event for event in outcome.events if event["event"] == "fit"]
    if any(event.get("in_pool") for event in fits) and outcome.last("end") is None:
        return "not_reached", (
            f"the processes that the script started made {len(fits)} recorded fits, and none of them has the arguments "
            "and the data of the recorded one"
        )
    if not any(event.get("is_target") for event in fits):
        return "not_reached", (
            f"the code that ran made {len(fits)} recorded fits, but not the one that saved the checkpoint (number "
            f"{target.fit_index or 0}, from 0). Is DtoolProvenanceCallback still among the Trainer's callbacks?"
        )
    last = outcome.last("end") or outcome.last("epoch")
    reached = f"epoch {last.get('epoch')}, step {last.get('global_step')}" if last else "its first epoch"
    return "not_reached", (
        f"training ended at {reached}, before the moment of the checkpoint (epoch {target.epoch}, step "
        f"{target.global_step}, {target.filename}). Exit code {outcome.exit_code}"
    )


def _of_chain(error: Event, folder: Path) -> tuple[ReproductionErrorKind, str]:
    """Return the most specific error of a chain: a missing file often causes a less specific error."""
    chain = [entry for entry in error.get("chain", []) if isinstance(entry, dict)]
    for entry in chain:
        if entry.get("type") in ("FileNotFoundError", "NotADirectoryError") and entry.get("filename"):
            shown = str(entry["filename"]).removeprefix(f"{folder}/")
            return "missing_file", (
                f"it reads a file that is missing: {shown}. Only imported Python files are recorded: keep data in "
                "dtool datasets, or use an absolute path."
            )
        if entry.get("type") == "ModuleNotFoundError" and entry.get("module"):
            return "missing_module", (
                f"the module {entry['module']!r} is not installed. Install it, or create an environment with the "
                "recorded packages: --env create"
            )
        if entry.get("type") == "DatasetNotFoundError":
            return "missing_dataset", f"it reads a dataset that is missing: {entry.get('message')}"
    first = chain[0] if chain else {"type": "an error", "message": ""}
    return "failed", f"it ended with {first.get('type')}: {first.get('message')}"
