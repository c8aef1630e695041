"""The points for further facts that determine the result of a training run."""

from lightning_dtool.items import RANDOM_STATES_ITEM, SOURCE_ITEM
from lightning_dtool.results.checklist.evidence import Evidence, Point, with_item
from lightning_dtool.results.checklist.findings import (
    PACK,
    RECORD_AGAIN,
    Result,
    counted,
    fails,
    named,
    not_applicable,
    passes,
    unknown,
)
from lightning_dtool.results.initial_weights import describe_origin

RUN = "Further facts that determine the result"

_LOADED = "load weights from a checkpoint dataset or a file, after importing DtoolProvenanceCallback"

_SEED = "call lightning.seed_everything(seed, workers=True) before training"


def _in_git(evidence: Evidence) -> Result:
    git = evidence.record.code.git
    if git is None:
        return fails(*_no_commit(evidence))
    place = f" of {git.remote}" if git.remote else ""
    return passes(f"commit {git.commit[:12]}{place}")


def _no_commit(evidence: Evidence) -> tuple[str, str]:
    """Return why no commit is recorded, and the remedy: as observed, if the record says so."""
    for gap in evidence.gaps("code.git"):
        return gap.reason, gap.remedy or "commit the code"
    return "the code is not in a git repository", "commit the code to a git repository"


def _changes(evidence: Evidence) -> Result:
    code = evidence.record.code
    if code.git is None:
        return not_applicable(_no_commit(evidence)[0])
    if code.git.dirty is None:
        return fails("git could not tell whether files differed from the commit", "run `git status` to see why")
    lost = [path for path in code.untracked if path not in code.files]
    if lost:
        return fails(f"imported, but neither in git nor stored: {named(lost)}", "commit these files")
    if code.git.dirty and not code.patch:
        return fails("files differed from the commit, and the patch is not stored", "commit changes before training")
    known = f"{counted(len(code.untracked), 'untracked file')} stored" if code.untracked else "no untracked file"
    if code.git.dirty:
        return with_item(evidence, SOURCE_ITEM, f"the patch is {code.patch} in {SOURCE_ITEM}; {known}")
    return passes(f"no file differed from the commit; {known}")


def _sources(evidence: Evidence) -> Result:
    files = evidence.record.code.files
    gaps = evidence.gaps("code.files", "code.modules")
    if gaps:
        return unknown(gaps, "keep the code in the files of one project")
    if not files:
        return fails("no source file is stored", "train from a script, a notebook or a module")
    return with_item(evidence, SOURCE_ITEM, f"{counted(len(files), 'file')} in {SOURCE_ITEM}")


def _split(evidence: Evidence) -> Result:
    sources = evidence.sources("train", "val", "test")
    if not sources:
        return fails("no data is recorded", PACK)
    chosen = [source for source in sources if source.selection or source.selection_digest]
    if len(chosen) == len(sources):
        return passes(f"the selection of samples is recorded for {counted(len(sources), 'data source')}")
    places = [source.dataset.uuid if source.dataset else None for source in sources]
    if len(set(places)) == len(places) and None not in places:
        return not_applicable("each stage uses its own dataset")
    return fails(
        f"the selection of samples is not recorded for {len(sources) - len(chosen)} of {len(sources)} data sources",
        "split with DtoolDataModule(val_split=...), or use a separate dataset for each stage",
    )


def _preprocessing(evidence: Evidence) -> Result:
    gaps = [gap for gap in evidence.gaps("data") if "transform" in gap.fact or "collate" in gap.fact]
    if gaps:
        return unknown(gaps, "write transforms as classes or functions in a file of your project")
    if not evidence.sources("train"):
        return fails("no training data is recorded", PACK)
    places = dict.fromkeys(place for source in evidence.sources("train", "val", "test") for place in source.transforms)
    hooks = evidence.record.data.hooks
    return passes(named([*places, *hooks]) or "no preprocessing was found")


def _order(evidence: Evidence) -> Result:
    order = evidence.record.data.order
    if not order:
        return fails("the order of the samples is not recorded", "train with DtoolDataModule")
    return passes(f"a digest for {counted(len(order), 'epoch')}")


def _initial_weights(evidence: Evidence) -> Result:
    weights = evidence.record.model.initial_weights
    if weights is None or weights.digest is None:
        return fails("there is no digest of the initial weights", RECORD_AGAIN)
    gaps = evidence.gaps("model.initial_weights.origin", "model.initial_weights.sources", "model.loaded_weights")
    if gaps:
        return unknown(gaps, _LOADED)
    if weights.origin == "unknown":
        return fails("their origin is not known", _LOADED)
    if any(source.kind == "continued" and source.dataset is None for source in weights.sources):
        return fails(
            f"{describe_origin(weights)}, which published no checkpoint with these weights",
            "save a checkpoint at the end of each training that another one continues",
        )
    return passes(f"{describe_origin(weights)}; {weights.digest[:19]}")


def _loss(evidence: Evidence) -> Result:
    loss = evidence.record.loss
    if loss.calls:
        return passes(named(call.name.rpartition(":")[2] for call in loss.calls))
    if loss.operations and loss.training_step and not evidence.gaps("loss.constants"):
        return passes(f"computed by hand: {counted(len(loss.operations), 'operation')} and the source of training_step")
    gaps = evidence.gaps("loss")
    return unknown(gaps, RECORD_AGAIN) if gaps else fails("the loss is not recorded", RECORD_AGAIN)


def _seed(evidence: Evidence) -> Result:
    randomness = evidence.record.randomness
    seed, seeds = randomness.global_seed, randomness.seeds
    if randomness.seeded_before_model is False and evidence.record.lineage.parent_checkpoint is None:
        found = "torch was seeded after the model was made, so that no seed determines the initial weights"
        return fails(found, "call lightning.seed_everything before you build the model")
    if seed is not None and all(other == seed for other in seeds.values()):
        return passes(f"seed_everything({seed})")
    if gaps := evidence.gaps("randomness.global_seed"):
        return fails(gaps[0].reason, _SEED)
    if not seeds:
        return fails("no global seed was set", _SEED)
    return passes(f"the seeds of the global generators: {named(f'{name} {value}' for name, value in seeds.items())}")


def _worker_seeds(evidence: Evidence) -> Result:
    loaders = [source.loader for source in evidence.sources("train", "val", "test") if source.loader]
    if loaders and not any(loader.num_workers for loader in loaders):
        return not_applicable("no data loader has workers")
    if evidence.record.randomness.seed_workers and evidence.record.randomness.global_seed is not None:
        return passes("workers were seeded with the global seed")
    return fails("data loader workers were not seeded", _SEED)


def _states(evidence: Evidence) -> Result:
    states = evidence.record.randomness.states
    if not states:
        return fails("the states of the random number generators are not recorded", RECORD_AGAIN)
    return with_item(evidence, RANDOM_STATES_ITEM, f"recorded at {named(states)}, in {RANDOM_STATES_ITEM}")


def _deterministic(evidence: Evidence) -> Result:
    flags = evidence.record.randomness.flags
    if "deterministic_algorithms" not in flags:
        return fails("it is not recorded whether torch used only deterministic algorithms", RECORD_AGAIN)
    if flags["deterministic_algorithms"] is True and not flags.get("deterministic_algorithms_warn_only"):
        return passes("torch used only deterministic algorithms")
    if not evidence.record.environment.accelerators:
        return not_applicable("not requested, but the run used no accelerator")
    return fails("torch was allowed to use nondeterministic algorithms", "use Trainer(deterministic=True)")


def _no_gaps(evidence: Evidence) -> Result:
    gaps = evidence.record.gaps
    if not gaps:
        return passes("the record has no gaps")
    facts = named(gap.fact for gap in gaps)
    return fails(
        f"{counted(len(gaps), 'gap')}: {facts}",
        "`lightning-dtool show URI` lists their reasons and remedies",
    )


POINTS = (
    Point("run.git", RUN, "Code in git", _in_git),
    Point("run.changes", RUN, "Changes since the commit", _changes),
    Point("run.sources", RUN, "Source files stored", _sources),
    Point("run.split", RUN, "Split of the data", _split),
    Point("run.preprocessing", RUN, "Preprocessing", _preprocessing),
    Point("run.order", RUN, "Order of the samples", _order),
    Point("run.initial_weights", RUN, "Initial weights", _initial_weights),
    Point("run.loss", RUN, "Loss", _loss),
    Point("run.seed", RUN, "Global seed", _seed),
    Point("run.worker_seeds", RUN, "Seeds of data loader workers", _worker_seeds),
    Point("run.states", RUN, "States of random number generators", _states),
    Point("run.deterministic", RUN, "Deterministic algorithms", _deterministic),
    Point("run.gaps", RUN, "No gaps", _no_gaps),
)
