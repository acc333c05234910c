"""`ckvd show`: print rows of the cache with their gaps, flags and sources."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
import numpy as np

from ckvd.bars.klines import Klines
from ckvd.cache import open_cache
from ckvd.cli import EXIT_INCOMPLETE
from ckvd.cli.options import exit_with
from ckvd.cli.printing import complain, format_gap, print_row, say
from ckvd.errors import shown
from ckvd.model.market import Interval, Kind, Market, SeriesKey
from ckvd.model.table import BarFlag
from ckvd.model.timespan import format_time

if TYPE_CHECKING:
    from ckvd.bars.funding import Funding
    from ckvd.bars.metrics import Metrics
    from ckvd.model.table import Column


def show(
    *,
    symbol: str,
    interval: Interval | None,
    start: str | None,
    end: str | None,
    market: Market,
    kind: Kind,
    cache: Path | None,
    rows: int,
) -> None:
    """`ckvd show`."""
    with open_cache(cache) as opened:
        series = SeriesKey.of(symbol, interval, market=market, kind=kind)
        span = opened.span_between(series, start, end, missing="ignore")
        # One of the three: of all kinds, only these have rows.
        found = cast("Klines | Funding | Metrics", opened.read_rows(series, span, missing="ignore"))
        _print_columns(_columns_of(found), rows)
        _print_facts(found)
        if not found.span and not opened.coverage(series):
            raise exit_with(
                EXIT_INCOMPLETE,
                f"{series}: nothing of it is in the cache {opened.folder.root}; fetch it with ckvd download",
            )
        for span in found.missing:
            complain(f"{series}: {span} is not in the cache {opened.folder.root}; fetch it with ckvd download")
        if found.missing:
            raise click.exceptions.Exit(EXIT_INCOMPLETE)


def _columns_of(found: Klines | Funding | Metrics) -> dict[str, Column]:
    """The columns to print."""
    columns = {name: found[name] for name in found.column_names if name != "ignore"}
    if isinstance(found, Klines):
        return columns | {"flags": found.flags}
    return columns


def _print_columns(columns: dict[str, Column], rows: int) -> None:
    row_count = len(next(iter(columns.values())))
    chosen = np.arange(row_count)
    if rows and row_count > rows:
        chosen = np.concatenate((chosen[: -(-rows // 2)], chosen[row_count - rows // 2 :]))
    print_row(columns)
    last = -1
    for row in chosen.tolist():
        if row != last + 1:
            say("...")
        print_row([_cell(name, column, row) for name, column in columns.items()])
        last = row


def _cell(name: str, column: Column, row: int) -> str:
    if name == "flags":
        return _flag_names(int(column[row]))
    return format_time(int(column[row])) if name == "time" or name.endswith("_time") else f"{column[row]}"


def _flag_names(flags: int) -> str:
    return ",".join(flag.name.lower() for flag in BarFlag if flags & flag and flag.name) or "-"


def _print_facts(found: Klines | Funding | Metrics) -> None:
    kind = found.series.kind
    where = ", a view of one segment" if found.is_view else ", gathered from several segments"
    noun = "bars" if kind.is_bars else "rows"
    say(f"{len(found)} {noun} of {found.series} in {found.span}{where if len(found) else ''}")
    for flag, number in found.flag_counts.items() if isinstance(found, Klines) else ():
        say(f"flag {_flag_names(flag)}: {number} bars")
    for gap in found.gaps:
        say(f"gap {gap if kind.is_bars else format_gap(gap, kind)}")
    for source in found.sources:
        confirmed = "confirmed by CHECKSUM" if source.is_checksum_published else "not confirmed"
        labels = f" labels {shown(source.labels)}" if source.labels else ""
        sha256 = shown(source.sha256[:16])
        say(f"source {shown(source.name)} {source.row_count} rows {sha256} {confirmed}{labels}")
