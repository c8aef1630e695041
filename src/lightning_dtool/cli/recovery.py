"""The command `recover`."""

import click

from lightning_dtool.cli.console import Command, json_option, message, one_line, print_json, status, write

_WOULD = {"finished": "would finish", "published": "would publish", "removed": "would remove"}


@click.command(cls=Command)
@click.argument("base_uri")
@click.argument("folders", nargs=-1, type=click.Path(exists=True, file_okay=False))
@click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
@click.option(
    "--other-hosts",
    is_flag=True,
    help="Also finish or remove what processes on other machines or in other containers have begun. Make sure that "
    "none of them is running: they cannot be asked from here.",
)
@json_option
def recover(base_uri: str, folders: tuple[str, ...], dry_run: bool, other_hosts: bool, as_json: bool) -> None:
    """Finish or remove what killed processes and failing stores have left behind in BASE_URI.

    A dataset that is whole is frozen at its URI; one that is incomplete is removed. A checkpoint that could not be
    published is published from its file in one of the FOLDERS (default: the working directory), and temporary files
    there are removed. What a running process is working on is left alone, and so is a dataset to which a link in one of
    the FOLDERS leads. Each line of the output says what was done, or why something was left.
    """
    from lightning_dtool.recovery.recover import recover as recover_all

    with status(f"Looking through {base_uri}"):
        found = recover_all(base_uri, folders or (".",), dry_run=dry_run, other_hosts=other_hosts)
    if as_json:
        print_json([each.to_dict() for each in found])
    elif not found:
        message(f"Nothing is unfinished in {base_uri}.")
    else:
        for each in found:
            outcome = _WOULD.get(each.outcome, each.outcome) if dry_run else each.outcome
            reason = f" ({each.place}): {each.reason}" if each.reason else ""
            write(one_line(f"{outcome}: {each.what}, {each.uri}{reason}"))
    if any(each.outcome == "failed" for each in found):
        raise click.exceptions.Exit(4)
