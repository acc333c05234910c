"""`ckvd cache gaps`: missing bars, and a calendar of what is there."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from ckvd.cache.folder import CacheFolder
from ckvd.cli.cache.choosing import (
    IntervalsOption,
    JsonOption,
    KindsOption,
    MarketsOption,
    OptionalEndOption,
    OptionalStartOption,
    SymbolsArgument,
    choose,
    filter_of,
    nothing_in,
    span_of,
)
from ckvd.cli.cache.printing import count, print_json, say, track
from ckvd.cli.exit_status import EXIT_INCOMPLETE
from ckvd.cli.options import CacheOption, exit_status_of_errors
from ckvd.maintenance.gap_report import GapReport, MonthFill, fill_by_month, report_gaps
from ckvd.model.provenance import Reason
from ckvd.model.timespan import Span, format_time, union

# From nothing to all of a month; in between, tenths of it.
_EMPTY, _WHOLE = ".", "#"
_SHARES: Final = "123456789"


def gaps(
    symbols: SymbolsArgument = None,
    market: MarketsOption = None,
    kind: KindsOption = None,
    interval: IntervalsOption = None,
    start: OptionalStartOption = None,
    end: OptionalEndOption = None,
    calendar: Annotated[bool, typer.Option("--calendar/--no-calendar", help="Show how full each month is.")] = True,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Show missing spans with counts and reasons, and a calendar. Status 1: something is not fetched."""
    with exit_status_of_errors():
        folder = CacheFolder.at(cache)
        wanted = span_of(start, end)
        reports = []
        for series in track(choose(folder, filter_of(symbols, market, kind, interval)), "looking for gaps"):
            covered = union(name.span for name in folder.segments(series))
            if not covered:
                continue
            # An end that was not named is where the series ends; what lies beyond it holds nothing to look at.
            start_ms = covered[0].start_ms if wanted is None or start is None else wanted.start_ms
            end_ms = covered[-1].end_ms if wanted is None or end is None else wanted.end_ms
            if start_ms < end_ms:
                reports.append(report_gaps(folder, series, Span(start_ms, end_ms)))
        if not reports:
            raise nothing_in(folder)
        if json:
            print_json([report.to_json() for report in reports])
        else:
            for report in reports:
                _print(report, is_calendar_wanted=calendar)
        if any(Reason.NOT_FETCHED in report.bar_counts for report in reports):
            raise typer.Exit(EXIT_INCOMPLETE)


def _print(report: GapReport, *, is_calendar_wanted: bool) -> None:
    sums = ", ".join(f"{number:,} {reason}" for reason, number in report.bar_counts.items())
    say(f"{report.series} {report.span}: {sums or 'no bar is missing'}")
    for gap in report.gaps:
        say(f"  {format_time(gap.start_ms)}..{format_time(gap.end_ms)} {count(gap.bar_count, 'bar')} {gap.reason}")
    if is_calendar_wanted:
        for line in draw_calendar(fill_by_month(report, report.series.interval)):
            say(f"  {line}")


def draw_calendar(fills: tuple[MonthFill, ...]) -> list[str]:
    """A line for each year with a sign for each month: `#` all bars, `.` none, a digit for tenths in between."""
    years: dict[str, list[str]] = {}
    for fill in fills:
        label = format_time(fill.start_ms)
        months = years.setdefault(label[:4], [" "] * 12)
        months[int(label[5:7]) - 1] = _sign(fill)
    return ["     JFMAMJJASOND", *(f"{year} {''.join(months)}" for year, months in years.items())]


def _sign(fill: MonthFill) -> str:
    if fill.bar_count >= fill.expected_count:
        return _WHOLE
    if fill.bar_count == 0:
        return _EMPTY
    return _SHARES[min(max(10 * fill.bar_count // fill.expected_count, 1), 9) - 1]
