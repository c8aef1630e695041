"""What may explain a different result although no recorded input differs: what records do not hold."""

import re
from collections.abc import Iterator

from lightning_dtool.record import Provenance
from lightning_dtool.results.differences import INPUTS

_OF_RESULTS = re.compile(r"randomness\.global_seed|data\.order\b.*|.*\.repository", re.DOTALL)


def unrecorded_causes(recorded: Provenance, rerun: Provenance) -> list[str]:
    """Return what neither record can rule out, one line each, the likeliest first. The list is never empty.

    Args:
        recorded: The record of the original checkpoint.
        rerun: The record of its rerun.
    """
    return [*_gaps(recorded, rerun), *_settings(recorded), *_ALWAYS]


_ALWAYS = (
    "files that the script reads itself, apart from the recorded data and modules: they are not recorded",
    "the clock, process ids, the network, and programs that the script runs: what it gets from them is not recorded",
)


def _gaps(recorded: Provenance, rerun: Provenance) -> Iterator[str]:
    """Yield the inputs that are a gap in one of the records. Those that are one in both are unknown differences."""
    reasons = [{gap.fact: gap.reason for gap in record.gaps} for record in (recorded, rerun)]
    for fact in sorted(reasons[0].keys() ^ reasons[1].keys()):
        if INPUTS.fullmatch(fact) and not _OF_RESULTS.fullmatch(fact):
            where = "the recorded training" if fact in reasons[0] else "the rerun"
            yield f"{fact}: not known in {where} ({reasons[0].get(fact, reasons[1].get(fact))})"


def _settings(recorded: Provenance) -> Iterator[str]:
    randomness, flags = recorded.randomness, recorded.randomness.flags
    if randomness.repeatable_by is None:
        yield "randomness.repeatable_by: neither a seed nor recorded states make the training repeatable"
    if flags.get("PYTHONHASHSEED") in (None, "random"):
        yield "randomness.flags.PYTHONHASHSEED: not set, so that the order of sets of texts differs in each process"
    if flags.get("deterministic_algorithms") is not True:
        units = recorded.environment.accelerators or ["the processor"]
        yield (
            "randomness.flags.deterministic_algorithms: not true, so that operations may add in another order each "
            f"time (on {', '.join(dict.fromkeys(units))}); Trainer(deterministic=True) prevents it"
        )
    processes = recorded.trainer.settings.get("world_size", 1)
    if processes != 1:
        yield f"trainer.settings.world_size: {processes} processes, of which only the first has recorded random states"
