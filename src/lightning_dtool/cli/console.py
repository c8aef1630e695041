"""Exit codes and the output of results and errors, for all commands.

Results go to standard output, everything else to standard error; both take any text in any locale.
"""

import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from lightning_dtool.errors import (
    ConfigurationError,
    DatasetExistsError,
    InvalidNameError,
    InvalidURIError,
    LightningDtoolError,
    MetadataKeyError,
    ReproductionError,
    StoreError,
    VerificationError,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

EXIT_CODES: tuple[tuple[int, tuple[type[Exception], ...]], ...] = (
    (1, (VerificationError,)),
    (2, (InvalidURIError, InvalidNameError, ConfigurationError, MetadataKeyError)),
    (4, (StoreError, DatasetExistsError)),
    (5, (ReproductionError,)),
    (3, (LightningDtoolError,)),
)
"""Exit codes with their errors. The first match counts. The help of `model` lists them for users."""


INTERNAL_ERROR = 70
"""The exit code of an error that is a fault of this package, as in BSD's `sysexits.h`."""


def exit_code(error: LightningDtoolError) -> int:
    """Return the exit code of an error."""
    return next(code for code, kinds in EXIT_CODES if isinstance(error, kinds))


class Command(click.Command):
    """A command that turns errors into the documented exit codes, also under `dtool`.

    Attributes:
        damaged: The exit code for content that differs from its recorded size or hash.
    """

    damaged = 1

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except LightningDtoolError as error:
            _report(error, ctx)
            code = self.damaged if isinstance(error, VerificationError) else exit_code(error)
            raise click.exceptions.Exit(code) from error
        except (KeyboardInterrupt, click.Abort):
            raise click.exceptions.Exit(130) from None
        except BrokenPipeError:
            # The reader closed the pipe. The interpreter must not fail on it again when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(141) from None
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            # Python would exit with 1, which stands for a result.
            _report_fault(error, ctx)
            raise click.exceptions.Exit(INTERNAL_ERROR) from error


online_option = click.option(
    "--online",
    is_flag=True,
    help="Also open what the record names in stores that are neither that of URI nor configured by you.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output.")


def print_rich(render: "Callable[[int | None], RenderableType]") -> None:
    """Print output that is rendered with rich.

    Args:
        render: Returns the output for a terminal of the given width in columns; the width is None without a terminal.
            Then no line is wrapped.
    """
    from rich.console import Console, Group

    terminal = sys.stdout.isatty()
    console = Console(markup=False, highlight=False, emoji=False, width=None if terminal else 1_000_000)
    with console.capture() as captured:
        # In a group: rich ignores the `no_wrap` of a text that is printed on its own.
        console.print(Group(render(console.width if terminal else None)), crop=False)
    write("\n".join(line.rstrip() for line in captured.get().rstrip().split("\n")))


def print_json(value: Any) -> None:
    """Print strict JSON in ASCII."""
    # dtool writes a NaN in an annotation as NaN, which is not valid JSON.
    strict = json.loads(json.dumps(value), parse_constant=str)
    write(json.dumps(strict, indent=2, allow_nan=False))


def write(text: str, err: bool = False) -> None:
    """Write text. Characters that the stream's encoding lacks are written as escapes."""
    encoding = (sys.stderr if err else sys.stdout).encoding or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=err)


def message(text: str) -> None:
    """Write a message that is not a result."""
    from lightning_dtool.printing import printable

    write(printable(text), err=True)


def one_line(text: object) -> str:
    """Return a text, or an error's message, on one line that is safe to print."""
    from lightning_dtool.printing import printable

    return printable(re.sub(r"\s*\n\s*", " ", str(text)))


def error_to_dict(error: Exception) -> dict[str, str | None]:
    """Return an error as plain values: its type, its message and, if it is of this package, its attributes."""
    is_own = isinstance(error, LightningDtoolError)
    return {
        "type": type(error).__name__,
        "message": str(error),
        **{name: getattr(error, name) if is_own else None for name in ("uri", "item", "path", "kind")},
    }


def _report(error: LightningDtoolError, ctx: click.Context) -> None:
    if ctx.params.get("as_json"):
        print_json({"error": error_to_dict(error)})
    message(f"Error: {one_line(error)}")


def _report_fault(error: Exception, ctx: click.Context) -> None:
    """Write the traceback of an error that no command should raise, and ask for a report."""
    from lightning_dtool.printing import printable_lines

    if ctx.params.get("as_json"):
        print_json({"error": error_to_dict(error)})
    write(printable_lines("".join(traceback.format_exception(error)).rstrip()), err=True)
    message(
        "Error: this is a fault of lightning-dtool, and says nothing about the data. Please report it with the lines "
        "above and `lightning-dtool --version`."
    )


def status(text: str) -> AbstractContextManager[Any]:
    """Show a text and a spinner on a terminal while the block runs."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console
    from rich.text import Text

    return Console(stderr=True).status(Text(text))
