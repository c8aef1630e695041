"""`reproduce` and `replicate`: train again, compare, decide."""

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from lightning_dtool.cli.console import Command, json_option, print_json, print_rich, status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning_dtool.results.reproduction import Reproduction


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


@click.command(cls=Command)
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


@click.command(cls=Command)
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
