"""How much processor time does an update take that finds nothing to do, of a cache of 1,000 series?

A cron job makes it again and again. Each series has three years of hours in one segment, some months in another, a
day of the last archive and half a day of the REST interface. The processes are whole, with the start of the
interpreter and all imports, and open no connection: nobody answers where they would ask.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

from benchmarks.material import make_table
from benchmarks.measure import Result, Target, timing_of
from ckvd.cache import CacheFolder, SeriesStore
from ckvd.model.calendar import Cadence, days_of, months_of
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Origin, Source
from ckvd.model.timespan import Span, parse_time
from ckvd.vision.name import ArchiveName

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from benchmarks.measure import Effort
    from ckvd.model.calendar import Period

START, NOW = "2020-01-01", "2023-06-20T12:30"
_LAST_CLOSED: Final = "2023-06-20T12:00"
_OPTIONS: Final = "cache=sys.argv[1], vision_url='http://127.0.0.1:9', rest_url='http://127.0.0.1:9'"
_BEFORE: Final = f"import sys, time, ckvd; now = {parse_time(NOW)}; "
_AFTER: Final = "; assert report.is_complete and not report.errors; print(time.process_time())"
_SYMBOLS: Final = "[series.symbol for series in ckvd.KlineCache(sys.argv[1]).series()]"
CONTENDERS: Final = {
    "importing what an update needs": "import sys, time, ckvd; ckvd.update; print(time.process_time())",
    "ckvd.update": f"{_BEFORE}report = ckvd.update(clock=lambda: now, {_OPTIONS}){_AFTER}",
    "ckvd.ensure of all that is there": (
        f"{_BEFORE}report = ckvd.ensure({_SYMBOLS}, '1h', start='{START}', end='{_LAST_CLOSED}', "
        f"clock=lambda: now, {_OPTIONS}){_AFTER}"
    ),
}


def run(folder: Path, effort: Effort) -> list[Result]:
    series_count = effort.of(1000, 10)
    cache = CacheFolder(folder / "cache")
    _fill(cache, series_count)
    runs: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(effort.of(7, 1)):
        for name, statement in CONTENDERS.items():
            runs[name].append(_processor_s(statement, cache.root))
    timings = {name: timing_of(name, values) for name, values in runs.items()}
    found_s = timings["ckvd.update"].median_s
    target = Target(
        f"processor time of an update of {series_count:,} series with nothing to do",
        1.0,
        found_s,
        is_at_least=False,
        unit="s",
    )
    return [
        Result(
            "update",
            "How much processor time does an update take that finds nothing to do?",
            f"{series_count:,} series of 1h from {START} to {NOW}, in four segments each; processor time",
            "warm: the headers were read before",
            tuple(timings.values()),
            (target,),
        )
    ]


def _processor_s(statement: str, root: Path) -> float:
    argv = [sys.executable, "-c", statement, str(root)]
    return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def _fill(cache: CacheFolder, series_count: int) -> None:
    packed, months = Span.of(START, "2023-01-01"), Span.of("2023-01-01", "2023-06-01")
    days, tail = Span.of("2023-06-01", "2023-06-20"), Span.of("2023-06-20", _LAST_CLOSED)
    due_ms = parse_time("2023-06-21T08:00")
    for number in range(series_count):
        series = SeriesKey.of(f"COIN{number:04}USDT", "1h")
        store = SeriesStore(cache, series)
        for span, periods in ((packed, months_of(packed)), (months, months_of(months)), (days, days_of(days))):
            store.put(make_table(series, span), span, sources=_sources_of(series, periods))
        rest = Source(Origin.REST, "/api/v3/klines", tail.start_ms, tail.end_ms, row_count=12)
        store.put(make_table(series, tail), tail, sources=[rest], is_provisional=True, recheck_ms=due_ms)


def _sources_of(series: SeriesKey, periods: Iterable[Period]) -> list[Source]:
    return [
        Source(
            Origin.VISION_MONTHLY if period.cadence is Cadence.MONTHLY else Origin.VISION_DAILY,
            ArchiveName(series, period).path,
            period.span.start_ms,
            period.span.end_ms,
            sha256="0" * 64,
            is_checksum_published=True,
            etag='"0123456789abcdef"',
            last_modified="Mon, 01 Jan 2024 00:00:00 GMT",
            row_count=24 * (period.span.length_ms // 86_400_000),
        )
        for period in periods
    ]
