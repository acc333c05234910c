"""How `ckvd cache` prints: tables in a terminal, lines with tabs elsewhere, or one JSON document."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from ckvd.cli.terminal import err, out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_T = TypeVar("_T")


def print_json(document: Any) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(document, ensure_ascii=False, indent=2))


def print_table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their names."""
    if not out.is_terminal:
        for row in [names, *rows]:
            typer.echo("\t".join(map(str, row)))
        return
    table = Table(box=None, pad_edge=False)
    for name in names:
        is_number = bool(rows) and isinstance(rows[0][names.index(name)], int)
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    out.print(table)


def say(line: str) -> None:
    """Print a line."""
    typer.echo(line)


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 segment`, `2 segments`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def track(items: Sequence[_T], verb: str) -> Iterator[_T]:
    """Give items one by one, with a bar on standard error where there is a terminal."""
    with _bar(verb, len(items)) as advance:
        for item in items:
            yield item
            advance(1)


@contextlib.contextmanager
def _bar(verb: str, total: int) -> Iterator[Callable[[int], None]]:
    if not err.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(verb, total=total)
        yield lambda number: progress.advance(task, number)
