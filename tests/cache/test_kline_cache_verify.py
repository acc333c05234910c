"""A cache that is opened with verify="first" returns no bar of a damaged column, whichever way it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

import ckvd
from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.cache.packing import pack_series
from ckvd.errors import SegmentCorruptError
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from ckvd.segment import SegmentReader
from ckvd.segment.layout import Encoding
from support.caches import download, flip, segment_paths
from support.places import SAMPLES, SHARED_DATA
from support.tables import regular_table, same_bits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ckvd.bars.klines import Klines
    from ckvd.model.table import Column

HOURS = SeriesKey.of("BTCUSDT", "1h")
THREE_DAYS = SeriesKey.of("BTCUSDT", "3d")
MONTH = Span.of("2023-01-01", "2023-02-01")
OPTIONS: Final[dict[str, Any]] = {"start": "2023-01-01", "end": "2023-02-01"}
PART: Final[dict[str, Any]] = {"start": "2023-01-10", "end": "2023-01-11"}
FLIPS = 300

pytestmark = pytest.mark.filterwarnings("error")


# --- Every bit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mirror", "series", "span"),
    [
        (SAMPLES, SeriesKey.of("BTCUSDT", "1m"), Span.of("2023-03-23", "2023-03-26")),
        (SHARED_DATA / "vision", HOURS, Span.of("2020-06-01", "2020-12-01")),
        (
            SHARED_DATA / "vision",
            SeriesKey.of("BTCUSD_PERP", "1h", market="cm"),
            Span.of("2024-01-02", "2024-01-08"),
        ),
    ],
)
def test_every_flipped_bit_is_found_by_a_read_of_its_column_and_by_no_other(
    tmp_path: Path, mirror: Path, series: SeriesKey, span: Span
) -> None:
    if not mirror.is_dir():
        pytest.skip("real data not present: ../shared/data")
    folder = download(tmp_path / "cache", series, span, mirror)
    path = segment_paths(folder)[0]
    with SegmentReader(path) as reader:
        header = reader.header
        genuine = {name: reader[name].copy() for name in (column.name for column in header.columns)}
    stored = [column for column in header.columns if column.encoding is Encoding.STORED]
    assert len(stored) >= 9
    chance = random.Random(str(series))
    with path.open("r+b", buffering=0) as file:
        for _ in range(FLIPS):
            column, other = chance.sample(stored, 2)
            position = column.offset + chance.randrange(header.row_count * column.dtype.itemsize)
            with flipped(file.fileno(), position, chance.randrange(8)):
                with KlineCache(folder.root, verify="first") as cache:
                    klines = cache.read_series(series, header.span, missing="ignore")
                    assert same_bits(klines[other.name], genuine[other.name])
                    with pytest.raises(SegmentCorruptError, match=f"column {column.name}:"):
                        klines[column.name]
                with KlineCache(folder.root) as cache:
                    damaged = cache.read_series(series, header.span, missing="ignore")[column.name]
                    assert not same_bits(damaged, genuine[column.name])
                    del damaged
        with KlineCache(folder.root, verify="first") as cache:
            for name, values in genuine.items():
                assert same_bits(cache.read_series(series, header.span, missing="ignore")[name], values)


@contextlib.contextmanager
def flipped(descriptor: int, position: int, bit: int) -> Iterator[None]:
    """Flip a bit of a file within the block."""
    before = os.pread(descriptor, 1, position)
    os.pwrite(descriptor, bytes([before[0] ^ 1 << bit]), position)
    try:
        yield
    finally:
        os.pwrite(descriptor, before, position)


# --- Every way ---------------------------------------------------------------------------------------------


def put(folder: Path, span: Span = MONTH, series: SeriesKey = HOURS) -> Path:
    return SeriesStore(CacheFolder(folder), series).put(regular_table(series, span), span)


def damage(path: Path, name: str) -> None:
    """Flip a bit in the last row of a column."""
    with SegmentReader(path) as reader:
        layout = reader.header.column(name)
        assert layout is not None
        assert layout.encoding is Encoding.STORED
        position = layout.offset + (reader.header.row_count - 1) * layout.dtype.itemsize
    flip(path, position)


def read_async(root: Path) -> Column:
    async def work() -> Column:
        async with ckvd.CryptoKlineVisionData(cache=root, offline=True, verify="first") as data:
            klines: Klines = await data.get_klines("BTCUSDT", "1h", **OPTIONS)
            return klines.close

    return asyncio.run(work())


async def _read_in_async_block(root: Path) -> Column:
    async with ckvd.open_cache(root, verify="first") as cache:
        return cache.read("BTCUSDT", "1h", **OPTIONS).close


def read(root: Path, use: Callable[[Klines], Any], **options: Any) -> Any:
    with ckvd.open_cache(root, verify="first") as cache:
        return use(cache.read("BTCUSDT", "1h", **options))


def scan(root: Path) -> list[float]:
    with ckvd.open_cache(root, verify="first") as cache:
        return [block.close[0] for block in cache.scan("BTCUSDT", "1h", rows=10, **OPTIONS)]


def panel(root: Path, *columns: str, **options: Any) -> Any:
    with ckvd.open_cache(root, verify="first") as cache:
        return cache.panel("BTCUSDT", "1h", columns=columns or ("close",), **(options or OPTIONS))


WAYS: dict[str, Callable[[Path], Any]] = {
    "a column": lambda root: read(root, lambda klines: klines.close, **OPTIONS),
    "an item of a part": lambda root: read(root, lambda klines: klines["close"], **PART),
    "all columns": lambda root: read(root, dict, **OPTIONS),
    "flags": lambda root: read(root, lambda klines: klines.flags, **OPTIONS),
    "comparison": lambda root: read(root, lambda klines: klines == klines, **OPTIONS),
    "resampled": lambda root: read(root, lambda klines: klines.resample("1d").close, **OPTIONS),
    "pandas": lambda root: read(root, lambda klines: klines.to_pandas(), **OPTIONS),
    "polars": lambda root: read(root, lambda klines: klines.to_polars(), **OPTIONS),
    "arrow": lambda root: read(root, lambda klines: klines.to_arrow(), **OPTIONS),
    "scan": scan,
    "panel": panel,
    "panel of a part": lambda root: panel(root, "open", "close", **PART),
    "get_klines": lambda root: (
        ckvd.get_klines("BTCUSDT", "1h", cache=root, offline=True, verify="first", **OPTIONS).close
    ),
    "CryptoKlineVisionData": read_async,
    "async with": lambda root: asyncio.run(_read_in_async_block(root)),
    "reader": lambda root: _close_of(next(root.rglob("*.ckvd"))),
}


def _close_of(path: Path) -> float:
    with SegmentReader(path, verify="first") as reader:
        return float(reader["close"][0])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path)
    return tmp_path


@pytest.mark.parametrize("way", WAYS)
def test_no_way_returns_bars_of_a_damaged_column(root: Path, way: str) -> None:
    WAYS[way](root)
    damage(segment_paths(CacheFolder(root))[0], "close")
    with pytest.raises(SegmentCorruptError, match="column close: its checksum is"):
        WAYS[way](root)


def test_what_uses_other_columns_is_not_concerned(root: Path) -> None:
    damage(segment_paths(CacheFolder(root))[0], "close")
    assert read(root, lambda klines: klines.open.sum() + klines.open_time[-1], **OPTIONS) > 0
    assert read(root, lambda klines: klines.gaps, **PART) == ()
    assert panel(root, "open").open.sum() > 0


@pytest.mark.parametrize("use", [lambda klines: klines.open_time, lambda klines: klines.gaps, len])
def test_damaged_open_times_are_found_by_all_that_depends_on_them(root: Path, use: Callable[[Klines], Any]) -> None:
    damage(segment_paths(CacheFolder(root))[0], "open_time")
    with pytest.raises(SegmentCorruptError, match="column open_time"):
        read(root, use, **PART)


def test_one_damaged_segment_of_several_is_found_whether_packed_or_not(tmp_path: Path) -> None:
    days = [Span(start, start + 86_400_000) for start in range(MONTH.start_ms, MONTH.end_ms, 86_400_000)]
    paths = [put(tmp_path, day) for day in days]
    whole = paths[7].read_bytes()
    damage(paths[7], "close")
    with pytest.raises(SegmentCorruptError, match=paths[7].name):
        read(tmp_path, lambda klines: klines.close, **OPTIONS)
    assert np.isfinite(read(tmp_path, lambda klines: klines.close, **PART)).all()
    paths[7].write_bytes(whole)
    pack_series(CacheFolder(tmp_path), HOURS)
    (packed,) = segment_paths(CacheFolder(tmp_path))
    assert len(read(tmp_path, lambda klines: klines.close, **OPTIONS)) == 31 * 24
    damage(packed, "close")
    with pytest.raises(SegmentCorruptError, match=packed.name):
        read(tmp_path, lambda klines: klines.close, **PART)


def test_damaged_3d_bars_give_no_grid(tmp_path: Path) -> None:
    """As those that cannot be read for another reason."""
    put(tmp_path)
    path = put(tmp_path, MONTH, THREE_DAYS)
    assert len(read(tmp_path, lambda klines: klines.resample("3d"), **OPTIONS)) >= 10
    damage(path, "open_time")
    assert not read(tmp_path, lambda klines: klines.three_day_grid.is_known, **OPTIONS)


def test_a_cache_that_is_open_notices_a_file_that_was_changed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckvd.cache.open_segments.CACHE_STATUS_TRUST_S", 0.0)
    with KlineCache(root, verify="first") as cache:
        assert len(cache.read_series(HOURS, MONTH).close)
        path = segment_paths(CacheFolder(root))[0]
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        damage(path, "close")
        with pytest.raises(SegmentCorruptError, match="column close"):
            cache.read_series(HOURS, MONTH).close  # noqa: B018


@pytest.mark.parametrize(
    "call",
    [
        ckvd.open_cache,
        KlineCache,
        lambda root, verify: ckvd.CryptoKlineVisionData(cache=root, verify=verify),
        lambda root, verify: ckvd.get_klines("BTCUSDT", "1h", cache=root, offline=True, verify=verify, **OPTIONS),
    ],
)
@pytest.mark.parametrize("word", ["always", "First", "", None, True])
def test_another_word_is_refused_wherever_a_cache_is_opened(
    tmp_path: Path, call: Callable[..., Any], word: object
) -> None:
    with pytest.raises(ValueError, match='verify is "never" or "first", not '):
        call(tmp_path, verify=word)
