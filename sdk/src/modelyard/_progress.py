"""A progress bar on stderr while bytes move; nothing when nobody watches."""

import contextlib
import sys
from collections.abc import Iterator

from modelyard._parallel import Progress


@contextlib.contextmanager
def progress_bar(label: str, *, wanted: bool) -> Iterator[Progress | None]:
    """The Progress to pass to a transfer; None when `wanted` is False or stderr is no terminal."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bars(TextColumn("{task.description}", markup=False), *columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=None)

        def show(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield show
