"""All that `ckvd` prints: results on standard output, complaints and progress on standard error.

Programs read the output too: it is plain lines with tabs between cells, or JSON. Only a terminal gets columns and
progress bars, and only then is tqdm loaded. No other module prints but `main`, which may have to before this one is
loaded.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
import unicodedata
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ckvd.model.market import Kind
    from ckvd.model.provenance import Gap

_T = TypeVar("_T")

_BETWEEN_COLUMNS: Final = "  "
_BAR: Final = "{desc} {bar:30} "
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


# --- Lines -------------------------------------------------------------------------------------------------


def say(line: str) -> None:
    """Print a line on standard output."""
    click.echo(_printable(line))


def complain(message: str) -> None:
    """Print an error as one line on standard error."""
    say_on_stderr(f"ckvd: {message}")


def say_on_stderr(line: str) -> None:
    """Print a line about progress on standard error."""
    click.echo(_printable(line), err=True)


def _printable(text: str) -> str:
    """Escape what would change a terminal, and bytes of file names that are no text. Tabs and line ends stay."""
    if text.isprintable():
        return text
    return "".join(
        mark if mark.isprintable() or mark in "\n\t" else mark.encode("unicode_escape").decode() for mark in text
    )


def propose(line: str, *, is_work_left: bool) -> None:
    """Print a summary of what a verb would do. If there is anything to do, name the option that does it."""
    say(f"{line}; add --yes to do it" if is_work_left else line)


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 segment`, `2 segments`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def count_rows(number: int, kind: Kind) -> str:
    """A number of rows of a kind: `1 bar`, `2 bars`, and `2 rows` where there are no bars."""
    return count(number, "bar" if kind.is_bars else "row")


def format_gap(gap: Gap, kind: Kind) -> str:
    """A gap, with the number of its rows where that is known."""
    if not (gap.bar_count or kind.is_bars):
        return f"{gap.span} {gap.reason}"
    return f"{gap.span} {count_rows(gap.bar_count, kind)} {gap.reason}"


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
    if not sys.stdout.isatty():
        for row in (names, *rows):
            print_row(row)
        return
    cells = [names, *([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    is_number = [bool(rows) and isinstance(cell, int) for cell in (rows[0] if rows else names)]
    for row in cells:
        padding = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        columns = zip(row, padding, is_number, strict=True)
        line = _BETWEEN_COLUMNS.join(pad + cell if right else cell + pad for cell, pad, right in columns)
        say(line.rstrip())


def _width(text: str) -> int:
    """The columns that text takes on a terminal: East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


# --- JSON --------------------------------------------------------------------------------------------------


def print_json(document: Any) -> None:
    """Print one JSON document, encoded by `as_json`."""
    from ckvd.model.record import as_json  # noqa: PLC0415  (loads numpy, which help does not need)

    text = json.dumps(as_json(document), ensure_ascii=False, indent=2)
    # Bytes of file names that are no text are halves of surrogate pairs, which JSON can spell and UTF-8 cannot.
    click.echo(_SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", text))


def attributes_of(value: object, *names: str) -> dict[str, Any]:
    """Some attributes of a value by name: a JSON object for `print_json`."""
    return {name: getattr(value, name) for name in names}


# --- Progress ----------------------------------------------------------------------------------------------


def is_progress_shown() -> bool:
    """Whether standard error is a terminal, where progress bars come and go."""
    return sys.stderr.isatty()


@contextlib.contextmanager
def progress_bar(
    description: str, total: int | None = None, *, is_timed: bool = False
) -> Iterator[Callable[..., None]]:
    """Show progress on the last line of the terminal on standard error until the block ends; elsewhere nothing.

    Parameters
    ----------
    description : str
    total : int, optional
        How much there is to do. Without it only the description is shown.
    is_timed : bool
        Whether to show how much time is left.

    Yields
    ------
    callable
        It takes what changes: `description`, `total`, `completed` or `advance`.
    """
    if not is_progress_shown():
        yield lambda **_changes: None
        return
    from tqdm import tqdm  # noqa: PLC0415  (only terminals need it)

    # Otherwise it would start a thread, and a process that tracks a semaphore.
    tqdm.monitor_interval = 0
    tqdm.set_lock(RLock())
    # tqdm shows nothing on a terminal that does not tell its size.
    columns, lines = shutil.get_terminal_size()
    with tqdm(
        desc=description,
        total=total,
        file=sys.stderr,
        leave=False,
        ncols=columns,
        nrows=lines,
        bar_format=_form(total, is_timed=is_timed),
    ) as bar:

        def update(
            *,
            description: str | None = None,
            total: int | None = None,
            completed: int | None = None,
            advance: int = 0,
        ) -> None:
            if total is not None:
                bar.total = total
                bar.bar_format = _form(total, is_timed=is_timed)
            bar.update(advance if completed is None else completed - bar.n)
            if description not in (None, bar.desc):
                bar.set_description_str(description)

        yield update
        bar.refresh()  # tqdm skips what changes within a tenth of a second.


def _form(total: int | None, *, is_timed: bool) -> str:
    """What a progress bar shows, in tqdm's words."""
    if total is None:
        return "{desc}"
    return _BAR + ("{n_fmt}/{total_fmt}, {remaining} left" if is_timed else "{n_fmt}/{total_fmt}")


def track(items: Sequence[_T], description: str) -> Iterator[_T]:
    """Yield items one by one and show how many are done."""
    with progress_bar(description, len(items)) as update:
        for item in items:
            yield item
            update(advance=1)
