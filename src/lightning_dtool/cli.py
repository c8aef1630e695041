"""The command line: `lightning-dtool`, and the same commands as `dtool model`.

Results go to standard output, everything else to standard error. What a command needs is imported when it runs, and
only what runs or compares models needs torch or Lightning.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lightning_dtool._version import __version__
from lightning_dtool.console import (
    Group,
    describe,
    exit_code,
    json_option,
    message,
    one_line,
    print_json,
    print_rich,
    status,
    write,
)
from lightning_dtool.errors import LightningDtoolError, MetadataKeyError, NotACheckpointError, VerificationError
from lightning_dtool.items import CHECKPOINT_ITEM, CHECKPOINT_TAG, RECORD_ITEM, REQUIREMENTS_ITEM, SOURCE_ITEM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning_dtool.checklist import DataDescription
    from lightning_dtool.differences import Content
    from lightning_dtool.record import Provenance
    from lightning_dtool.reproduction.verdict import Reproduction
    from lightning_dtool.store import FrozenDataset


@click.group("model", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lightning-dtool")
def model() -> None:
    """Lightning checkpoints as dtool datasets: list, read, verify and use them; pack data.

    A dataset is given by its URI or, on disk, by its folder.

    \b
    Exit codes:
      0    fine
      1    content differs from its recorded size or hash; check --strict: a point failed; diff, compare: they differ;
           reproduce, replicate: another model came out
      2    wrong usage: an option, a malformed URI or name, a table that does not fit
      3    not found, not a checkpoint, not frozen, or cannot be read; evaluate: the model cannot be run on the data
      4    the store cannot be reached, read or written
      5    reproduce, replicate: the recorded training could not run
      130  interrupted
    """  # noqa: D301 - click's own marker


def main() -> None:
    """Run the `lightning-dtool` command."""
    model(prog_name="lightning-dtool")


@model.command()
@click.argument("base_uri")
@json_option
def ls(base_uri: str, as_json: bool) -> None:
    """List the checkpoints in BASE_URI, newest first.

    Other datasets are left out. One that is damaged is a warning. Where the URI does not fit beside the rest of
    its row it stands below; when the output is no terminal, every checkpoint is one line that ends in its URI.
    """
    from lightning_dtool.store import iter_datasets

    def warn(uri: str, error: LightningDtoolError) -> None:
        message(f"Warning: left out {uri}: {one_line(error).removeprefix(f'{uri}: ')}")

    def summary(dataset: "FrozenDataset") -> dict[str, Any] | None:
        try:
            return _summary(dataset) if CHECKPOINT_TAG in dataset.tags() else None
        except LightningDtoolError as error:
            warn(dataset.uri, error)
            return None

    with status(f"Reading {base_uri}"), ThreadPoolExecutor(8) as pool:
        found = [entry for entry in pool.map(summary, iter_datasets(base_uri, warn)) if entry]
    found.sort(key=lambda entry: (entry["frozen_at"], entry["uri"]), reverse=True)
    if as_json:
        print_json([{**entry, "frozen_at": entry["frozen_at"].isoformat()} for entry in found])
    elif found:
        from lightning_dtool.export.text import listing

        print_rich(lambda width: listing(found, width))
    else:
        message(f"No checkpoints in {base_uri}.")


@model.command()
@click.argument("uri")
@json_option
def show(uri: str, as_json: bool) -> None:
    """Show how the checkpoint URI came to be, and what is not known of it.

    With --json: its provenance.json, brought up to the present version of the schema.
    """
    dataset = _checkpoint(uri)
    record = _record(dataset)
    if as_json:
        print_json(record.model_dump(mode="json"))
        return
    from lightning_dtool.export.text import document

    facts = {
        "uuid": dataset.uuid,
        "status": _annotation(dataset, "run_status"),
        "tags": [tag for tag in dataset.tags() if tag != CHECKPOINT_TAG],
    }
    print_rich(lambda _: document(record, dataset.name, dataset.uri, facts))


@model.command()
@click.argument("uri")
@click.option("--strict", is_flag=True, help="Exit with 1 if a point failed, or could not be checked.")
@json_option
def check(uri: str, strict: bool, as_json: bool) -> None:
    """Hold the record of checkpoint URI against what is asked of reproducible models.

    The four guidelines of dtoolAI (Hartley & Olsson 2020), the factors of reproducibility of Gundersen & Kjensmo
    (2018), and what decides about the numbers of a training run. Each point with what was found and how to mend it.
    The metadata of the data is read too, where its URI can be reached.
    """
    from lightning_dtool import checklist

    dataset = _checkpoint(uri)
    record = _record(dataset)
    recorded = [source.dataset for stage in ("train", "val", "test") for source in record.data.stages.get(stage, [])]
    places = dict.fromkeys(found.uri for found in (*record.lineage.source_datasets, *recorded) if found is not None)
    with status("Reading the data's metadata"):
        described = [_described(place) for place in places]
    findings = checklist.check(record, described, {item.relpath for item in dataset.items.values()})
    if as_json:
        points = [{**asdict(finding), "verdict": finding.verdict.value} for finding in findings]
        counts = {verdict.value: sum(found.verdict is verdict for found in findings) for verdict in checklist.Verdict}
        print_json({"uri": dataset.uri, "uuid": dataset.uuid, "counts": counts, "findings": points})
    else:
        from lightning_dtool.export import text

        print_rich(lambda _: text.checklist(findings, dataset.name, dataset.uri))
    if strict and checklist.failed(findings):
        raise click.exceptions.Exit(1)


@model.command()
@click.argument("uri_a")
@click.argument("uri_b")
@click.option("--all", "everything", is_flag=True, help="Show what differs between any two runs, too.")
@json_option
def diff(uri_a: str, uri_b: str, everything: bool, as_json: bool) -> None:
    """Show what differs between the checkpoints URI_A and URI_B, by meaning.

    Their records, the code as a patch, the packages by version, the metrics side by side. Data is told apart by UUID
    and by content: the same content at another address is said, and counts as the same. Left out, unless --all, is
    what differs between any two runs: their UUIDs, times and durations, folders and who ran them.

    Exits with 0 if nothing that matters differs, with 1 if something does.
    """
    from lightning_dtool import differences

    datasets = [_checkpoint(uri) for uri in (uri_a, uri_b)]
    a, b = (_content(dataset) for dataset in datasets)
    found = differences.compare(a, b)
    shown = [difference for difference in found if everything or difference.weight != "incidental"]
    same = all(difference.weight != "matters" for difference in found)
    metrics = (a.record.metrics.at_checkpoint, b.record.metrics.at_checkpoint)
    if as_json:
        names = dict.fromkeys([*metrics[0], *metrics[1]])
        print_json(
            {
                **{
                    key: {"uri": dataset.uri, "uuid": dataset.uuid, "name": dataset.name}
                    for key, dataset in zip("ab", datasets, strict=True)
                },
                "same": same,
                "differences": [asdict(difference) for difference in shown],
                "metrics": {name: {"a": metrics[0].get(name), "b": metrics[1].get(name)} for name in names},
            }
        )
    else:
        from lightning_dtool.export.text import comparison

        one, two = datasets
        print_rich(lambda _: comparison(shown, (one.name, two.name), (one.uri, two.uri), metrics))
    raise click.exceptions.Exit(0 if same else 1)


@model.command()
@click.argument("uri_a")
@click.argument("uri_b")
@json_option
def compare(uri_a: str, uri_b: str, as_json: bool) -> None:
    """Compare the models of the checkpoints URI_A and URI_B, bit by bit.

    Their weights, the states of optimizers and schedulers, the metrics and the order of samples epoch by epoch; where
    they parted first; and which recorded factors differ, so that they could explain it. What is read is verified.
    `diff` shows all that differs between two records, and reads no weights.

    Exits with 0 if the two are identical, as far as both hold these, and with 1 if not.
    """
    import lightning_dtool  # its names are resolved when they are used: this one loads torch

    with status("Comparing"):
        found = lightning_dtool.compare(uri_a, uri_b)
    if as_json:
        print_json(found.to_dict())
    else:
        from lightning_dtool.export.text import outcome

        print_rich(lambda _: outcome(found))
    raise click.exceptions.Exit(0 if found.identical else 1)


def _rerun_options(command: Any) -> Any:
    """Add the options that `reproduce` and `replicate` share."""
    options = [
        click.option(
            "--into",
            metavar="BASE_URI",
            help="Where the rerun's checkpoint and the verdict go.  [default: reproductions]",
        ),
        click.option(
            "--env",
            type=click.Choice(["current", "create"]),
            default="current",
            help="Run in this environment, or make one of the recorded packages.",
        ),
        click.option("--device", type=click.Choice(["cpu"]), help="Train on the CPU, whatever the script asks for."),
        click.option(
            "--runs",
            type=click.IntRange(min=0),
            default=0,
            metavar="N",
            help="N further reruns with other seeds, at least 3: where may another training end up?",
        ),
        click.option(
            "--level",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            default=0.95,
            show_default=True,
            help="The probability that all metrics lie inside, if nothing differs.",
        ),
        click.option(
            "--source",
            type=click.Path(exists=True, file_okay=False),
            metavar="DIR",
            help="Code that replaces the recorded one: does my present code still give this model?",
        ),
        click.option(
            "--data",
            "replaced",
            multiple=True,
            metavar="OLD=NEW",
            help="Another dataset for a recorded one, which is named by its URI, UUID or name; may be repeated.",
        ),
        click.option(
            "--search",
            multiple=True,
            metavar="BASE_URI",
            help="Look here for data that is not where it was; may be repeated.",
        ),
        click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Another number of torch's threads."),
        click.option(
            "--from",
            "from_",
            type=click.Choice(["first", "parent"]),
            default="first",
            help="A resumed training: reproduce its parents first, or take the recorded parent as it is.",
        ),
        click.option("--trace", is_flag=True, help="Find the first step at which the two trainings part."),
        click.option("--timeout", type=float, metavar="SECONDS", help="The time that each training has."),
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@model.command()
@click.argument("uri")
@_rerun_options
def reproduce(uri: str, as_json: bool, replaced: tuple[str, ...], **options: Any) -> None:
    """Train the checkpoint URI again, from its recorded code and data, and compare the two models bit by bit.

    This runs the recorded code, whoever wrote it, with your rights: reproduce only what you would run yourself. It
    runs from its recorded source in a temporary folder, in a process of its own, up to the moment at which the
    checkpoint was saved. The original is not touched.

    The verdict is 'identical' (every bit of the weights), 'within tolerance' (with --runs: all metrics lie where other
    seeds predict them), 'different', with what could explain it, or 'could not run', with the reason. It is kept as a
    small dataset that points at both checkpoints.
    """
    import lightning_dtool  # its names are resolved when they are used

    with _rerun_progress() as say:
        found = lightning_dtool.reproduce(uri, data=_pairs(replaced), progress=say, **options)
    _print_verdict(found, as_json)


@model.command()
@click.argument("uri")
@click.option("--train", required=True, metavar="URI", help="The new dataset to train on.")
@click.option("--val", metavar="URI", help="The new dataset to validate on. Default: a part of --train, as recorded.")
@click.option("--test", metavar="URI", help="The new dataset to test on. Default: a part of --train, as recorded.")
@_rerun_options
def replicate(uri: str, as_json: bool, replaced: tuple[str, ...], **options: Any) -> None:
    """Train as the checkpoint URI was trained, on new data: does it come to the same result?

    This runs the recorded code, whoever wrote it, with your rights: replicate only what you would run yourself.

    The weights will differ. With --runs the metrics are judged: 'within tolerance' if the recorded ones lie where
    trainings on the new data, with other seeds, predict them.
    """
    import lightning_dtool  # its names are resolved when they are used

    with _rerun_progress() as say:
        found = lightning_dtool.replicate(uri, data=_pairs(replaced), progress=say, **options)
    _print_verdict(found, as_json)


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for old, separator, new in pairs:
        if not (old and separator and new):
            raise click.UsageError(f"--data {old}{separator}{new}: expected OLD=NEW.")
    return {old: new for old, _, new in pairs}


@contextmanager
def _rerun_progress() -> "Iterator[Callable[[str], None]]":
    """Show on a terminal how far a rerun is."""
    from lightning_dtool.export.text import printable

    with status("Starting") as shown:

        def say(text: str) -> None:
            if shown is not None:
                from rich.text import Text

                shown.update(Text(printable(text)))

        yield say


def _print_verdict(found: "Reproduction", as_json: bool) -> None:
    """Print a verdict, and exit with its code."""
    if as_json:
        print_json(found.to_dict())
    else:
        from lightning_dtool.export import verdict

        print_rich(lambda _: verdict.document(found))
    raise click.exceptions.Exit(0 if found.successful else 5 if found.verdict == "could not run" else 1)


@model.command()
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@json_option
def verify(uris: tuple[str, ...], as_json: bool) -> None:
    """Read all content of each URI and compare it with its recorded sizes and hashes.

    Any frozen dataset will do. The exit code is the lowest, other than 0, that any URI gives.
    """
    from lightning_dtool.export.text import printable
    from lightning_dtool.store import FrozenDataset

    results: list[dict[str, Any]] = []
    codes = set()
    for uri in uris:
        try:
            FrozenDataset.from_uri(uri).verify(progress=True)
        except LightningDtoolError as error:
            codes.add(exit_code(error))
            differs = isinstance(error, VerificationError)
            results.append({"uri": uri, "status": "differs" if differs else "error", "error": describe(error)})
            if differs and not as_json:
                write("\n  ".join(printable(line) for line in [f"differs  {uri}", *str(error).split("\n")]))
            else:
                message(f"Error: {one_line(error)}")
        else:
            results.append({"uri": uri, "status": "ok", "error": None})
            if not as_json:
                write(printable(f"ok       {uri}"))
    if as_json:
        print_json(results)
    raise click.exceptions.Exit(min(codes, default=0))


@model.command()
@click.argument("uri")
@json_option
def resolve(uri: str, as_json: bool) -> None:
    """Print a local path of the checkpoint file of URI, verified; fetched first if the store is remote.

    For use in a shell: python eval.py "$(lightning-dtool resolve URI)"
    """
    dataset = _checkpoint(uri)
    path = _verified(dataset, CHECKPOINT_ITEM, progress=True)
    if as_json:
        print_json({"uri": dataset.uri, "uuid": dataset.uuid, "path": str(path)})
    else:
        # As bytes: a path must come out as the file system knows it, whatever the locale.
        click.echo(os.fsencode(path))


@model.command()
@click.argument("uri")
@click.option("--data", "data_uri", metavar="DATA_URI", required=True, help="The dataset to evaluate on.")
@click.option("--metrics", metavar="NAMES", help="Names with commas: accuracy,f1. Default: the usual ones.")
@click.option("--into", metavar="BASE_URI", help="Where the result is stored, as a dataset derived from both.")
@click.option(
    "--part",
    type=click.Choice(["train", "val", "test", "whole"]),
    help="Which part of the data that the model was trained with. Default: what was held out of it; other data whole.",
)
@click.option("--target", help="The overlay to compare with. Default: as in training.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Samples per batch. Default: as in training.")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Processes that load data. Default: none.")
@click.option("--device", default="cpu", help="Where the model runs: cpu, cuda, mps. Default: cpu.")
@click.option("--trust-source", is_flag=True, help="Run code that comes with the checkpoint, or that it names.")
@json_option
def evaluate(uri: str, data_uri: str, workers: int, as_json: bool, **options: Any) -> None:
    """Run the model of checkpoint URI over a dataset, and measure how good it is.

    Samples are read, transformed and numbered as in training. With --into the result becomes a dataset: every
    prediction, the metrics, the confusion matrix. Without it nothing is stored.

    \b
    Classification: accuracy, balanced_accuracy, precision, recall, f1, auroc, cohen_kappa, matthews,
                    calibration_error
    Regression:     mse, rmse, mae, r2, pearson, spearman
    """  # noqa: D301 - click's own marker
    import warnings

    with status("Loading torch"):
        from lightning_dtool.evaluation import evaluate as run

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = run(uri, data_uri, num_workers=workers, progress=True, **options)
    for warning in caught:
        message(f"Warning: {warning.message}")
    if as_json:
        print_json(found.as_dict())
    else:
        from lightning_dtool.export.text import evaluation

        print_rich(lambda _: evaluation(found.as_dict()))
    if found.dataset_uri is None:
        message("Nothing was stored: that needs --into BASE_URI.")


@model.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.argument("base_uri")
@click.option("--name", help="The dataset's name: up to 80 letters, digits, '-', '_' and '.'.")
@click.option(
    "--csv",
    type=click.Path(exists=True, dir_okay=False),
    help="A table with a header and a row for every file: the column 'path' (or the first one) is its path in FOLDER, "
    "every other column becomes an overlay.",
)
@click.option("--tag", "tags", multiple=True, help="A tag; may be repeated.")
@click.option("--description", help="For README.yml: what the data is.")
@click.option("--project", help="For README.yml: the project that it belongs to.")
@click.option("--owner-name", help="For README.yml: who answers for it.")
@click.option("--owner-email", help="For README.yml: the owner's e-mail address.")
@click.option("--owner-username", default="", help="For README.yml: the owner's user name.")
@click.option("--owner-orcid", default="", help="For README.yml: the owner's ORCID iD.")
@click.option("--funder", "funders", multiple=True, help="For README.yml: who paid for it; may be repeated.")
@click.option("--confidential/--not-confidential", default=None, help="For README.yml. Default: not.")
@click.option(
    "--personal/--not-personal",
    "personally_identifiable_information",
    default=None,
    help="For README.yml: does it tell about persons? Default: no.",
)
@click.option("-y", "--yes", "--no-prompt", "no_prompt", is_flag=True, help="Ask nothing, even on a terminal.")
@json_option
def pack(folder: str, base_uri: str, no_prompt: bool, as_json: bool, **values: Any) -> None:
    """Make a frozen dataset of FOLDER in BASE_URI, and print its URI.

    The folders in FOLDER name the classes (overlay 'category'), unless there is a --csv. On a terminal what is
    not given of --name, --description, --project, the owner and the two warnings is asked for.
    """
    from lightning_dtool import packing
    from lightning_dtool.store import FrozenDataset

    if sys.stdin.isatty() and sys.stderr.isatty() and not no_prompt:
        _ask(values, suggested_name=Path(folder).resolve().name)
    if not values["name"]:
        raise click.UsageError("Missing option '--name'.")
    given = {name: value for name, value in values.items() if value is not None}
    uri = packing.pack(folder, base_uri, **given)
    if as_json:
        print_json({"uri": uri, "uuid": FrozenDataset.from_uri(uri).uuid, "name": given["name"]})
    else:
        write(uri)


def _ask(values: dict[str, Any], suggested_name: str) -> None:
    """Ask for what is not given, on standard error: standard output may go elsewhere."""
    texts = {
        "name": "Name of the dataset",
        "description": "Description",
        "project": "Project",
        "owner_name": "Owner's name",
        "owner_email": "Owner's e-mail address",
    }
    truths = {
        "confidential": "Is it confidential?",
        "personally_identifiable_information": "Does it tell about persons?",
    }
    with redirect_stdout(sys.stderr):
        for key in (key for key in texts if values[key] is None):
            default = suggested_name if key == "name" else ""
            values[key] = click.prompt(texts[key], default=default, show_default=bool(default))
        for key in (key for key in truths if values[key] is None):
            values[key] = click.confirm(truths[key], default=False)


def _checkpoint(uri: str) -> "FrozenDataset":
    """Open a dataset that holds a checkpoint, without torch, which `DtoolCheckpoint` needs."""
    from lightning_dtool.store import FrozenDataset

    dataset = FrozenDataset.from_uri(uri)
    missing = {CHECKPOINT_ITEM, RECORD_ITEM} - {item.relpath for item in dataset.items.values()}
    if missing:
        raise NotACheckpointError(
            f"{dataset.uri}: expected a checkpoint with the items {CHECKPOINT_ITEM} and {RECORD_ITEM}, found "
            f"{len(dataset.items)} items without {' and '.join(sorted(missing))}. Is this a data set?"
        )
    return dataset


def _record(dataset: "FrozenDataset") -> "Provenance":
    """Read a checkpoint's record, compared with its hash."""
    from lightning_dtool.record import from_json

    return from_json(_verified(dataset, RECORD_ITEM).read_bytes(), dataset.uri)


def _content(dataset: "FrozenDataset") -> "Content":
    """Read a checkpoint's record, code and packages, each compared with its hash."""
    from lightning_dtool.differences import Content, read_sources

    items = {item.relpath for item in dataset.items.values()}
    sources = requirements = None
    if SOURCE_ITEM in items:
        sources = read_sources(_verified(dataset, SOURCE_ITEM).read_bytes(), dataset.uri)
    if REQUIREMENTS_ITEM in items:
        requirements = _verified(dataset, REQUIREMENTS_ITEM).read_text(encoding="utf-8", errors="replace")
    return Content(_record(dataset), sources, requirements)


def _described(uri: str) -> "DataDescription":
    """Look what metadata a dataset has; that it cannot be reached is an answer."""
    import yaml

    from lightning_dtool.checklist import DataDescription
    from lightning_dtool.store import FrozenDataset

    try:
        dataset = FrozenDataset.from_uri(uri)
        try:
            readme = yaml.safe_load(dataset.readme())
        except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that no calendar has
            readme = None
        return DataDescription(
            uri=uri,
            uuid=dataset.uuid,
            content_digest=dataset.content_digest,
            readme=readme if isinstance(readme, dict) else None,
            overlays=dataset.overlay_names(),
            annotations=dataset.annotation_names(),
        )
    except LightningDtoolError as error:
        return DataDescription(uri=uri, problem=one_line(error))


def _verified(dataset: "FrozenDataset", relpath: str, progress: bool = False) -> Path:
    """Return a local file with an item, compared with its hash."""
    from lightning_dtool.store import local_path

    identifiers = [dataset.item(relpath).identifier]
    if local_path(dataset.uri) is None:
        dataset.fetch(identifiers, progress=progress)  # compares
    else:
        dataset.verify(identifiers, progress=progress)
    return dataset.path(identifiers[0])


def _summary(dataset: "FrozenDataset") -> dict[str, Any]:
    """Return what a listing says of a checkpoint: from its annotations, which are cheaper than the record."""
    annotations = {name: _annotation(dataset, name) for name in ("epoch", "global_step", "monitor", "run_status")}
    return {
        "name": dataset.name,
        "uri": dataset.uri,
        "uuid": dataset.uuid,
        "frozen_at": dataset.frozen_at,
        **annotations,
        "tags": dataset.tags(),
    }


def _annotation(dataset: "FrozenDataset", name: str) -> Any:
    try:
        return dataset.annotation(name)
    except MetadataKeyError:
        return None
