"""Missing bars are those that a read misses, with the same reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.maintenance.gap_report import fill_by_month, report_gaps
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Absence, Reason
from ckvd.model.timespan import Span
from support.caches import day
from support.tables import BTCUSDT_1M, make_table, regular_table

if TYPE_CHECKING:
    from pathlib import Path
HOURS = SeriesKey.of("BTCUSDT", "1h")


def test_gaps_agree_with_what_is_read(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    opens = regular_table(HOURS, day(0, 4)).open_time
    halt = Absence(int(opens[54]), int(opens[60]), Reason.HALTED)
    SeriesStore(folder, HOURS).put(make_table(HOURS, opens[:48]), day(0, 2))
    SeriesStore(folder, HOURS).put(
        make_table(HOURS, np.delete(opens[48:], slice(6, 12))), day(2, 2), absences=[halt]
    )
    wanted = Span(day(0).start_ms, day(6).start_ms)
    report = report_gaps(folder, HOURS, wanted)
    with KlineCache(folder.root) as cache:
        klines = cache.read_series(HOURS, wanted, missing="ignore")
    assert report.gaps == klines.gaps
    assert report.bar_counts == {Reason.HALTED: 6, Reason.NOT_FETCHED: 48}
    fills = fill_by_month(report)
    assert [(fill.expected_count, fill.bar_count) for fill in fills] == [(48, 48), (96, 42)]


def test_a_gap_that_a_seam_cuts_is_one_gap(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    opens = regular_table(HOURS, day(0, 2)).open_time
    SeriesStore(folder, HOURS).put(make_table(HOURS, opens[:20]), day(0))
    SeriesStore(folder, HOURS).put(make_table(HOURS, opens[30:]), day(1))
    (gap,) = report_gaps(folder, HOURS).gaps
    assert gap.bar_count == 10
    assert report_gaps(folder, BTCUSDT_1M).gaps == ()
