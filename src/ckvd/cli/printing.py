"""All that `ckvd` prints: results on standard output, complaints and progress on standard error.

Programs read the output too: it is plain lines with tabs between cells, or JSON. Only a terminal gets columns and
progress bars, and only then are those parts of rich loaded. No other module prints but `main`, which may have to
before this one is loaded.
"""

from __future__ import annotations

import contextlib
import json
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console

from ckvd.model.record import as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_T = TypeVar("_T")

# Brackets and colons in names and messages are not markup or emoji.
_out = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
_err = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


# --- Lines -------------------------------------------------------------------------------------------------


def say(line: str) -> None:
    """Print a line on standard output."""
    typer.echo(line)


def complain(message: str) -> None:
    """Print an error as one line on standard error."""
    say_on_stderr(f"ckvd: {message}")


def say_on_stderr(line: str) -> None:
    """Print a line about progress on standard error."""
    typer.echo(line, err=True)


def propose(line: str, *, is_work_left: bool) -> None:
    """Print a summary of what a verb would do. If there is anything to do, name the option that does it."""
    say(f"{line}; add --yes to do it" if is_work_left else line)


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 segment`, `2 segments`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_nbytes(nbytes: int) -> str:
    """A number of bytes for people: `3.4 MB`."""
    size = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


# --- Tables ------------------------------------------------------------------------------------------------


def print_row(cells: Iterable[object]) -> None:
    """Print cells with tabs between them, so that `cut` can tell them apart."""
    say("\t".join(map(str, cells)))


def print_table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows below their names: in columns on a terminal, with tabs elsewhere."""
    if not _out.is_terminal:
        for row in (names, *rows):
            print_row(row)
        return
    from rich.table import Table  # noqa: PLC0415  (only terminals need it)

    table = Table(box=None, pad_edge=False)
    for position, name in enumerate(names):
        is_number = bool(rows) and isinstance(rows[0][position], int)
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    _out.print(table)


# --- JSON --------------------------------------------------------------------------------------------------


def print_json(document: Any) -> None:
    """Print one JSON document, encoded by `as_json`."""
    typer.echo(json.dumps(as_json(document), ensure_ascii=False, indent=2))


def attributes_of(value: object, *names: str) -> dict[str, Any]:
    """Some attributes of a value by name: a JSON object for `print_json`."""
    return {name: getattr(value, name) for name in names}


# --- Progress ----------------------------------------------------------------------------------------------


def is_progress_shown() -> bool:
    """Whether standard error is a terminal, where progress bars come and go."""
    return _err.is_terminal


@contextlib.contextmanager
def progress_bar(
    description: str, total: int | None = None, *, is_in_bytes: bool = False
) -> Iterator[Callable[..., None]]:
    """Show progress on the last line of the terminal on standard error until the block ends; elsewhere nothing.

    Parameters
    ----------
    description : str
    total : int, optional
        How much there is to do. Without it, and unless `is_in_bytes`, only the description is shown.
    is_in_bytes : bool

    Yields
    ------
    callable
        It takes what changes: `description`, `total`, `completed` or `advance`.
    """
    if not is_progress_shown():
        yield lambda **_changes: None
        return
    from rich import progress  # noqa: PLC0415  (only terminals need it)

    columns: list[progress.ProgressColumn] = [progress.TextColumn("{task.description}", markup=False)]
    if is_in_bytes:
        columns += [progress.BarColumn(), progress.DownloadColumn(), progress.TimeRemainingColumn()]
    elif total is not None:
        columns += [progress.BarColumn(), progress.MofNCompleteColumn()]
    with progress.Progress(*columns, console=_err, transient=True) as bar:
        yield partial(bar.update, bar.add_task(description, total=total))


def track(items: Sequence[_T], description: str) -> Iterator[_T]:
    """Yield items one by one and show how many are done."""
    with progress_bar(description, len(items)) as update:
        for item in items:
            yield item
            update(advance=1)
