"""The checkpoints that a resumed training started from, found or trained again."""

from dataclasses import replace
from pathlib import Path

from lightning_dtool.errors import DatasetNotFoundError, ReproductionError
from lightning_dtool.reproduction.launch import Options, rerun
from lightning_dtool.reproduction.original import MAX_GENERATIONS, Original, locate_data
from lightning_dtool.reproduction.request import Request
from lightning_dtool.rerun import REPRODUCE
from lightning_dtool.store import local_path
from lightning_dtool.store.locating import find


def places_beside(original: Original, request: Request) -> list[str]:
    """Return where the parent of a checkpoint may be: where the user says, and in the checkpoint's own base URI.

    Args:
        original: The checkpoint.
        request: The options.
    """
    folder = local_path(original.uri)
    return [*request.search, str(folder.parent) if folder is not None else original.uri.rpartition("/")[0]]


def parent_of(
    original: Original, request: Request, options: Options, scratch: Path, generation: int = 0
) -> tuple[str | None, list[str]]:
    """Return the checkpoint that a resumed training starts from, trained again or as recorded, and notes about it.

    Args:
        original: The checkpoint of the resumed training.
        request: The options.
        options: How reruns are launched.
        scratch: The folder for reruns.
        generation: How many trainings of this line come after this one. Default: 0.

    Returns:
        Its URI and the notes. No URI if the training was not resumed, or if its script trains the parent itself.

    Raises:
        DatasetNotFoundError: If the parent is missing.
        ReproductionError: If there are too many generations, or if a training could not run.
    """
    lineage = original.record.lineage
    reference = lineage.parent_checkpoint
    if reference is None or not lineage.resumed:
        return None, []
    if generation >= MAX_GENERATIONS:
        raise ReproductionError(
            f"expected at most {MAX_GENERATIONS} trainings, each resumed from another, found more.",
            uri=original.uri,
            kind="no_parent",
        )
    search = places_beside(original, request)
    try:
        located = find(
            reference.uri,
            reference.uuid,
            content_digest=reference.content_digest,
            search=search,
            addresses=request.addresses,
        )
    except DatasetNotFoundError:
        if not original.record.run.fit_index:
            raise
        # An earlier fit of the same script may make the parent. The results are compared whether it does or not.
        return None, [f"the parent is missing; an earlier fit of the script may make it: {reference.uri}"]
    parent = Original(located)
    if _same_process(parent, original):
        return None, []  # the script trains the parent itself
    if request.from_ == "parent":
        return parent.uri, [f"resumed from the recorded parent: {parent.uri}"]
    before, notes = parent_of(parent, request, options, scratch, generation + 1)
    data = locate_data(parent.record, request.data, request.search, request.addresses)
    folder = scratch / f"parent-{generation + 1}"
    name = f"parent {parent.dataset.name}"
    again = rerun(parent, data, folder, replace(options, kind=REPRODUCE), parent=before, what=name)
    # Imported late: this module imports torch, which the command line loads only after a rerun.
    from lightning_dtool.reproduction.comparison import compare

    same = compare(parent.uri, again.dataset.uri)
    result = "identical to the recorded one" if same.weights_identical else "NOT identical to the recorded one"
    resumed = f"resumed from the reproduced parent, which is {result}: {parent.uri}"
    return again.dataset.uri, [*notes, *again.notes, resumed]


def _same_process(parent: Original, original: Original) -> bool:
    """Return whether one process trained both, one `fit` after another.

    Python seeds its generator from the operating system when a process starts, so equal states mean the same process.
    """
    one, two = (entry.record for entry in (parent, original))
    states = [record.randomness.states.get("import", {}).get("python") for record in (one, two)]
    if None in states or states[0] != states[1] or one.run.uuid == two.run.uuid:
        return False
    return (one.run.fit_index or 0) < (two.run.fit_index or 0)
