"""`ckvd update`: bring what the cache holds up to the present."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ckvd.cache.folder import CacheFolder
from ckvd.cache.selection import SeriesFilter
from ckvd.cli import EXIT_INCOMPLETE
from ckvd.cli.fetching import Fetching, describe_fetched
from ckvd.cli.options import exit_with
from ckvd.cli.printing import complain

if TYPE_CHECKING:
    from ckvd.acquisition.report import DownloadReport
    from ckvd.model.market import Interval, Kind, Market, SeriesKey


def update(
    *,
    symbols: tuple[str, ...],
    market: tuple[Market, ...],
    kind: tuple[Kind, ...],
    interval: tuple[Interval, ...],
    new_listings: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """`ckvd update`."""
    fetching = Fetching.of(**options)
    chosen = SeriesFilter(symbols=symbols, markets=market, kinds=kind, intervals=interval)
    refusals: list[str] = []
    series = chosen.choose(CacheFolder(fetching.root), lambda error: refusals.append(str(error)))
    for refusal in refusals:
        complain(refusal)
    if not series:
        raise exit_with(EXIT_INCOMPLETE, f"nothing of that is in the cache {fetching.root}")
    new = chosen if new_listings else None
    if dry_run:
        plan = fetching.run(lambda data, _: data.survey_update(series, new_listings=new))
        fetching.print_plan(plan)
        if refusals or plan.refused or plan.unlisted:
            raise click.exceptions.Exit(EXIT_INCOMPLETE)
        return
    report = fetching.run(
        lambda data, on_progress: data.update_series(series, new_listings=new, on_progress=on_progress)
    )
    fetching.tell(report)
    for name in dict.fromkeys(key.market for key in series):
        fetching.say(_describe_market(name, report, set(series), fetching))
    fetching.end(report, is_well=not refusals)


def _describe_market(market: Market, report: DownloadReport, held: set[SeriesKey], fetching: Fetching) -> str:
    """The line of one market."""

    def is_of_market(series: SeriesKey) -> bool:
        return series.market is market

    asked = list(filter(is_of_market, report.spans))
    current_count = sum(map(is_of_market, report.current))
    failed = {archive.series for archive in report.failed} | set(report.refused)
    failed |= {one.series for one in report.completions if one.errors}
    failed |= {series for series, spans in report.missing.items() if spans}
    failed_count = sum(map(is_of_market, failed))
    of_market = replace(
        report,
        archives=tuple(one for one in report.archives if is_of_market(one.series)),
        completions=tuple(one for one in report.completions if is_of_market(one.series)),
    )
    new_count = sum(series not in held for series in asked)
    parts = [f"{len(asked) - new_count:,} series updated", f"{current_count:,} were current"]
    if new_count:
        parts.append(f"{new_count:,} new")
    if failed_count:
        parts.append(f"{failed_count:,} incomplete")
    return f"{market}: {', '.join(parts)}; {describe_fetched(of_market)}, in {fetching.root}"
