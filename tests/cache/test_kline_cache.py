"""Reading across segments: each bar once, from the segment that wins, and an error for what is missing."""

from __future__ import annotations

import datetime as dt
import mmap
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.errors import CacheError, CkvdError, IdentityError, NotCachedError, SegmentError, TimeError
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Absence, Gap, Origin, Reason, Source
from ckvd.model.timespan import Span
from ckvd.segment import SegmentReader
from support.models import DAY_MS, MINUTE_MS, ms
from support.tables import BTCUSDT_1M, folder_state, make_table, memory_owner, regular_table, same_bits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckvd.bars.klines import Klines

START_MS = ms(2024, 2, 28, 23, 30)
WINDOW = Span(START_MS, START_MS + 60 * MINUTE_MS)


def window(start: int, end: int) -> Span:
    """A span in minutes of the window."""
    return Span(START_MS + start * MINUTE_MS, START_MS + end * MINUTE_MS)


def put(folder: Path, span: Span, series: SeriesKey = BTCUSDT_1M, **columns: float) -> Path:
    """Add a segment with a bar in each minute of a span."""
    return SeriesStore(CacheFolder(folder), series).put(regular_table(series, span, **columns), span)


def assert_is_view(klines: Klines) -> None:
    """The bars lie in a mapped file."""
    assert klines.is_view
    assert isinstance(memory_owner(klines.open_time), mmap.mmap)
    assert not klines.open_time.flags.writeable


# --- Views and gathering -----------------------------------------------------------------------------------


def test_bars_of_one_segment_are_a_view_however_often_they_are_read(tmp_path: Path) -> None:
    put(tmp_path, WINDOW)
    with KlineCache(tmp_path) as cache:
        whole, part = (cache.read_series(BTCUSDT_1M, span) for span in (WINDOW, window(10, 20)))
        for klines in (whole, part):
            assert_is_view(klines)
        assert np.shares_memory(whole.open_time, part.open_time)
        assert same_bits(part.close, whole.close[10:20])


def test_bars_of_several_segments_are_gathered(tmp_path: Path) -> None:
    put(tmp_path, window(0, 30), close=1.0)
    put(tmp_path, window(30, 60), close=2.0)
    with KlineCache(tmp_path) as cache:
        klines = cache.read_series(BTCUSDT_1M, WINDOW)
        assert not klines.is_view
        assert klines.close.tolist() == [1.0] * 30 + [2.0] * 30
        assert_is_view(cache.read_series(BTCUSDT_1M, window(31, 60)))


def test_a_day_within_a_month_gives_each_bar_once(tmp_path: Path) -> None:
    put(tmp_path, window(0, 60), close=1.0)
    put(tmp_path, window(20, 30), close=2.0)
    with KlineCache(tmp_path) as cache:
        klines = cache.read_series(BTCUSDT_1M, WINDOW)
        assert klines.open_time.tolist() == list(range(WINDOW.start_ms, WINDOW.end_ms, MINUTE_MS))
        assert klines.close.tolist() == [1.0] * 20 + [2.0] * 10 + [1.0] * 30
        assert_is_view(cache.read_series(BTCUSDT_1M, window(20, 30)))


def test_a_segment_without_bars_hides_the_bars_below_it(tmp_path: Path) -> None:
    put(tmp_path, WINDOW)
    store = SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M)
    store.put(make_table(BTCUSDT_1M, []), window(10, 20))
    with KlineCache(tmp_path) as cache:
        klines = cache.read_series(BTCUSDT_1M, WINDOW)
        assert len(klines) == 50
        assert [gap.span for gap in klines.gaps] == [window(10, 20)]
        assert len(cache.read_series(BTCUSDT_1M, window(10, 20))) == 0


# --- What is asked for -------------------------------------------------------------------------------------


def test_a_span_can_be_given_in_every_form_and_its_end_is_excluded(tmp_path: Path) -> None:
    put(tmp_path, WINDOW)
    end_ms = START_MS + 45 * MINUTE_MS
    with KlineCache(tmp_path) as cache:
        expected = cache.read_series(BTCUSDT_1M, window(0, 45))
        for start, end in (
            ("2024-02-28T23:30", "2024-02-29T00:15Z"),
            (START_MS, end_ms),
            (np.datetime64("2024-02-28T23:30"), np.datetime64(end_ms, "ms")),
            (dt.datetime(2024, 2, 28, 23, 30, tzinfo=dt.UTC), dt.datetime(2024, 2, 29, 0, 15)),  # noqa: DTZ001
        ):
            klines = cache.read("BTCUSDT", "1m", start=start, end=end)
            assert klines == expected
            assert klines.span == window(0, 45)
        assert klines.open_time[-1] == end_ms - MINUTE_MS


def test_an_invalid_series_or_span_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with KlineCache(tmp_path / "not there") as cache:
        for symbol, interval, market, kind in (
            ("btcusdt", "1m", "spot", "klines"),
            ("../BTCUSDT", "1m", "spot", "klines"),
            ("BTCUSDT", "2m", "spot", "klines"),
            ("BTCUSDT", "1m", "futures", "klines"),
            ("BTCUSDT", "1m", "spot", "markPriceKlines"),
        ):
            with pytest.raises(IdentityError):
                cache.read(symbol, interval, start="2024-01-01", end="2024-01-02", market=market, kind=kind)
        with pytest.raises(IdentityError, match="a symbol is text"):
            cache.read(["BTCUSDT"], "1m", start="2024-01-01", end="2024-01-02")  # type: ignore[arg-type]
        for start, end in (("2024-01-02", "2024-01-01"), ("lately", "now")):
            with pytest.raises(TimeError):
                cache.read("BTCUSDT", "1m", start=start, end=end)


@pytest.mark.parametrize("missing", ["Ignore", "rais", "", True])
def test_a_misspelled_missing_is_refused_whether_anything_is_missing_or_not(tmp_path: Path, missing: Any) -> None:
    put(tmp_path, WINDOW)
    start, end = WINDOW.start_ms, WINDOW.end_ms
    with KlineCache(tmp_path) as cache:
        for end_ms in (end, end + DAY_MS):
            for ask in (cache.read, cache.scan):
                with pytest.raises(ValueError, match=r"^missing is \"raise\" or \"ignore\", not "):
                    ask("BTCUSDT", "1m", start=start, end=end_ms, missing=missing)
            with pytest.raises(ValueError, match=r"^missing is "):
                cache.panel(["BTCUSDT"], "1m", start, end_ms, missing=missing)


def test_nothing_is_missing_of_an_empty_span(tmp_path: Path) -> None:
    with KlineCache(tmp_path) as cache:
        klines = cache.read("BTCUSDT", "1m", start=START_MS, end=START_MS)
        assert (len(klines), klines.missing, klines.gaps) == (0, (), ())


def test_missing_spans_are_an_error_that_names_each_of_them_and_the_remedy(tmp_path: Path) -> None:
    put(tmp_path, window(10, 20))
    put(tmp_path, window(30, 40))
    missing = (window(0, 10), window(20, 30), window(40, 60))
    with KlineCache(tmp_path) as cache:
        with pytest.raises(NotCachedError) as caught:
            cache.read("BTCUSDT", "1m", start=WINDOW.start_ms, end=WINDOW.end_ms)
        klines = cache.read("BTCUSDT", "1m", start=WINDOW.start_ms, end=WINDOW.end_ms, missing="ignore")
    assert caught.value.missing == klines.missing == missing
    message = str(caught.value)
    assert all(str(span) in message for span in missing)
    assert str(BTCUSDT_1M) in message
    assert 'missing="ignore"' in message
    assert len(klines) == 20
    assert [(gap.span, gap.reason) for gap in klines.gaps] == [(span, Reason.NOT_FETCHED) for span in missing]


def test_of_many_missing_spans_the_message_shows_a_few_and_the_error_all(tmp_path: Path) -> None:
    for minute in range(0, 60, 2):
        put(tmp_path, window(minute, minute + 1))
    with KlineCache(tmp_path) as cache, pytest.raises(NotCachedError, match="and 25 more of ") as caught:
        cache.read_series(BTCUSDT_1M, WINDOW)
    assert len(caught.value.missing) == 30
    assert isinstance(caught.value, LookupError)
    assert isinstance(caught.value, CkvdError)


def absent(reason: Reason, span: Span) -> list[Absence]:
    return [Absence(span.start_ms, span.end_ms, reason)]


@pytest.mark.parametrize("reason", [Reason.HALTED, Reason.BEFORE_LISTING, Reason.AFTER_DELISTING])
def test_a_span_in_which_no_bars_exist_is_not_missing(tmp_path: Path, reason: Reason) -> None:
    store = SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M)
    store.put(make_table(BTCUSDT_1M, []), WINDOW, absences=absent(reason, WINDOW))
    with KlineCache(tmp_path) as cache:
        klines = cache.read_series(BTCUSDT_1M, WINDOW)
        assert (len(klines), klines.missing) == (0, ())
        assert klines.gaps == (Gap(WINDOW.start_ms, WINDOW.end_ms, 60, reason),)


@pytest.mark.parametrize("reason", [Reason.NOT_PUBLISHED, Reason.ARCHIVE_DAMAGED])
def test_a_span_whose_bars_were_unavailable_is_missing_and_its_reason_is_told(
    tmp_path: Path, reason: Reason
) -> None:
    put(tmp_path, window(0, 30))
    nothing = window(30, 60)
    store = SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M)
    store.put(make_table(BTCUSDT_1M, []), nothing, absences=absent(reason, nothing))
    with KlineCache(tmp_path) as cache:
        with pytest.raises(NotCachedError) as caught:
            cache.read_series(BTCUSDT_1M, WINDOW)
        assert caught.value.missing == (nothing,)
        klines = cache.read_series(BTCUSDT_1M, WINDOW, missing="ignore")
        assert klines.gaps == (Gap(nothing.start_ms, nothing.end_ms, 30, reason),)


def test_a_reason_counts_only_where_its_segment_wins(tmp_path: Path) -> None:
    store = SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M)
    bars = regular_table(BTCUSDT_1M, WINDOW)
    store.put(bars.rows(0, 10), WINDOW, absences=absent(Reason.ARCHIVE_DAMAGED, window(10, 60)))
    newer = window(20, 30)
    store.put(bars.rows(25, 30), newer, absences=absent(Reason.HALTED, newer))
    with KlineCache(tmp_path) as cache:
        gaps = cache.read_series(BTCUSDT_1M, WINDOW).gaps
    assert [(gap.span, gap.reason) for gap in gaps] == [
        (window(10, 20), Reason.ARCHIVE_DAMAGED),
        (window(20, 25), Reason.HALTED),
        (window(30, 60), Reason.ARCHIVE_DAMAGED),
    ]


def test_the_sources_of_the_bars_are_told_in_order(tmp_path: Path) -> None:
    store = SeriesStore(CacheFolder(tmp_path), BTCUSDT_1M)
    parts = [window(0, 30), window(30, 60)]
    sources = [
        Source(Origin.VISION_DAILY, f"{number}.zip", part.start_ms, part.end_ms, sha256=str(number) * 64)
        for number, part in enumerate(parts)
    ]
    for part, source in zip(parts, sources, strict=True):
        store.put(regular_table(BTCUSDT_1M, part), part, sources=[source])
    with KlineCache(tmp_path) as cache:
        assert cache.read_series(BTCUSDT_1M, WINDOW).sources == tuple(sources)
        assert cache.read_series(BTCUSDT_1M, parts[1]).sources == (sources[1],)


# --- Series keep apart -------------------------------------------------------------------------------------

APART = [
    SeriesKey.of("BTCUSDT", "1m"),
    SeriesKey.of("BTCUSDT", "3m"),
    SeriesKey.of("BTCUSDT", "1mo"),
    SeriesKey.of("ETHUSDT", "1m"),
    SeriesKey.of("BTCUSDT", "1m", market="um"),
    SeriesKey.of("BTCUSDT", "1m", market="um", kind="markPriceKlines"),
    SeriesKey.of("BTCUSDT", "1m", market="um", kind="indexPriceKlines"),
    SeriesKey.of("BTCUSDT", "1m", market="cm"),
    SeriesKey.of("币安人生USDT", "1m"),
]


def test_symbols_intervals_markets_and_kinds_never_mix(tmp_path: Path) -> None:
    month = Span(ms(2024, 2, 1), ms(2024, 2, 1) + DAY_MS)
    for number, series in enumerate(APART):
        put(tmp_path, month, series, close=float(number))
    with KlineCache(tmp_path) as cache:
        for number, series in enumerate(APART):
            klines = cache.read(
                series.symbol,
                series.bar_interval,
                start=month.start_ms,
                end=month.end_ms,
                market=series.market,
                kind=series.kind,
            )
            assert klines.series == series
            assert len(klines) == len(regular_table(series, month).open_time)
            assert set(klines.close.tolist()) == {float(number)}
        assert sorted(map(str, cache.series())) == sorted(map(str, APART))
        for series in (SeriesKey.of("BTCUSDT", "5m"), SeriesKey.of("BTCUSDT", "1d"), SeriesKey.of("BNBUSDT", "1m")):
            assert cache.coverage(series) == ()
            with pytest.raises(NotCachedError):
                cache.read_series(series, month)


def test_reading_changes_no_file_and_makes_no_folder(tmp_path: Path) -> None:
    put(tmp_path, window(0, 30))
    put(tmp_path, window(20, 60))
    before, folders = folder_state(tmp_path), sorted(tmp_path.rglob("*"))
    with KlineCache(tmp_path) as cache:
        klines = cache.read_series(BTCUSDT_1M, WINDOW)
        assert [len(column) for column in klines.as_dict().values()] == [60] * 12
        cache.read("ETHUSDT", "1m", start=START_MS, end=WINDOW.end_ms, missing="ignore")
        assert list(cache.series()) == [BTCUSDT_1M]
    with KlineCache(tmp_path / "not there") as cache:
        assert list(cache.series()) == []
    assert folder_state(tmp_path) == before
    assert sorted(tmp_path.rglob("*")) == folders


def test_a_folder_that_cannot_be_listed_is_an_error_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> Sequence[str]:
        raise PermissionError(13, "Permission denied")

    with KlineCache(tmp_path) as cache, monkeypatch.context() as patch:
        patch.setattr("ckvd.cache.folder.os.scandir", refuse)
        with pytest.raises(CacheError, match="cannot be listed: Permission denied"):
            cache.read_series(BTCUSDT_1M, WINDOW)


def test_a_damaged_segment_is_an_error_that_names_its_file(tmp_path: Path) -> None:
    path = put(tmp_path, WINDOW)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with KlineCache(tmp_path) as cache, pytest.raises(SegmentError, match=path.name):
        cache.read_series(BTCUSDT_1M, WINDOW)


def test_a_segment_of_the_cache_can_be_read_by_itself(tmp_path: Path) -> None:
    path = put(tmp_path, WINDOW)
    with SegmentReader(path) as reader, KlineCache(tmp_path) as cache:
        assert same_bits(reader["close"], cache.read_series(BTCUSDT_1M, WINDOW).close)
