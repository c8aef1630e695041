"""The command line: `lightning-dtool`, and the same commands as `dtool model`.

Results go to standard output, everything else to standard error. A command imports its modules when it runs; only
commands that run or compare models need torch or Lightning.
"""

import click

from lightning_dtool._version import __version__
from lightning_dtool.cli.comparison import compare, diff
from lightning_dtool.cli.evaluation import evaluate
from lightning_dtool.cli.inspection import check, ls, resolve, show, verify
from lightning_dtool.cli.packing import pack
from lightning_dtool.cli.recovery import recover
from lightning_dtool.cli.reproduction import replicate, reproduce
from lightning_dtool.cli.scanning import scan


@click.group("model", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lightning-dtool")
def model() -> None:
    """List, read, verify and use Lightning checkpoints that are dtool datasets, and pack data as datasets.

    A dataset is named by its URI, or by its folder if it is on a local disk.

    \b
    Exit codes:
      0    success
      1    content differs from its recorded size or hash; check --strict: a point failed or could not be checked;
           scan: something was found or not searched;
           diff, compare: the checkpoints differ, and nothing else; reproduce, replicate: the verdict is 'different'
      2    wrong usage: an invalid option, URI, name or table, or an overlay that does not exist
      3    the dataset or an item does not exist, is not a checkpoint, is not frozen or cannot be read; evaluate: the
           model cannot be run on the data; diff, compare: content differs from its recorded size or hash
      4    the store cannot be reached, read or written; recover: something could not be finished or removed
      5    reproduce, replicate: the verdict is 'could not run' or 'could not compare'
      70   a fault of lightning-dtool itself: please report it with the traceback
      130  interrupted
      141  the reader of the output closed the pipe
    """  # noqa: D301 - click's own marker


for command in (ls, show, check, verify, resolve, diff, compare, reproduce, replicate, evaluate, pack, recover, scan):
    model.add_command(command)


def main() -> None:
    """Run the `lightning-dtool` command."""
    model(prog_name="lightning-dtool")
