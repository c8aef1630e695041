"""The command line: `lightning-dtool`, and the same commands as `dtool model`.

Results go to standard output, everything else to standard error. No command here loads torch or Lightning:
what a command needs is imported when it runs.
"""

import json
import os
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lightning_dtool._version import __version__
from lightning_dtool.errors import (
    ConfigurationError,
    DatasetExistsError,
    InvalidNameError,
    InvalidURIError,
    LightningDtoolError,
    MetadataKeyError,
    NotACheckpointError,
    StoreError,
    VerificationError,
)
from lightning_dtool.items import CHECKPOINT_ITEM, CHECKPOINT_TAG, RECORD_ITEM

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from lightning_dtool.store import FrozenDataset

_EXIT_CODES: tuple[tuple[int, tuple[type[Exception], ...]], ...] = (
    (1, (VerificationError,)),
    (2, (InvalidURIError, InvalidNameError, ConfigurationError)),
    (4, (StoreError, DatasetExistsError)),
    (3, (LightningDtoolError,)),
)
"""The first that fits counts; the help of `model` tells users."""


class _Command(click.Command):
    """A command whose errors end in the exit codes that the group's help promises, under `dtool` too."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LightningDtoolError as error:
            if ctx.params.get("as_json"):
                _print_json({"error": _error(error)})
            _message(f"Error: {_one_line(error)}")
            raise click.exceptions.Exit(exit_code(error)) from error
        except (KeyboardInterrupt, click.Abort):
            raise click.exceptions.Exit(130) from None
        except BrokenPipeError:
            # Whoever read this has seen enough. The interpreter must not find the pipe broken again when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(141) from None


class _Group(click.Group):
    command_class = _Command


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")


@click.group("model", cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lightning-dtool")
def model() -> None:
    """Lightning checkpoints as dtool datasets: list, read, verify and use them.

    A dataset is given by its URI or, on disk, by its folder.

    \b
    Exit codes:
      0    fine
      1    content differs from its recorded size or hash
      2    wrong usage: an option, a malformed URI, a name that dtool does not allow
      3    not found, not a checkpoint, not frozen, or metadata that cannot be read
      4    the store cannot be reached, read or written
      130  interrupted
    """  # noqa: D301 - click's own marker


def main() -> None:
    """Run the `lightning-dtool` command."""
    model(prog_name="lightning-dtool")


@model.command()
@click.argument("base_uri")
@_json_option
def ls(base_uri: str, as_json: bool) -> None:
    """List the checkpoints in BASE_URI, newest first.

    Other datasets are left out. One that is damaged is a warning. Where the URI does not fit beside the rest of
    its row it stands below; when the output is no terminal, every checkpoint is one line that ends in its URI.
    """
    from lightning_dtool.store import iter_datasets

    def warn(uri: str, error: LightningDtoolError) -> None:
        _message(f"Warning: left out {uri}: {_one_line(error).removeprefix(f'{uri}: ')}")

    def summary(dataset: "FrozenDataset") -> dict[str, Any] | None:
        try:
            return _summary(dataset) if CHECKPOINT_TAG in dataset.tags() else None
        except LightningDtoolError as error:
            warn(dataset.uri, error)
            return None

    with _status(f"Reading {base_uri}"), ThreadPoolExecutor(8) as pool:
        found = [entry for entry in pool.map(summary, iter_datasets(base_uri, warn)) if entry]
    found.sort(key=lambda entry: (entry["frozen_at"], entry["uri"]), reverse=True)
    if as_json:
        _print_json([{**entry, "frozen_at": entry["frozen_at"].isoformat()} for entry in found])
    elif found:
        from lightning_dtool.export.text import listing

        _print(lambda console: listing(found, console.width if console.file.isatty() else None))
    else:
        _message(f"No checkpoints in {base_uri}.")


@model.command()
@click.argument("uri")
@_json_option
def show(uri: str, as_json: bool) -> None:
    """Show how the checkpoint URI came to be, and what is not known of it.

    With --json: its provenance.json, brought up to the present version of the schema.
    """
    from lightning_dtool.record import from_json

    dataset = _checkpoint(uri)
    record = from_json(_verified(dataset, RECORD_ITEM).read_bytes(), dataset.uri)
    if as_json:
        _print_json(record.model_dump(mode="json"))
        return
    from lightning_dtool.export.text import document

    facts = {
        "uuid": dataset.uuid,
        "status": _annotation(dataset, "run_status"),
        "tags": [tag for tag in dataset.tags() if tag != CHECKPOINT_TAG],
    }
    _print(lambda _: document(record, dataset.name, dataset.uri, facts))


@model.command()
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@_json_option
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
            dataset = FrozenDataset.from_uri(uri)
            dataset.verify(progress=True)
        except LightningDtoolError as error:
            codes.add(exit_code(error))
            differs = isinstance(error, VerificationError)
            results.append({"uri": uri, "status": "differs" if differs else "error", "error": _error(error)})
            if differs and not as_json:
                lines = (printable(line) for line in str(error).split("\n"))
                _write("\n  ".join([f"differs  {dataset.uri}", *lines]))
            else:
                _message(f"Error: {_one_line(error)}")
        else:
            results.append({"uri": dataset.uri, "status": "ok", "error": None})
            if not as_json:
                _write(f"ok       {dataset.uri}")
    if as_json:
        _print_json(results)
    raise click.exceptions.Exit(min(codes, default=0))


@model.command()
@click.argument("uri")
@_json_option
def resolve(uri: str, as_json: bool) -> None:
    """Print a local path of the checkpoint file of URI, verified; fetched first if the store is remote.

    For use in a shell: python eval.py "$(lightning-dtool resolve URI)"
    """
    dataset = _checkpoint(uri)
    path = _verified(dataset, CHECKPOINT_ITEM, progress=True)
    if as_json:
        _print_json({"uri": dataset.uri, "uuid": dataset.uuid, "path": str(path)})
    else:
        # As bytes: a path must come out as the file system knows it, whatever the locale.
        click.echo(os.fsencode(path))


def exit_code(error: LightningDtoolError) -> int:
    """Return the exit code that stands for an error; the group's help lists them."""
    return next(code for code, kinds in _EXIT_CODES if isinstance(error, kinds))


# -- reading ----------------------------------------------------------------------------------------


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


# -- writing ----------------------------------------------------------------------------------------


def _print(render: "Callable[[Console], RenderableType]") -> None:
    """Print what rich renders: fitted to a terminal; elsewhere as long as its lines are."""
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    if not console.file.isatty():
        console.width = 1_000_000
    with console.capture() as captured:
        console.print(render(console))
    _write("\n".join(line.rstrip() for line in captured.get().rstrip().split("\n")))


def _print_json(value: Any) -> None:
    # dtool writes NaN, which is no JSON, where an annotation has it.
    strict = json.loads(json.dumps(value), parse_constant=str)
    _write(json.dumps(strict, indent=2, allow_nan=False))


def _write(text: str, err: bool = False) -> None:
    """Write text; a character that the stream's encoding lacks is written as its escape."""
    encoding = (sys.stderr if err else sys.stdout).encoding or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=err)


def _message(text: str) -> None:
    from lightning_dtool.export.text import printable

    _write(printable(text), err=True)


def _one_line(error: LightningDtoolError) -> str:
    from lightning_dtool.export.text import printable

    return printable(re.sub(r"\s*\n\s*", " ", str(error)))


def _error(error: LightningDtoolError) -> dict[str, str]:
    return {"type": type(error).__name__, "message": str(error)}


def _status(message: str) -> AbstractContextManager[Any]:
    """Show on a terminal that something goes on."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    return console.status(Text(message)) if console.is_terminal else nullcontext()
