"""The verbs that show what a cache holds: `list`, `info`, `stats` and `gaps`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ckvd.cache.folder import CacheFolder
from ckvd.cli import EXIT_INCOMPLETE
from ckvd.cli.cache.verb import Bounds, Result, Selection
from ckvd.cli.options import exit_with
from ckvd.cli.printing import count, count_rows, format_gap, format_nbytes, print_table, say, track
from ckvd.errors import shown
from ckvd.maintenance.gap_report import GapReport, MonthFill, fill_by_month, report_gaps
from ckvd.maintenance.inventory import (
    CacheTotals,
    SegmentSummary,
    SeriesSummary,
    describe_segments,
    list_series,
    summarise_series,
    total,
    winning_sources,
)
from ckvd.model.market import Interval, Kind, Market, SeriesKey
from ckvd.model.provenance import Reason, narrow
from ckvd.model.timespan import Span, format_time, union

if TYPE_CHECKING:
    from ckvd.maintenance.verification import Finding

# --- list --------------------------------------------------------------------------------------------------


def list_command(*, selection: Selection) -> Result:
    """`ckvd cache list`."""
    summaries = selection.expect_some(list(list_series(selection.folder, selection.filter, selection.refuse)))
    return Result(summaries, partial(_show_list, summaries))


def _show_list(summaries: list[SeriesSummary]) -> None:
    names = (
        "series",
        "span",
        "holes",
        "bars",
        "missing",
        "segments",
        "size",
        "sources",
        "provisional",
        "untraded tail",
    )
    print_table(names, [_series_row(summary) for summary in summaries])


def _series_row(summary: SeriesSummary) -> tuple[object, ...]:
    tail = summary.untraded_tail
    sources = ", ".join(f"{number} {origin}" for origin, number in summary.origins.items()) or "-"
    return (
        str(summary.series),
        str(summary.span),
        len(summary.coverage) - 1,
        summary.bar_count,
        summary.missing_bar_count,
        summary.segment_count,
        format_nbytes(summary.nbytes),
        sources,
        ", ".join(map(str, summary.provisional)) or "-",
        "-" if tail is None else f"{count(tail.bar_count, 'bar')} since {format_time(tail.start_ms)}",
    )


# --- info --------------------------------------------------------------------------------------------------


def info(*, symbol: str, interval: Interval | None, market: Market, kind: Kind, folder: CacheFolder) -> Result:
    """`ckvd cache info`."""
    series = SeriesKey.of(symbol.upper(), interval, market=market, kind=kind)
    summary = summarise_series(folder, series)
    if not summary.segment_count:
        raise exit_with(EXIT_INCOMPLETE, f"{series} is not in the cache {folder.root}")
    from ckvd.maintenance.verification import Trouble, verify_series  # noqa: PLC0415  (loads asyncio; `list` must not)

    segments = describe_segments(folder, series)
    findings = list(verify_series(folder, series, is_quick=True))
    document = {**summary.to_json(), "segments": segments, "findings": findings}
    is_readable = all(finding.trouble is not Trouble.UNREADABLE for finding in findings)
    return Result(document, partial(_show_series, summary, segments, findings), is_readable)


def _show_series(summary: SeriesSummary, segments: list[SegmentSummary], findings: list[Finding]) -> None:
    say(f"{summary.series}: {count_rows(summary.bar_count, summary.series.kind)}, {format_nbytes(summary.nbytes)}")
    for span in summary.coverage:
        say(f"covers {span}")
    if summary.untraded_tail is not None:
        say(f"untraded {summary.untraded_tail}")
    print_table(("segment", "speaks for", "bars", "size", "state"), [_segment_row(segment) for segment in segments])
    for source in winning_sources(segments):
        confirmed = "confirmed" if source.is_checksum_published else "not confirmed"
        preferred = " preferred" if source.is_preferred else ""
        labels = f" labels {shown(source.labels)}" if source.labels else ""
        sha256 = shown(source.sha256[:16]) or "-"
        say(f"source {shown(source.name)} {source.row_count} rows {sha256} {confirmed}{preferred}{labels}")
    for segment in segments:
        _show_absences(segment)
    for finding in findings:
        say(f"{finding.severity}: {finding.path.name}: {finding.message}")


def _segment_row(segment: SegmentSummary) -> tuple[object, ...]:
    state = segment.trouble or ("provisional" if segment.is_provisional else "closed")
    if segment.recheck_ms:
        state += f", ask again {format_time(segment.recheck_ms)}"
    covered = ", ".join(map(str, segment.held)) or "nothing"
    return segment.name.file_name, covered, segment.row_count, format_nbytes(segment.nbytes), state


def _show_absences(segment: SegmentSummary) -> None:
    for absence in (absence for part in segment.held for absence in narrow(segment.absences, part)):
        again = f", ask again {format_time(absence.recheck_ms)}" if absence.recheck_ms else ""
        said = f" ({shown(absence.later)})" if absence.reason is Reason.UNKNOWN else ""
        say(f"absent {absence.span} {absence.reason}{said}{again}")


# --- stats -------------------------------------------------------------------------------------------------


def stats(*, selection: Selection) -> Result:
    """`ckvd cache stats`."""
    selection.series()
    totals = total(selection.folder, selection.filter, selection.refuse)
    return Result(totals, partial(_show_totals, totals))


def _show_totals(totals: CacheTotals) -> None:
    print_table(
        ("market", "interval", "series", "segments", "bars", "size"),
        [(*group, *sums[:3], format_nbytes(sums[3])) for group, sums in sorted(totals.groups.items())],
    )
    if totals.groups:
        oldest, newest = (format_time(ms - ms % 1000) for ms in (totals.oldest_file_ms, totals.newest_file_ms))
        say(f"written from {oldest} to {newest}")
    merged = count(totals.packable_segment_count, "segment")
    say(f"packing would merge {merged} of {format_nbytes(totals.packable_nbytes)}")
    say(f"packing would remove {format_nbytes(totals.superseded_nbytes)} that newer segments have replaced")


# --- gaps --------------------------------------------------------------------------------------------------


def gaps(*, selection: Selection, bounds: Bounds, calendar: bool) -> Result:
    """`ckvd cache gaps`."""
    wanted = bounds.span

    def report(series: SeriesKey) -> GapReport | None:
        covered = union(name.span for name in selection.folder.segments(series))
        if not covered:
            return None
        # A bound that was not given is that of the series.
        start_ms = covered[0].start_ms if wanted is None or bounds.start is None else wanted.start_ms
        end_ms = covered[-1].end_ms if wanted is None or bounds.end is None else wanted.end_ms
        return report_gaps(selection.folder, series, Span(start_ms, end_ms)) if start_ms < end_ms else None

    found = selection.work_on(track(selection.series(), "looking for gaps"), report)
    reports = [one for one in found if one is not None]
    if not (reports or selection.refusals):
        raise selection.nothing()
    is_all_fetched = not any(Reason.NOT_FETCHED in report.bar_counts for report in reports)
    return Result(reports, partial(_show_gaps, reports, is_calendar_wanted=calendar), is_all_fetched)


def _show_gaps(reports: list[GapReport], *, is_calendar_wanted: bool) -> None:
    for report in reports:
        kind = report.series.kind
        sums = ", ".join(_sum(number, reason, kind) for reason, number in report.bar_counts.items())
        nothing = "no bar is missing" if kind.is_bars else "no row is missing"
        say(f"{report.series} {report.span}: {sums or nothing}")
        for gap in report.gaps:
            say(f"  {format_gap(gap, kind)}")
        if report.untraded_tail is not None:
            say(f"  {report.untraded_tail}")
        for line in draw_calendar(fill_by_month(report)) if is_calendar_wanted else ():
            say(f"  {line}")


def _sum(number: int, reason: Reason, kind: Kind) -> str:
    """How many rows are missing for a reason. How many settlements were not fetched, nobody knows."""
    return f"{number:,} {reason}" if number or kind.is_bars else str(reason)


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
        return "#"
    return str(max(10 * fill.bar_count // fill.expected_count, 1)) if fill.bar_count else "."
