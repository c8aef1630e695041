"""A single rerun, from the recorded source to a checkpoint in a scratch folder."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning_dtool import _version, limits
from lightning_dtool.errors import ReproductionError
from lightning_dtool.items import CHECKPOINT_ITEM, INITIAL_WEIGHTS_ITEM, RANDOM_STATES_ITEM
from lightning_dtool.loading.unpacking import refuse_outside, unpack
from lightning_dtool.record import Provenance
from lightning_dtool.rehearsal import child
from lightning_dtool.reproduction.command import command, reads_anew, recorded_threads, variables, variables_read
from lightning_dtool.reproduction.failure import failure
from lightning_dtool.reproduction.original import LocatedData, Original, relocated
from lightning_dtool.reproduction.process import Event, Outcome, run
from lightning_dtool.reproduction.protecting import notes_of, protect
from lightning_dtool.rerun import PLAN_VARIABLE, REPRODUCE, Plan, Target
from lightning_dtool.store import FrozenDataset, local_path

_EXPLICIT = "lightning_dtool:DtoolProvenanceCallback"

_NO_SOURCE = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist", "venv", "env"})
"""Names of folders without code of the project."""

_CONFIGURATION = (".yaml", ".yml", ".json", ".toml")


@dataclass(frozen=True)
class Options:
    """The options that all reruns of one request share.

    Attributes:
        kind: `reproduce` or `replicate`.
        python: The interpreter.
        source: A folder with files that replace the recorded ones.
        threads: The number of threads of torch; None for the recorded one.
        device: The accelerator in place of the script's own; None to keep that.
        timeout: The time limit of each rerun in seconds; None for no limit.
        data: For a replication, the datasets by stage.
        allow_write: Files and folders that a rerun may write, beside its own.
        allow_network: Whether a rerun may use the network.
        say: Called with messages on the progress.
    """

    kind: str = REPRODUCE
    python: str = sys.executable
    source: Path | None = None
    threads: int | None = None
    device: str | None = None
    timeout: float | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    allow_write: tuple[str, ...] = ()
    allow_network: bool = False
    say: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Rerun:
    """A rerun that produced a checkpoint.

    Attributes:
        dataset: The checkpoint, in the scratch folder.
        log: The file with its output.
        outcome: How its process ended.
        notes: Remarks for the result.
    """

    dataset: FrozenDataset
    log: Path
    outcome: Outcome
    notes: list[str]


def rerun(
    original: Original,
    data: LocatedData,
    folder: Path,
    options: Options,
    *,
    parent: str | None = None,
    as_recorded: bool = True,
    seed_offset: int | None = None,
    trace: bool = False,
    recall: bool = False,
    what: str = "",
) -> Rerun:
    """Run a recorded training again, up to the moment at which its checkpoint was saved.

    Args:
        original: The recorded checkpoint.
        data: The present URIs of its data.
        folder: A new folder for everything that it writes.
        options: The options that all reruns share.
        parent: The checkpoint to resume from, in place of the one that the script names.
        as_recorded: Whether to begin with the recorded random states and initial weights. Without them, the run begins
            as one does that a user resumes.
        seed_offset: A number from which new seeds are derived; None for the recorded seeds.
        trace: Whether to write digests of all parameters after each step.
        recall: Whether to compute the recall of each class.
        what: The name of this rerun in messages.

    Raises:
        ReproductionError: If it produced no checkpoint.
    """
    # Resolved, so that the path of the script agrees with `os.getcwd`.
    folder.mkdir(parents=True)
    folder = folder.resolve()
    root, models, log = folder / "source", folder / "models", folder / "log.txt"
    for made in (root, models):
        made.mkdir()
    unpack(original.source(), root, original.uri)
    notes = [*data.notes]
    if options.source is not None:
        notes += overlay(options.source, root, original.record, original.uri)
    record = original.record
    to_run = command(record, root, folder, other_code=options.source is not None)
    notes += to_run.notes
    read, remarks = variables_read(record, os.environ)
    notes += remarks
    places = [(Path(record.code.working_directory), to_run.folder)] if record.code.working_directory else []
    if to_run.recorded_root is not None:
        places.append((Path(to_run.recorded_root), root))
    initial = record.model.initial_weights
    threads = options.threads if options.threads is not None else recorded_threads(record)
    report = folder / "report.jsonl"
    protection = protect(
        record, root, folder, _read(data, options, parent), original.uri,
        report=str(report), allow_write=options.allow_write, allow_network=options.allow_network,
    )  # fmt: skip
    # What was recorded at the start would hide what another source does there.
    restores = as_recorded and options.source is None
    plan = Plan(
        original=original.reference.model_dump(),
        kind=options.kind,
        into=str(models),
        scratch=str(folder),
        report=str(report),
        target=target_of(record, other_data=bool(options.data or data.others)),
        root=str(root),
        variables=read,
        automatic=_attached_itself(record),
        random_states=_text(original.optional_path(RANDOM_STATES_ITEM)) if restores else None,
        initial_digest=initial.digest if as_recorded and initial is not None else None,
        initial_weights=_text(original.optional_path(INITIAL_WEIGHTS_ITEM)) if restores else None,
        uris=relocated(data.uris, places),
        data=dict(options.data),
        parent=parent,
        checkpoint=str(original.path(CHECKPOINT_ITEM)),
        seed_offset=seed_offset,
        threads=threads,
        threads_forced=options.source is None or options.threads is not None,
        device=options.device,
        trace=trace,
        recall=recall,
        parent_process=None if protection.ends_by_itself else os.getpid(),
        writable=protection.writable,
        network=protection.network,
    )
    plan_file = folder / "plan.json"
    plan.write(plan_file)
    environment = _environment(record, options, plan, plan_file, [_site(folder), *to_run.paths], folder)
    environment |= protection.variables

    def on_event(event: Event) -> None:
        if event["event"] == "epoch":
            options.say(f"{what}: epoch {event.get('epoch')}, step {event.get('global_step')}")

    options.say(f"{what}: starting")
    arguments = protection.command([options.python, str(Path(child.__file__).resolve()), *to_run.arguments])
    try:
        outcome = run(arguments, to_run.folder, environment, log, report, on_event, options.timeout)
    finally:
        if protection.temporary is not None:
            shutil.rmtree(protection.temporary, ignore_errors=True)
    notes += notes_of(outcome, protection)
    reached = outcome.last("target")
    landed = local_path(str(reached["uri"])) if reached is not None and reached.get("uri") else None
    if reached is None or landed is None or landed.parent != models:  # a script may write to the report, too
        raise failure(outcome, plan, log, options.timeout, root, notes)
    begun = outcome.last("begin")
    if begun is not None and begun.get("initial_weights") == "different" and parent is None:
        notes.append(_other_beginning(record) if restores else "the initial weights differ from the recorded ones")
    return Rerun(FrozenDataset.from_uri(reached["uri"]), log, outcome, notes)


def _read(data: LocatedData, options: Options, parent: str | None) -> list[str]:
    """Return the URIs of what a rerun reads."""
    return [*data.uris.values(), *options.data.values(), *([parent] if parent is not None else [])]


def target_of(record: Provenance, other_data: bool = False) -> Target:
    """Return the fit and the moment at which the checkpoint was saved.

    Args:
        record: The record.
        other_data: Whether the rerun trains on other data than the recorded.
    """
    saved = record.checkpoint
    return Target(
        record.run.fit_index,
        saved.epoch,
        saved.global_step,
        saved.filename,
        arguments=record.model.arguments,
        data=[] if other_data else record.data.training_identity(),
    )


def overlay(source: Path, root: Path, record: Provenance, uri: str) -> list[str]:
    """Copy a folder's Python files, and its versions of the recorded files, over the unpacked source.

    For LightningCLI, the files with which the recorded command may be configured are copied, too.

    Args:
        source: The folder, of the same layout as the recorded project.
        root: The unpacked source.
        record: The record.
        uri: The dataset's URI, for errors.

    Returns:
        Remarks for the result.
    """
    if not source.is_dir():
        raise ReproductionError("expected a folder with the project's code, found none.", path=source, kind="no_source")
    config = record.trainer.config.file if record.trainer.config is not None else None
    suffixes: tuple[str, ...] = (".py",)
    if config is not None and reads_anew(record):
        suffixes += _CONFIGURATION
        refuse_outside(root, config, uri)
        (root / config).unlink(missing_ok=True)  # LightningCLI does not overwrite it
    wanted = {relpath for relpath in record.code.files if relpath not in (config, record.code.patch)}
    absent = sorted(relpath for relpath in wanted if not (source / relpath).is_file())
    wanted -= set(absent)
    for folder, names, files in os.walk(source):
        names[:] = [name for name in names if not name.startswith(".") and name not in _NO_SOURCE]
        inside = Path(folder).relative_to(source)
        wanted.update((inside / name).as_posix() for name in files if name.endswith(suffixes))
        if len(wanted) > limits.MAX_SOURCE_FILES:
            raise ReproductionError(
                f"expected a project, found more than {limits.MAX_SOURCE_FILES} files.",
                path=source,
                kind="no_source",
            )
    changed = 0
    for relpath in sorted(wanted):
        refuse_outside(root, relpath, uri)
        present, target = (source / relpath).read_bytes(), root / relpath
        changed += target.is_file() and target.read_bytes() != present
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(present)
    notes = [f"code from {source}: {changed} recorded files differ there"]
    if absent:
        notes.append(f"as recorded, because {source} does not have them: {', '.join(absent[:10])}")
    if record.randomness.repeatable_by != "seed":
        notes.append(
            "the recorded random states and initial weights were not restored, so that only this code decides how "
            "training begins; without a seed, it begins differently each time"
        )
    if reads_anew(record):
        notes.append(
            "the configuration was made anew from the recorded arguments, with the files and defaults of this code"
        )
    elif record.trainer.config is not None:
        notes.append(f"the recorded configuration of {record.trainer.config.kind} was used, with its defaults")
    return notes


def _environment(
    record: Provenance, options: Options, plan: Plan, plan_file: Path, paths: Sequence[Path], folder: Path
) -> dict[str, str]:
    found = variables(record, os.environ, options.threads)
    searched = [*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])]
    found |= {
        PLAN_VARIABLE: str(plan_file),
        "PYTHONPATH": os.pathsep.join(searched),
        "PYTHONUNBUFFERED": "1",
        # A rerun must not log to a service, where it would appear as a second run with the name of the first. These
        # variables cannot replace a server that the script itself names.
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(),
        "COMET_OFFLINE_DIRECTORY": str(folder),
        "COMET_START_ONLINE": "0",
        "NEPTUNE_MODE": "offline",
    }
    found.pop("LIGHTNING_DTOOL_BASE_URI", None)
    if plan.automatic:
        found["LIGHTNING_DTOOL_BASE_URI"] = plan.into
    if options.device == "cpu":
        found["CUDA_VISIBLE_DEVICES"] = ""
    return found


def _attached_itself(record: Provenance) -> bool:
    """Return whether the callback was attached automatically; True if the record lists no callbacks."""
    return _EXPLICIT not in [component.class_path for component in record.trainer.callbacks]


def _site(folder: Path) -> Path:
    """Return a folder from which only this package, with its entry point, can be imported."""
    site = folder / "site"
    site.mkdir()
    package = Path(_version.__file__).resolve().parent
    try:
        (site / package.name).symlink_to(package, target_is_directory=True)
    except OSError:  # the file system does not support links
        shutil.copytree(package, site / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    metadata = site / f"lightning_dtool-{_version.__version__}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: lightning-dtool\nVersion: {_version.__version__}\n"
    )
    (metadata / "entry_points.txt").write_text(
        "[lightning.pytorch.callbacks_factory]\nlightning_dtool = lightning_dtool.attach:callbacks\n"
    )
    return site


def _other_beginning(record: Provenance) -> str:
    source = "seed" if record.randomness.global_seed is not None else record.randomness.repeatable_by
    why = (
        "the recorded training was not seeded: train with save_initial_weights=True, or call seed_everything"
        if source is None
        else f"they should follow from the recorded {source.replace('_', ' ')}"
    )
    return f"the initial weights differ from the recorded ones; {why}"


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
