"""The command `scan`."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from lightning_dtool.cli.console import Command, json_option, message, print_json, status, write

if TYPE_CHECKING:
    from lightning_dtool.redaction.scan import Found
    from lightning_dtool.store import FrozenDataset


@click.command(cls=Command)
@click.argument("uri")
@json_option
def scan(uri: str, as_json: bool) -> None:
    """Search the dataset URI for credentials and personal data, before it is published.

    All items that are texts, README.yml, annotations, overlays and tags are searched, the files inside of archives, and
    the hyperparameters in a checkpoint, which is not loaded. What looks like a credential, an e-mail address or
    somebody's home folder is listed; a credential itself is not printed. The creator's name, which dtool stores, is not
    listed.

    Exits with 1 if something was found or could not be searched. That nothing was found is no proof.
    """
    from lightning_dtool.printing import printable
    from lightning_dtool.store import FrozenDataset

    dataset = FrozenDataset.from_uri(uri)
    with status(f"Searching {uri}"):
        found = list(dict.fromkeys(_found_in(dataset)))
    if as_json:
        print_json({"uri": dataset.uri, "uuid": dataset.uuid, "found": [asdict(each) for each in found]})
    elif not found:
        message(f"Nothing was found in {dataset.uri}.")
    else:
        for each in found:
            place = f", {each.place}" if each.place else ""
            write(printable(f"{each.kind}: {each.file}{place}: {each.text}"))
    if found:
        raise click.exceptions.Exit(1)


_NO_TEXT = (
    ".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".bmp", ".webp", ".npy", ".h5", ".hdf5", ".wav", ".mp3", ".mp4",
    ".parquet", ".gz", ".zst", ".safetensors",
)  # fmt: skip
"""Items that are not read: they hold no text, or none that this search finds."""


def _found_in(dataset: "FrozenDataset") -> "Iterator[Found]":
    from lightning_dtool.redaction.scan import MAX_BYTES, Found, scan_archive, scan_file

    yield from scan_file("README.yml", dataset.readme().encode())
    yield from scan_file("annotations.json", json.dumps(dataset.annotations()).encode())
    yield from scan_file("tags.json", json.dumps(dataset.tags()).encode())
    for name in dataset.overlay_names():
        if name != "sha256":
            yield from scan_file(f"overlays/{name}.json", json.dumps(dataset.overlay(name)).encode())
    for identifier, item in dataset.items.items():
        if item.relpath.lower().endswith(_NO_TEXT):
            continue
        with dataset.open(identifier) as file:
            if zipfile.is_zipfile(file):
                yield from scan_archive(item.relpath, file)
            elif item.size_in_bytes <= MAX_BYTES:
                file.seek(0)
                yield from scan_file(item.relpath, file.read(MAX_BYTES))
            else:
                yield Found("not searched", item.relpath, "", f"it is larger than {MAX_BYTES} bytes")
