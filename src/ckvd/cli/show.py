"""`ckvd show`: print bars of the cache with their gaps, flags and sources."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from ckvd.bars.klines import Klines
from ckvd.cache import open_cache
from ckvd.cli import EXIT_INCOMPLETE
from ckvd.cli.options import exit_with
from ckvd.cli.printing import complain, print_row, say
from ckvd.errors import shown
from ckvd.model.market import Interval, Kind, Market, SeriesKey
from ckvd.model.table import BarFlag
from ckvd.model.timespan import format_time


def show(
    *,
    symbol: str,
    interval: Interval,
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
        klines = opened.read(symbol, interval, start=start, end=end, market=market, kind=kind, missing="ignore")
        _print_bars(klines, rows)
        _print_facts(klines)
        if not klines.span and not opened.coverage(series):
            raise exit_with(
                EXIT_INCOMPLETE,
                f"{series}: nothing of it is in the cache {opened.folder.root}; fetch it with ckvd download",
            )
        for span in klines.missing:
            complain(f"{series}: {span} is not in the cache {opened.folder.root}; fetch it with ckvd download")
        if klines.missing:
            raise click.exceptions.Exit(EXIT_INCOMPLETE)


def _print_bars(klines: Klines, rows: int) -> None:
    names = [name for name in klines.column_names if name != "ignore"]
    chosen = np.arange(len(klines))
    if rows and len(klines) > rows:
        chosen = np.concatenate((chosen[: -(-rows // 2)], chosen[len(klines) - rows // 2 :]))
    print_row([*names, "flags"])
    last = -1
    for row in chosen.tolist():
        if row != last + 1:
            say("...")
        print_row(_cells(klines, names, row))
        last = row


def _cells(klines: Klines, names: list[str], row: int) -> list[str]:
    cells = [
        format_time(int(klines[name][row])) if name.endswith("_time") else f"{klines[name][row]}" for name in names
    ]
    return [*cells, _flag_names(int(klines.flags[row]))]


def _flag_names(flags: int) -> str:
    return ",".join(flag.name.lower() for flag in BarFlag if flags & flag and flag.name) or "-"


def _print_facts(klines: Klines) -> None:
    kind = ", a view of one segment" if klines.is_view else ", gathered from several segments"
    say(f"{len(klines)} bars of {klines.series} in {klines.span}{kind if len(klines) else ''}")
    for flag, count in klines.flag_counts.items():
        say(f"flag {_flag_names(flag)}: {count} bars")
    for gap in klines.gaps:
        say(f"gap {gap}")
    for source in klines.sources:
        confirmed = "confirmed by CHECKSUM" if source.is_checksum_published else "not confirmed"
        say(f"source {shown(source.name)} {source.row_count} rows {shown(source.sha256[:16])} {confirmed}")
