"""`pack`: a folder of files becomes a frozen dataset."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from lightning_dtool.cli.console import Command, json_option, print_json, write


@click.command(cls=Command)
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
    from lightning_dtool.data import packing
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
