"""Progress bars on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(label: str, total_bytes: int, *, enabled: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar while the block runs, if standard error is a terminal.

    Args:
        label: The text before the bar.
        total_bytes: The total number of bytes.
        enabled: Whether to show the bar at all.

    Yields:
        A function to call, from any thread, with the number of bytes processed since the last call.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not (enabled and console.is_terminal):
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total_bytes)
        yield lambda done: bar.advance(task, done)
