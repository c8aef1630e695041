"""The commands `reproduce` and `replicate`."""

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from lightning_dtool.cli.console import Command, json_option, online_option, print_json, print_rich, status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning_dtool.results.reproduction import Reproduction

_START = "For a resumed training: reproduce its parents first, or start from the recorded parent."


def _rerun_options(start: Any) -> "Callable[[Any], Any]":
    """Return a decorator that adds the options of a rerun to a command.

    Args:
        start: The option `--from`, in which `reproduce` and `replicate` differ.
    """
    options = [
        click.option(
            "--into",
            metavar="BASE_URI",
            help="The base URI for the checkpoint of the rerun and for the verdict.  [default: reproductions]",
        ),
        click.option(
            "--env",
            type=click.Choice(["current", "create"]),
            default="current",
            help="Run in this environment, or create one with the recorded packages.",
        ),
        click.option("--device", type=click.Choice(["cpu"]), help="Train on the CPU, whatever the script selects."),
        click.option(
            "--runs",
            type=click.IntRange(min=0),
            default=0,
            metavar="N",
            help="Judge the metrics by N further reruns with other seeds. N is at least 3.",
        ),
        click.option(
            "--level",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            default=0.95,
            show_default=True,
            help="The probability that all metrics lie in their intervals if nothing differs.",
        ),
        click.option(
            "--source",
            type=click.Path(exists=True, file_okay=False),
            metavar="DIR",
            help="A folder with code that replaces the recorded code, to test whether it still gives this model.",
        ),
        click.option(
            "--data",
            "replaced",
            multiple=True,
            metavar="OLD=NEW",
            help="Use the dataset NEW in place of OLD, the URI, UUID or name of a recorded dataset. May be repeated.",
        ),
        click.option(
            "--search",
            multiple=True,
            metavar="BASE_URI",
            help="Search here for datasets that are not at their recorded URI. May be repeated.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            metavar="N",
            help="The number of threads of torch. Default: as recorded.",
        ),
        start,
        click.option("--trace", is_flag=True, help="Find the first optimizer step at which the two trainings differ."),
        click.option(
            "--timeout", type=float, metavar="SECONDS", help="The time limit for each training. Default: none."
        ),
        click.option(
            "--allow-write",
            multiple=True,
            type=click.Path(exists=True),
            metavar="PATH",
            help="Let the code write to this file or folder, beside its own temporary folder. May be repeated.",
        ),
        click.option("--allow-network", is_flag=True, help="Let the code use the network."),
        online_option,
        click.option("--all", "everything", is_flag=True, help="Also list differences that had no effect."),
        json_option,
    ]

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command(cls=Command)
@click.argument("uri")
@_rerun_options(
    click.option(
        "--from",
        "from_",
        default="first",
        metavar="first|parent|URI",
        help=f"{_START} Or the URI of an earlier checkpoint of the same run: go on from there, and prove that the run "
        "resumes exactly.  [default: first]",
    )
)
def reproduce(uri: str, as_json: bool, everything: bool, replaced: tuple[str, ...], **options: Any) -> None:
    """Repeat the training of the checkpoint URI with its recorded code and data, and compare the models bit by bit.

    This runs the recorded code with your permissions, whoever wrote it: reproduce only code that you would run
    yourself. The code runs in a temporary folder, in a process of its own, up to the moment at which the checkpoint
    was saved. On most Linux systems it can neither write elsewhere nor use the network.

    The verdict is 'identical' (every bit of the weights is the same), 'within tolerance' (with --runs: all metrics lie
    in the intervals that other seeds predict), 'different' (with differences that could explain it) or 'could not run'
    (with the reason). With --from URI it is 'resume exact' (every bit of all states is the same as in the run that was
    not stopped) or 'different'. It is stored as a small dataset that refers to the checkpoints.
    """
    import lightning_dtool  # resolves its names on first use

    with _progress() as say:
        found = lightning_dtool.reproduce(uri, data=_pairs(replaced), progress=say, **options)
    _print_verdict(found, as_json, everything)


@click.command(cls=Command)
@click.argument("uri")
@click.option("--train", required=True, metavar="URI", help="The new dataset to train on.")
@click.option(
    "--val", metavar="URI", help="The new dataset to validate on. Default: a part of --train, split as recorded."
)
@click.option(
    "--test", metavar="URI", help="The new dataset to test on. Default: a part of --train, split as recorded."
)
@_rerun_options(click.option("--from", "from_", type=click.Choice(["first", "parent"]), default="first", help=_START))
def replicate(uri: str, as_json: bool, everything: bool, replaced: tuple[str, ...], **options: Any) -> None:
    """Repeat the training of the checkpoint URI on new data, and compare the results.

    This runs the recorded code with your permissions, whoever wrote it: replicate only code that you would run
    yourself.

    The weights will differ. With --runs the metrics are judged: the verdict is 'within tolerance' if the recorded
    metrics lie in the intervals that trainings on the new data with other seeds predict.
    """
    import lightning_dtool  # resolves its names on first use

    with _progress() as say:
        found = lightning_dtool.replicate(uri, data=_pairs(replaced), progress=say, **options)
    _print_verdict(found, as_json, everything)


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for old, separator, new in pairs:
        if not (old and separator and new):
            raise click.UsageError(f"--data {old}{separator}{new}: expected OLD=NEW.")
    return {old: new for old, _, new in pairs}


@contextmanager
def _progress() -> "Iterator[Callable[[str], None]]":
    """Show the progress of a rerun on a terminal."""
    from lightning_dtool.printing import printable

    with status("Starting") as shown:

        def say(text: str) -> None:
            if shown is not None:
                from rich.text import Text

                shown.update(Text(printable(text)))

        yield say


def _print_verdict(found: "Reproduction", as_json: bool, everything: bool) -> None:
    """Print the result and exit with its code."""
    if as_json:
        print_json(found.to_dict())
    else:
        from lightning_dtool.export.text.verdict import document

        print_rich(lambda _: document(found, everything))
    raise click.exceptions.Exit(
        0 if found.successful else 5 if found.verdict in ("could not run", "could not compare") else 1
    )
