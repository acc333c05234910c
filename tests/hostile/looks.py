"""Everything that looks at the segments of a cache, on one of two series; the other one must not notice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import ckvd
from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cache.coverage import read_coverage, unavailable_absences, uncovered_spans
from ckvd.cache.packing import pack_series
from ckvd.cache.selection import SeriesFilter
from ckvd.errors import SegmentError
from ckvd.maintenance.data_lock import lock_data
from ckvd.maintenance.export import export_series
from ckvd.maintenance.gap_report import report_gaps
from ckvd.maintenance.inventory import describe_segments, list_series, summarise_series
from ckvd.maintenance.pruning import prune_span
from ckvd.maintenance.verification import Severity, verify_cache
from ckvd.model.provenance import Absence, Origin, Reason, Source
from ckvd.model.timespan import Span
from support.caches import segment_paths
from support.models import DAY_MS, HOUR_MS
from support.tables import make_table, regular_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NEIGHBOUR, SERIES = (ckvd.SeriesKey.of(symbol, "1h") for symbol in ("AAAUSDT", "BBBUSDT"))
DAY = Span.of("2024-01-05", "2024-01-06")
HOLE = Span(DAY.end_ms - HOUR_MS, DAY.end_ms)
SOURCE = Source(Origin.VISION_DAILY, "BBBUSDT-1h-2024-01-05.zip", DAY.start_ms, DAY.end_ms, row_count=23)
ABSENCE = Absence(HOLE.start_ms, HOLE.end_ms, Reason.HALTED)


def fill(folder: CacheFolder, *, has_bars: bool) -> CacheFolder:
    """Two series of one day; of one of them, the last hour is missing, or all hours."""
    SeriesStore(folder, NEIGHBOUR).put(regular_table(NEIGHBOUR, DAY), DAY)
    opens = range(DAY.start_ms, HOLE.start_ms, HOUR_MS) if has_bars else ()
    SeriesStore(folder, SERIES).put(make_table(SERIES, opens), DAY, sources=[SOURCE], absences=[ABSENCE])
    return folder


def segment_of(folder: CacheFolder) -> Path:
    (path,) = folder.series_path(SERIES).glob("*.ckvd")
    return path


def read_all(folder: CacheFolder) -> None:
    with ckvd.open_cache(folder.root) as cache:
        klines = cache.read_series(SERIES, DAY, missing="ignore")
        str(klines.gaps), str(klines.sources), klines.close.sum(), klines.flag_counts


LOOKS: dict[str, Callable[[CacheFolder], object]] = {
    "read": read_all,
    "coverage": lambda folder: read_coverage(folder, SERIES, DAY),
    "uncovered": lambda folder: uncovered_spans(folder, SERIES, DAY, DAY.end_ms + DAY_MS),
    "unavailable": lambda folder: unavailable_absences(folder, SERIES, DAY),
    "summary": lambda folder: summarise_series(folder, SERIES).to_json(),
    "segments": lambda folder: json.dumps([one.to_json() for one in describe_segments(folder, SERIES)]),
    "gaps": lambda folder: str(report_gaps(folder, SERIES).to_json()),
    "pack": lambda folder: pack_series(folder, SERIES, is_thorough=True),
    "lock": lambda folder: list(lock_data(folder, SeriesFilter(symbols=(SERIES.symbol,)))),
    "export": lambda folder: list(export_series(folder, SERIES, folder.root / ".export", is_overwriting=True)),
    "prune": lambda folder: prune_span(folder, SERIES, Span(DAY.start_ms, DAY.start_ms + HOUR_MS)),
}


def look_at(folder: CacheFolder, path: Path) -> list[str]:
    """Let everything look at a segment. Return what failed with an error that names it."""
    whole = path.read_bytes()
    failed, said = [], []
    for name, look in LOOKS.items():
        try:
            look(folder)
        except SegmentError as error:
            failed.append(name)
            # Not the error: with its frames it would keep what was mapped.
            said.append((error.path, str(error)))
        if not path.exists():  # it was readable, and was cut or packed
            for made in segment_paths(folder):
                if made.parent == path.parent:
                    made.unlink()
            path.write_bytes(whole)
    assert {place for place, _ in said} <= {str(path)}
    assert all(message.isprintable() for _, message in said)
    findings = list(verify_cache(folder))
    assert all(finding.series == SERIES for finding in findings)
    is_error = any(finding.severity is Severity.ERROR for finding in findings)
    assert is_error or not failed
    assert [summary.bar_count for summary in list_series(folder) if summary.series == NEIGHBOUR] == [24]
    return failed
