"""Facts that two records do not hold, so that they are not known to be the same."""

import re
from collections.abc import Iterator, Sequence

from lightning_dtool.record import DataSource, Provenance
from lightning_dtool.results.differences.difference import Difference

INPUTS = re.compile(
    r"(model|loss|optimizers|schedulers|data|randomness|trainer)\b.*|code\.(files|modules)\b.*"
    r"|environment\.variables_read\b.*",
    re.DOTALL,
)
"""Facts that determine the result of a training."""

_SOURCE = re.compile(r"data\.stages\.\w+\[\d+\](\.(dataset|fingerprint))?")
"""The content of the data, which is compared by UUID, digest and fingerprint."""

_KNOWN_TO_BE_MISSING = re.compile(r"randomness\.global_seed")
"""Facts whose absence is a fact: no seed was set, and the states of the generators are compared."""


def unknown_differences(a: Provenance, b: Provenance, found: Sequence[Difference]) -> list[Difference]:
    """Return the facts that determine a result and of which both records lack so much that they may differ.

    Args:
        a: The first record.
        b: The second record.
        found: The differences between the records. A fact that is known to differ is not unknown.

    Returns:
        Differences of the kind `unknown`. Empty for two checkpoints of one run.
    """
    if a.run.uuid == b.run.uuid:
        return []
    differing = [difference.path for difference in found if difference.weight == "matters"]
    reasons = {gap.fact: gap.reason for gap in a.gaps}
    unknown = dict(_data(a, b))
    for gap in b.gaps:
        fact = gap.fact
        if fact in reasons and INPUTS.fullmatch(fact) and not _is_known(fact, a, b):
            one, two = reasons[fact], gap.reason
            unknown.setdefault(fact, one if one == two else f"{one}; {two}")
    return [
        Difference(fact, "unknown", note=reason, weight="unknown")
        for fact, reason in unknown.items()
        if not any(re.match(rf"{re.escape(fact)}($|[.\[])", path) for path in differing)
    ]


def _is_known(fact: str, a: Provenance, b: Provenance) -> bool:
    if fact == "data.order":  # without a digest of it, it follows from the random numbers
        sources = {record.randomness.repeatable_by for record in (a, b)}
        return len(sources) == 1 and None not in sources
    return bool(_SOURCE.fullmatch(fact) or _KNOWN_TO_BE_MISSING.fullmatch(fact))


def _data(a: Provenance, b: Provenance) -> Iterator[tuple[str, str]]:
    """Yield the sources of data of which at least one record does not hold the whole content, with the reason."""
    reasons = {gap.fact: gap.reason for record in (a, b) for gap in record.gaps}
    for stage, sources in a.data.stages.items():
        for index, (one, two) in enumerate(zip(sources, b.data.stages.get(stage, []), strict=False)):
            place = f"data.stages.{stage}[{index}]"
            if not (_is_whole(one) and _is_whole(two)) and _identity(one) == _identity(two):
                unknown = reasons.get(place, "its content is not recorded")
                yield place, reasons.get(f"{place}.fingerprint", reasons.get(f"{place}.dataset", unknown))
    for place in ("data", "data.stages.train"):
        if place in reasons and not (a.data.stages.get("train") or b.data.stages.get("train")):
            yield place, reasons[place]


def _is_whole(source: DataSource) -> bool:
    """Return whether the record identifies all of the content."""
    return source.fingerprint_complete is True or (source.dataset is not None and source.fingerprint_complete is None)


def _identity(source: DataSource) -> tuple[str | None, ...]:
    return (source.dataset.content_digest if source.dataset else None, source.class_path, source.fingerprint)
