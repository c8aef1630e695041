"""The command `pack`."""

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
    help="A table with a header and one row for each file. The column 'path' (or else the first one) is the path in "
    "FOLDER; every other column becomes an overlay.",
)
@click.option("--tag", "tags", multiple=True, help="A tag. May be repeated.")
@click.option("--description", help="For README.yml: a description of the data.")
@click.option("--project", help="For README.yml: the project.")
@click.option("--owner-name", help="For README.yml: the owner of the data.")
@click.option("--owner-email", help="For README.yml: the owner's e-mail address.")
@click.option("--owner-username", default="", help="For README.yml: the owner's user name.")
@click.option("--owner-orcid", default="", help="For README.yml: the owner's ORCID iD.")
@click.option("--funder", "funders", multiple=True, help="For README.yml: a funder. May be repeated.")
@click.option(
    "--confidential/--not-confidential",
    default=None,
    help="For README.yml: whether the data is confidential. Default: not.",
)
@click.option(
    "--personal/--not-personal",
    "personally_identifiable_information",
    default=None,
    help="For README.yml: whether the data contains personal information. Default: not.",
)
@click.option("-y", "--yes", "--no-prompt", "no_prompt", is_flag=True, help="Do not ask questions, even on a terminal.")
@json_option
def pack(folder: str, base_uri: str, no_prompt: bool, as_json: bool, **values: Any) -> None:
    """Pack FOLDER as a frozen dataset in BASE_URI, and print its URI.

    Without --csv, the subfolders of FOLDER name the classes (overlay 'category'). On a terminal, the command asks for
    the name, the description, the project, the owner, and whether the data is confidential or personal, unless they
    are given as options.
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
    """Ask for missing values on standard error, because standard output may be redirected."""
    texts = {
        "name": "Name of the dataset",
        "description": "Description",
        "project": "Project",
        "owner_name": "Owner's name",
        "owner_email": "Owner's e-mail address",
    }
    yes_or_no = {
        "confidential": "Is it confidential?",
        "personally_identifiable_information": "Does it contain personal information?",
    }
    with redirect_stdout(sys.stderr):
        for key in (key for key in texts if values[key] is None):
            default = suggested_name if key == "name" else ""
            values[key] = click.prompt(texts[key], default=default, show_default=bool(default))
        for key in (key for key in yes_or_no if values[key] is None):
            values[key] = click.confirm(yes_or_no[key], default=False)
