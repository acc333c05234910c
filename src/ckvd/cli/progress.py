"""Progress of a download: a bar where there is a terminal, plain lines where there is none."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from ckvd.cli.terminal import err

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckvd.acquisition.report import Progress


@contextlib.contextmanager
def show_progress() -> Iterator[Callable[[Progress], None]]:
    """Show how far a download is, on standard error, until it ends. Yields what to call with each progress."""
    if not err.is_terminal:
        yield _print_line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with ProgressBar(*columns, console=err, transient=True) as bytes_bar:
        bar = bytes_bar.add_task("downloading", total=None)

        def update(progress: Progress) -> None:
            bytes_bar.update(
                bar,
                description=f"{progress.archive_count} of {progress.archive_total} archives",
                completed=progress.nbytes,
                total=progress.nbytes_total,
            )

        yield update


def _print_line(progress: Progress) -> None:
    latest = progress.latest
    if latest is not None:
        count = f"{progress.archive_count}/{progress.archive_total}"
        err.print(f"{count} {latest.series} {latest.period} {latest.outcome}", markup=False)
