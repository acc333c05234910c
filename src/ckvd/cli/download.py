"""`ckvd download`: bring klines into the cache, and show progress."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckvd.cache.folder import CacheFolder
from ckvd.cli.fetching import Fetching, describe_fetched
from ckvd.cli.printing import complain
from ckvd.cli.symbols import choose_symbols, read_symbols, resolve_series
from ckvd.model.market import Interval, Kind, Market
from ckvd.model.timespan import Span, now_ms

if TYPE_CHECKING:
    from ckvd.acquisition.report import DownloadReport


def download(
    *,
    symbols: tuple[str, ...],
    symbols_file: Path | None,
    quote: tuple[str, ...],
    interval: tuple[Interval, ...],
    start: str | None,
    days: int | None,
    end: str,
    market: Market,
    kind: Kind,
    refresh: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """`ckvd download`."""
    span = _span_of(start, days, end)
    named = [*symbols, *(() if symbols_file is None else read_symbols(symbols_file))]
    if not (named or quote):
        raise click.UsageError("name symbols, such as BTCUSDT or 'BTC*', a --quote, or a --symbols-file")
    fetching = Fetching.of(**options)
    chosen = choose_symbols(CacheFolder(fetching.root), named, span, market=market, quote=quote)
    series = resolve_series(chosen, interval, market=market, kind=kind)
    if dry_run:
        fetching.print_plan(fetching.run(lambda data, _: data.survey(series, span, refresh=refresh)))
        return
    report = fetching.run(
        lambda data, on_progress: data.ensure_series(series, span, refresh=refresh, on_progress=on_progress)
    )
    fetching.tell(report)
    _print_summary(fetching, report, span)
    is_known = any(spans and key not in report.not_found for key, spans in report.missing.items())
    if is_known and not (report.archives or refresh or fetching.json):
        complain("unavailable before, and asked for again when its time has come; --refresh asks at once")
    fetching.end(report)


def _span_of(start: str | None, days: int | None, end: str) -> Span:
    """The span of --start or --days, and --end."""
    if days is not None and start is not None:
        raise click.UsageError("--days and --start both say where to begin: give one of them")
    if days is not None:
        start = f"{days}d"
    if start is None:
        raise click.UsageError("say where to begin: --start TIME, such as 2024-01-31 or 30d, or --days 30")
    return Span.of(start, end, present_ms=now_ms())


def _print_summary(fetching: Fetching, report: DownloadReport, span: Span) -> None:
    for series, tail in report.untraded_tails.items():
        fetching.say(f"{series}: {tail}")
    if report.covered_before:
        fetching.say(f"everything was in the cache already, {fetching.root}")
        return
    for series in report.unclosed:
        whose = "" if len(report.unclosed) == len(report.spans) == 1 else f" of {series}"
        complain(f"no bar{whose} of {span} is closed yet" if span else f"{span} is empty")
        if not span:
            break
    if len(report.unclosed) < len(report.spans):
        fetching.say(f"{describe_fetched(report)}, in {fetching.root}")
