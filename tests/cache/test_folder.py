"""The folder of a cache: names of segments, listing them, and other files that may lie there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from platformdirs import user_cache_path

from ckvd.cache import CacheFolder
from ckvd.cache.folder import SegmentName, parse_segment_name
from ckvd.errors import CacheError
from ckvd.model.market import Kind, Market, SeriesKey
from ckvd.model.timespan import Span
from ckvd.utils.config import LISTING_ATOMIC_NAMES_MAX, SEGMENT_REVISION_MAX
from support.models import DAY_MS, ms
from support.strategies import LAST_MS, intervals_of, series_keys, spans
from support.tables import BTCUSDT_1M, folder_state

NAME = SegmentName(Span(ms(2023, 1, 1), ms(2023, 2, 1)), 1)
FILE_NAME = "20230101T000000Z-20230201T000000Z-r1.ckvd"

# --- Names -------------------------------------------------------------------------------------------------


def test_a_name_tells_the_span_and_the_revision() -> None:
    assert NAME.file_name == FILE_NAME
    assert parse_segment_name(FILE_NAME) == NAME


@given(spans(0, LAST_MS, 1000), st.integers(0, SEGMENT_REVISION_MAX))
def test_a_parsed_name_is_the_one_that_was_written(span: Span, revision: int) -> None:
    name = SegmentName(span, revision)
    assert parse_segment_name(name.file_name) == name


@given(st.lists(st.builds(SegmentName, spans(0, LAST_MS, 1000), st.integers(0, 99)), min_size=2, max_size=2))
def test_names_differ_where_the_span_or_the_revision_does(names: list[SegmentName]) -> None:
    one, other = names
    assert (one == other) == (one.file_name == other.file_name)


@pytest.mark.parametrize("span", [Span(1, 1000), Span(0, 1001), Span(999, 999)])
def test_a_span_that_is_not_on_whole_seconds_has_no_name(span: Span) -> None:
    with pytest.raises(ValueError, match="whole seconds, not at "):
        _ = SegmentName(span, 1).file_name


@pytest.mark.parametrize(
    "file_name",
    [
        "",
        "notes.txt",
        FILE_NAME + ".tmp",
        "." + FILE_NAME,
        "." + FILE_NAME + ".123-abcdef.tmp",
        FILE_NAME.upper(),
        FILE_NAME + "\n",
        FILE_NAME.replace("-r1", ""),
        FILE_NAME.replace("-r1", "-r"),
        FILE_NAME.replace("-r1", "-r-1"),
        FILE_NAME.replace("-r1", "-r" + "1" * 19),
        FILE_NAME.replace("-r1", "-r\N{ARABIC-INDIC DIGIT ONE}"),
        FILE_NAME.replace("20230101", "20230229"),
        FILE_NAME.replace("T000000Z", "T250000Z"),
        "20230201T000000Z-20230101T000000Z-r1.ckvd",
        "20230101-20230201-r1.ckvd",
    ],
)
def test_another_name_is_no_segment(file_name: str) -> None:
    assert parse_segment_name(file_name) is None


def test_a_name_that_is_spelled_in_another_way_is_no_segment() -> None:
    assert parse_segment_name(FILE_NAME.replace("-r1", "-r01")) is None


@given(st.text(max_size=50) | st.text("0123456789TZ-r.ckvd", max_size=50))
def test_any_text_is_the_name_of_a_segment_or_none(file_name: str) -> None:
    name = parse_segment_name(file_name)
    assert name is None or name.span.start_ms <= name.span.end_ms


# --- Folders -----------------------------------------------------------------------------------------------


@given(series_keys(), series_keys())
def test_each_series_has_a_folder_of_its_own_also_where_case_is_ignored(one: SeriesKey, other: SeriesKey) -> None:
    folder = CacheFolder(Path("root"))
    paths = [folder.series_path(series) for series in (one, other)]
    assert (one == other) == (str(paths[0]).casefold() == str(paths[1]).casefold())
    assert paths[0].parts == ("root", one.market, one.kind, one.symbol, one.interval or "events")
    assert not paths[0].is_relative_to(paths[1]) or one == other


def test_segments_are_listed_and_all_else_is_skipped(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    path = folder.series_path(BTCUSDT_1M)
    path.mkdir(parents=True)
    for file_name in (FILE_NAME, FILE_NAME.replace("r1", "r2"), "notes.txt", f".{FILE_NAME}.1-ab.tmp", ".DS_Store"):
        (path / file_name).touch()
    assert sorted(folder.segments(BTCUSDT_1M)) == [NAME, SegmentName(NAME.span, 2)]


def test_segments_that_are_gone_have_no_size(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    folder.make_series_path(BTCUSDT_1M)
    gone = SegmentName(NAME.span, 2)
    folder.segment_path(BTCUSDT_1M, NAME).write_bytes(b"12345")
    assert folder.nbytes_of(BTCUSDT_1M, [gone, NAME]) == 5
    assert [status.st_size for status in folder.statuses(BTCUSDT_1M, [gone, NAME, NAME])] == [5, 5]


def test_listing_a_series_without_a_folder_makes_none(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "not" / "there")
    assert folder.segments(BTCUSDT_1M) == []
    assert list(folder.series()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_long_folder_is_listed_whole(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    path = folder.make_series_path(BTCUSDT_1M)
    names = [
        SegmentName(Span(day * DAY_MS, (day + 1) * DAY_MS), 1 + day) for day in range(2 * LISTING_ATOMIC_NAMES_MAX)
    ]
    for name in names:
        (path / name.file_name).touch()
    assert sorted(folder.segments(BTCUSDT_1M)) == names


def test_the_folder_of_a_series_is_made_with_those_above_it_and_may_be_there(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "some" / "cache")
    assert folder.make_series_path(BTCUSDT_1M) == folder.make_series_path(BTCUSDT_1M)
    assert folder.series_path(BTCUSDT_1M).is_dir()


@pytest.mark.parametrize("below", ["", "spot/klines", "spot/klines/BTCUSDT/1m"])
def test_a_file_where_a_folder_should_be_is_an_error_of_the_cache(tmp_path: Path, below: str) -> None:
    blocked = tmp_path / "cache" / below
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("a regular file")
    before = folder_state(tmp_path)
    with pytest.raises(CacheError, match="cannot be made: ") as caught:
        CacheFolder(tmp_path / "cache").make_series_path(BTCUSDT_1M)
    assert caught.value.errno
    assert folder_state(tmp_path) == before


def test_every_series_with_a_folder_is_found_in_order_and_other_folders_are_skipped(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    made = [
        SeriesKey(market, kind, symbol, interval)
        for market in Market
        for kind in ([Kind.KLINES] if market is Market.SPOT else Kind)
        for symbol in ("BTCUSDT", "ICPUSDT_SETTLED", "币安人生USDT")
        for interval in sorted(intervals_of(market, kind), key=str)
    ]
    for series in reversed(made):
        folder.make_series_path(series)
    for other in (
        "spot/klines/BTCUSDT/2m",
        "spot/klines/BTCUSDT/events",
        "um/fundingRate/BTCUSDT/8h",
        "um/metrics/BTCUSDT/1h",
        "spot/klines/BTCUSDT/1M",
        "spot/klines/btcusdt/1m",
        "spot/markPriceKlines/BTCUSDT/1m",
        "um/indexPriceKlines/BTCUSDT_260626/1m",
        "spot/trades/BTCUSDT/1m",
        "option/klines/BTCUSDT/1m",
        ".locks/a/b/c",
    ):
        (tmp_path / other).mkdir(parents=True)
    (tmp_path / "spot/klines/notes.txt").write_text("a regular file")
    assert list(folder.series()) == made


# --- The root ----------------------------------------------------------------------------------------------


def test_the_root_is_the_argument_else_that_of_the_environment_else_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CKVD_CACHE_DIR", "~/from the environment")
    assert CacheFolder.at("~/chosen").root == tmp_path / "chosen"
    assert CacheFolder.at(tmp_path / "chosen").root == tmp_path / "chosen"
    assert CacheFolder.at().root == tmp_path / "from the environment"
    default = user_cache_path("ckvd", appauthor=False)
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("CKVD_CACHE_DIR")
        else:
            monkeypatch.setenv("CKVD_CACHE_DIR", unset)
        assert CacheFolder.at().root == default
    assert list(tmp_path.iterdir()) == []


def test_a_relative_folder_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    folder = CacheFolder.at("cache")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert folder.root == tmp_path / "cache"
