"""A proof that a run resumes exactly: it goes on from an earlier checkpoint to a later one, which is compared."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_dtool.errors import ConfigurationError
from lightning_dtool.items import CHECKPOINT_ITEM
from lightning_dtool.loading.weights import load_safely, state_dict_of
from lightning_dtool.record import Provenance
from lightning_dtool.reproduction.original import MAX_GENERATIONS, Original
from lightning_dtool.reproduction.states import compare_states
from lightning_dtool.results.checklist.findings import counted
from lightning_dtool.results.comparison import Comparison
from lightning_dtool.results.reproduction import ResumeProof, Verdict
from lightning_dtool.store import Addresses
from lightning_dtool.store.locating import find
from lightning_dtool.values.digests import state_digest

MAX_DIFFERENCES = 1000
"""The largest number of differences that are kept."""


def check_earlier(earlier: Original, later: Original, search: Sequence[str], addresses: Addresses) -> None:
    """Refuse a checkpoint from which the recorded run did not go on to a later one.

    Args:
        earlier: The checkpoint from which to go on.
        later: The checkpoint whose training is recorded.
        search: Base URIs to search for the checkpoints from which the recorded run resumed.
        addresses: Decides which addresses of the records are opened.

    Raises:
        ConfigurationError: If the first is of another run, was not saved before the second, or holds only weights.
        DatasetNotFoundError: If a checkpoint from which the recorded run resumed is not found.
    """
    if earlier.record.checkpoint.weights_only:
        raise ConfigurationError(
            "expected a checkpoint from which training can resume, found one with weights only "
            "(ModelCheckpoint(save_weights_only=True)).",
            uri=earlier.uri,
        )
    last = later
    for _ in range(MAX_GENERATIONS):
        if last.record.run.uuid == earlier.record.run.uuid:
            _check_order(earlier, last, same=last is not later)
            return
        parent = last.record.lineage.parent_checkpoint
        if parent is None or not last.record.lineage.resumed:
            break
        if parent.uuid == earlier.dataset.uuid:
            raise ConfigurationError(
                f"the run that saved {later.uri} itself resumed here, and going on from here only repeats that "
                "(--from parent). Expected another checkpoint, at which the run was not stopped.",
                uri=earlier.uri,
            )
        digest = parent.content_digest
        last = Original(find(parent.uri, parent.uuid, content_digest=digest, search=search, addresses=addresses))
    raise ConfigurationError(
        f"expected an earlier checkpoint of the run that saved {later.uri} (run {later.record.run.uuid}), found one of "
        f"another run ({earlier.record.run.uuid}).",
        uri=earlier.uri,
    )


def _check_order(earlier: Original, later: Original, same: bool) -> None:
    """Refuse a checkpoint that was not saved before another of its run.

    Args:
        earlier: The checkpoint that should be the earlier one.
        later: The other.
        same: Whether both may be of the same moment.
    """
    one, two = _progress(earlier.record), _progress(later.record)
    if one > two or (one == two and earlier.record.checkpoint.saved_at > later.record.checkpoint.saved_at):
        raise ConfigurationError(
            f"expected a checkpoint that was saved before {later.uri} ({_moment(later.record)}), found one of "
            f"{_moment(earlier.record)}.",
            uri=earlier.uri,
        )
    if one == two and not same and _loops(earlier) == _loops(later):
        raise ConfigurationError(
            f"expected a checkpoint that was saved before {later.uri}, found one of the same moment "
            f"({_moment(later.record)}): nothing was trained between them.",
            uri=earlier.uri,
        )


def prove(
    earlier: Original, later: Original, again: Original, comparison: Comparison, doubts: Sequence[str]
) -> tuple[Verdict, str, ResumeProof]:
    """Compare all states of a recorded checkpoint with those of a run that resumed earlier.

    Args:
        earlier: The checkpoint from which the second run resumed.
        later: The recorded checkpoint.
        again: The checkpoint of the resumed run.
        comparison: The comparison of both.
        doubts: The reasons in the warning at the resume, among them those that the record of `earlier` gives.

    Returns:
        The verdict, the reason for it, and what differs.
    """
    recorded, found = _content(later), _content(again)
    only_weights = later.record.checkpoint.weights_only
    if only_weights:  # the rerun may have saved more
        recorded, found = ({"state_dict": state_dict_of(each, later.uri)} for each in (recorded, found))
    differences = compare_states(recorded, found)
    proof = ResumeProof(
        earlier.reference, tuple(dict.fromkeys(doubts)), tuple(differences[:MAX_DIFFERENCES]), len(differences)
    )
    trained = f"resumed at {_moment(earlier.record)} and compared at {_moment(later.record)}"
    outcomes = [
        name
        for name, part in (("metrics of the record", comparison.metrics), ("order of the samples", comparison.order))
        if part.agreement == "different"
    ]
    weights = counted(len(recorded["state_dict"]), "weight tensor")
    if not differences and not outcomes:
        what = f"every bit of the {weights}" + ("" if only_weights else ", and of all other states,")
        reason = f"{trained}: {what} is the same"
        if only_weights:
            reason += ". The recorded checkpoint holds no other states"
        if proof.announced:
            reason += ". What was announced made no difference here"
        return Verdict.RESUME_EXACT, reason, proof
    parts = Counter(difference.part for difference in differences)
    listed = ", ".join([*(f"{part} ({number})" for part, number in parts.items()), *outcomes])
    known = "" if proof.announced else ". Nothing announced it"
    return Verdict.DIFFERENT, f"{trained}, the resumed run is another one: {listed} differ{known}", proof


def _content(checkpoint: Original) -> Mapping[str, Any]:
    content = load_safely(checkpoint.path(CHECKPOINT_ITEM), uri=checkpoint.uri)
    state_dict_of(content, checkpoint.uri)  # refuses what is no checkpoint of Lightning
    return dict(content)


def _progress(record: Provenance) -> tuple[int, int]:
    return record.checkpoint.global_step, record.checkpoint.epoch


def _loops(checkpoint: Original) -> str:
    return state_digest({"loops": _content(checkpoint).get("loops")})


def _moment(record: Provenance) -> str:
    return f"epoch {record.checkpoint.epoch}, step {record.checkpoint.global_step}"
