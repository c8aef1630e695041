"""The commands `ls`, `show`, `check`, `verify` and `resolve`."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lightning_dtool.cli.console import (
    Command,
    error_to_dict,
    exit_code,
    json_option,
    message,
    one_line,
    online_option,
    print_json,
    print_rich,
    status,
    write,
)
from lightning_dtool.errors import LightningDtoolError, MetadataKeyError, VerificationError
from lightning_dtool.items import CHECKPOINT_ITEM, CHECKPOINT_TAG

if TYPE_CHECKING:
    from lightning_dtool.results.checklist import DataDescription
    from lightning_dtool.store import Addresses, FrozenDataset


@click.command(cls=Command)
@click.argument("base_uri")
@json_option
def ls(base_uri: str, as_json: bool) -> None:
    """List the checkpoints in BASE_URI, newest first.

    Datasets that are not checkpoints are left out. A damaged dataset gives a warning. On a terminal that is too narrow,
    the URI is below the rest of its row. Without a terminal, every checkpoint is one line that ends with its URI.
    """
    from lightning_dtool.recovery.telling import unfinished
    from lightning_dtool.store import iter_datasets, normalize_uri

    def warn(uri: str, error: LightningDtoolError) -> None:
        message(f"Warning: left out {uri}: {one_line(error.reason)}")

    def summary(dataset: "FrozenDataset") -> dict[str, Any] | None:
        try:
            return _summary(dataset) if CHECKPOINT_TAG in dataset.tags() else None
        except LightningDtoolError as error:
            warn(dataset.uri, error)
            return None

    with status(f"Reading {base_uri}"), ThreadPoolExecutor(8) as pool:
        found = [entry for entry in pool.map(summary, iter_datasets(base_uri, warn)) if entry]
        left = unfinished(normalize_uri(base_uri))
    found.sort(key=lambda entry: (entry["frozen_at"], entry["uri"]), reverse=True)
    if as_json:
        print_json([{**entry, "frozen_at": entry["frozen_at"].isoformat()} for entry in found])
    elif found:
        from lightning_dtool.export.text.listing import listing

        print_rich(lambda width: listing(found, width))
    else:
        message(f"No checkpoints in {base_uri}.")
    if left:
        message(left)


@click.command(cls=Command)
@click.argument("uri")
@json_option
def show(uri: str, as_json: bool) -> None:
    """Show the provenance record of the checkpoint URI, with its gaps.

    With --json, print provenance.json, migrated to the present version of the schema.
    """
    from lightning_dtool.loading.opening import open_checkpoint, read_record

    dataset = open_checkpoint(uri)
    record = read_record(dataset)
    if as_json:
        print_json(record.model_dump(mode="json"))
        return
    from lightning_dtool.export.text.record import document

    facts = {
        "uuid": dataset.uuid,
        "status": _annotation(dataset, "run_status"),
        "tags": [tag for tag in dataset.tags() if tag != CHECKPOINT_TAG],
    }
    print_rich(lambda _: document(record, dataset.name, dataset.uri, facts))


@click.command(cls=Command)
@click.argument("uri")
@click.option("--strict", is_flag=True, help="Exit with 1 if a point failed or could not be checked.")
@online_option
@json_option
def check(uri: str, strict: bool, online: bool, as_json: bool) -> None:
    """Check the record of the checkpoint URI against guidelines for reproducible models.

    These are the four guidelines of dtoolAI (Hartley & Olsson 2020), the factors of reproducibility of Gundersen &
    Kjensmo (2018), and further facts that determine the numbers of a training run. Each point is shown with what was
    found and a remedy. The metadata of the training data is read as well, if it is in a store of yours, or with
    --online in any.
    """
    from lightning_dtool.loading.opening import open_checkpoint, read_record
    from lightning_dtool.results import checklist
    from lightning_dtool.store import Addresses

    dataset = open_checkpoint(uri)
    record = read_record(dataset)
    recorded = [source.dataset for stage in ("train", "val", "test") for source in record.data.stages.get(stage, [])]
    places = dict.fromkeys(found.uri for found in (*record.lineage.source_datasets, *recorded) if found is not None)
    addresses = Addresses(dataset.uri, online=online)
    with status("Reading the data's metadata"):
        described = [_described(place, addresses) for place in places]
    findings = checklist.check(record, described, {item.relpath for item in dataset.items.values()})
    if as_json:
        points = [{**asdict(finding), "status": finding.status.value} for finding in findings]
        counts = {status.value: sum(found.status is status for found in findings) for status in checklist.Status}
        print_json({"uri": dataset.uri, "uuid": dataset.uuid, "counts": counts, "findings": points})
    else:
        from lightning_dtool.export.text.checklist import checklist as render

        print_rich(lambda _: render(findings, dataset.name, dataset.uri))
    if strict and checklist.failed(findings):
        raise click.exceptions.Exit(1)


@click.command(cls=Command)
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@json_option
def verify(uris: tuple[str, ...], as_json: bool) -> None:
    """Compare all content of each URI with its recorded sizes and hashes.

    Any frozen dataset can be verified. If several URIs fail, the exit code is the lowest of theirs.
    """
    from lightning_dtool.printing import printable
    from lightning_dtool.store import FrozenDataset

    results: list[dict[str, Any]] = []
    codes = set()
    for uri in uris:
        try:
            FrozenDataset.from_uri(uri).verify(progress=True)
        except LightningDtoolError as error:
            codes.add(exit_code(error))
            differs = isinstance(error, VerificationError)
            results.append({"uri": uri, "status": "differs" if differs else "error", "error": error_to_dict(error)})
            if differs and not as_json:
                write("\n  ".join(printable(line) for line in [f"differs  {uri}", *error.reason.split("\n")]))
            else:
                message(f"Error: {one_line(error)}")
        else:
            results.append({"uri": uri, "status": "ok", "error": None})
            if not as_json:
                write(printable(f"ok       {uri}"))
    if as_json:
        print_json(results)
    raise click.exceptions.Exit(min(codes, default=0))


@click.command(cls=Command)
@click.argument("uri")
@json_option
def resolve(uri: str, as_json: bool) -> None:
    """Print the local path of the checkpoint file of URI.

    The file is verified, and fetched first if the store is remote.

    For use in a shell: python eval.py "$(lightning-dtool resolve URI)"
    """
    from lightning_dtool.loading.opening import open_checkpoint, verified_path

    dataset = open_checkpoint(uri)
    path = verified_path(dataset, CHECKPOINT_ITEM, progress=True)
    if as_json:
        print_json({"uri": dataset.uri, "uuid": dataset.uuid, "path": str(path)})
    else:
        # As bytes: the path must not depend on the encoding of the locale.
        click.echo(os.fsencode(path))


def _summary(dataset: "FrozenDataset") -> dict[str, Any]:
    """Return a checkpoint's row of a listing. Annotations are cheaper to read than the record."""
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


def _described(uri: str, addresses: "Addresses") -> "DataDescription":
    """Return the metadata of a dataset, or the problem if it cannot be read."""
    from lightning_dtool.results.checklist import DataDescription
    from lightning_dtool.store.yaml_text import yaml_mapping

    def describe(dataset: "FrozenDataset") -> DataDescription:
        return DataDescription(
            uri=uri,
            uuid=dataset.uuid,
            content_digest=dataset.content_digest,
            readme=yaml_mapping(dataset.uri, dataset.readme()),
            overlays=dataset.overlay_names(),
            annotations=dataset.annotation_names(),
        )

    try:
        return addresses.read(uri, describe)
    except LightningDtoolError as error:
        return DataDescription(uri=uri, problem=one_line(error), is_offline=error.kind == "offline")
