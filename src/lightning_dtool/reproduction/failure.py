"""Why a rerun gave no checkpoint, in one sentence that names what is missing."""

from pathlib import Path

from lightning_dtool.reproduction.process import Event, Outcome
from lightning_dtool.rerun import Target

LAST_LINES = 15
"""Lines of the log that an explanation ends with."""


def explain(outcome: Outcome, target: Target, log: Path, timeout: float | None, folder: Path) -> str:
    """Say why.

    Args:
        outcome: How the process ended.
        target: What it should have reached.
        log: Its output.
        timeout: Seconds that it had.
        folder: Where its source was; named paths are shown as seen from there.
    """
    text = _reason(outcome, target, timeout, folder)
    lines = tail(log)
    return f"{text}\nThe last lines of its output:\n" + "\n".join(f"  {line}" for line in lines) if lines else text


def tail(log: Path) -> list[str]:
    """Return the last lines of a log."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 20_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line[:300] for line in text.splitlines() if line.strip()][-LAST_LINES:]


def _reason(outcome: Outcome, target: Target, timeout: float | None, folder: Path) -> str:
    if outcome.timed_out:
        return f"it did not reach the checkpoint within {timeout:g} seconds. Give it more time: --timeout"
    error = outcome.last("error")
    if error is not None:
        return _of_chain(error, folder)
    if outcome.exit_code < 0:
        return f"its process was ended by signal {-outcome.exit_code} (9: killed, perhaps for want of memory)"
    if outcome.last("started") is None:
        return f"its process could not begin (exit code {outcome.exit_code})"
    fits = [event for event in outcome.events if event["event"] == "fit"]
    if not any(event.get("is_target") for event in fits):
        return (
            f"the code that ran made {len(fits)} recorded fits and not the one that saved the checkpoint (number "
            f"{target.fit_index or 0}, from 0): is DtoolProvenanceCallback still among the Trainer's callbacks?"
        )
    where = outcome.last("end") or outcome.last("epoch")
    reached = f"epoch {where.get('epoch')}, step {where.get('global_step')}" if where else "its first epoch"
    return (
        f"training ended at {reached} and never came to the moment of the checkpoint (epoch {target.epoch}, step "
        f"{target.global_step}, {target.filename}). Exit code {outcome.exit_code}"
    )


def _of_chain(error: Event, folder: Path) -> str:
    """Return the most telling error of a chain: the missing file behind the message that hides it."""
    chain = [entry for entry in error.get("chain", []) if isinstance(entry, dict)]
    for entry in chain:
        if entry.get("type") in ("FileNotFoundError", "NotADirectoryError") and entry.get("filename"):
            name = str(entry["filename"])
            shown = name.removeprefix(f"{folder}/")
            remedy = "Only imported Python files are recorded: keep data in dtool datasets, or give an absolute path."
            return f"a file that it reads is not here: {shown}. {remedy}"
        if entry.get("type") == "ModuleNotFoundError" and entry.get("module"):
            return (
                f"the module {entry['module']!r} is not installed here. Install it, or let an environment be made: "
                "--env create"
            )
        if entry.get("type") == "DatasetNotFoundError":
            return f"a dataset is not here: {entry.get('message')}"
    first = chain[0] if chain else {"type": "an error", "message": ""}
    return f"it ended with {first.get('type')}: {first.get('message')}"
