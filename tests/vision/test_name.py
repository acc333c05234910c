"""Paths of archives under the root of a mirror: making and reading them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.model.calendar import Cadence, Period, days_of, months_of
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from ckvd.vision.name import ArchiveName, archive_folder, url_of
from support.models import ms
from support.strategies import moments, series_keys

if TYPE_CHECKING:
    from pathlib import Path


@st.composite
def archive_names(draw: st.DrawFn) -> ArchiveName:
    moment_ms = draw(moments())
    period_of = draw(st.sampled_from([months_of, days_of]))
    (period,) = period_of(Span(moment_ms, moment_ms + 1))
    return ArchiveName(draw(series_keys()), period)


def name_of(symbol: str, interval: str | None, label: str, market: str, kind: str = "klines") -> ArchiveName:
    return ArchiveName(SeriesKey.of(symbol, interval, market=market, kind=kind), Period.of_label(label))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (
            name_of("BTCUSDT", "1m", "2023-03-24", "spot"),
            "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2023-03-24.zip",
        ),
        (
            name_of("BTCUSDT", "1mo", "2024-01", "spot"),
            "data/spot/monthly/klines/BTCUSDT/1mo/BTCUSDT-1mo-2024-01.zip",
        ),
        (
            name_of("BTCUSDT_260626", "1h", "2026-05", "um", "premiumIndexKlines"),
            "data/futures/um/monthly/premiumIndexKlines/BTCUSDT_260626/1h/BTCUSDT_260626-1h-2026-05.zip",
        ),
        (
            name_of("BTCUSD_PERP", "1d", "2024-02-29", "cm", "markPriceKlines"),
            "data/futures/cm/daily/markPriceKlines/BTCUSD_PERP/1d/BTCUSD_PERP-1d-2024-02-29.zip",
        ),
        (
            name_of("BTCUSDT", None, "2024-01", "um", "fundingRate"),
            "data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-01.zip",
        ),
        (
            name_of("BTCUSD_PERP", None, "2023-06-25", "cm", "metrics"),
            "data/futures/cm/daily/metrics/BTCUSD_PERP/BTCUSD_PERP-metrics-2023-06-25.zip",
        ),
    ],
)
def test_an_archive_lies_where_the_publisher_puts_it(name: ArchiveName, path: str) -> None:
    assert name.path == str(name) == path
    assert name.checksum_path == path + ".CHECKSUM"
    assert name.file_name == path.rpartition("/")[2]
    assert path.startswith(archive_folder(name.series, name.period.cadence))


@given(archive_names())
def test_a_path_leads_back_to_its_archive_plain_and_percent_encoded(name: ArchiveName) -> None:
    assert ArchiveName.of_path(name.path) == name
    assert ArchiveName.of_path(quote(name.path)) == name


@given(archive_names(), archive_names())
def test_different_archives_have_different_paths(one: ArchiveName, other: ArchiveName) -> None:
    assert (one == other) == (one.path == other.path)


def test_the_kinds_of_one_contract_share_a_file_name_and_differ_in_the_folder() -> None:
    kinds = ("klines", "markPriceKlines", "indexPriceKlines", "premiumIndexKlines")
    names = [name_of("BTCUSDT", "1m", "2024-01", "um", kind) for kind in kinds]
    assert {name.file_name for name in names} == {"BTCUSDT-1m-2024-01.zip"}
    assert len({name.path for name in names}) == len(kinds)


def test_a_period_that_lacks_its_zero_is_understood_and_asked_for_as_it_was_listed() -> None:
    path = "data/spot/monthly/klines/ADABKRW/1d/ADABKRW-1d-2020-8.zip"
    name = ArchiveName.of_path(path)
    assert name is not None
    assert name.period == Period(ms(2020, 8, 1), Cadence.MONTHLY)
    assert (name.path, name.file_name) == (path, "ADABKRW-1d-2020-8.zip")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "data/spot/daily/klines/BTCUSDT/1m/",
        "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2023-03-24.zip.CHECKSUM",
        "data/spot/daily/trades/BTCUSDT/BTCUSDT-trades-2023-03-24.zip",
        "data/spot/daily/someKlines/BTCUSDT/1m/BTCUSDT-1m-2023-03-24.zip",
        "data/spot/daily/markPriceKlines/BTCUSDT/1m/BTCUSDT-1m-2023-03-24.zip",
        "data/futures/um/daily/klines/BTCUSDT/1s/BTCUSDT-1s-2023-03-24.zip",
        "data/option/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2023-03-24.zip",
        "data/spot/weekly/klines/BTCUSDT/1m/BTCUSDT-1m-2023-03-24.zip",
        "data/spot/daily/klines/BTCUSDT/2m/BTCUSDT-2m-2023-03-24.zip",
        "data/spot/daily/klines/BTCUSDT/1m/ETHUSDT-1m-2023-03-24.zip",
        "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1mo-2023-03-24.zip",
        "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2023-02-29.zip",
        "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2023-03.zip",
        "data/spot/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2023-03-24.zip",
        "data/spot/daily/klines/../1m/..-1m-2023-03-24.zip",
        "data/spot/daily/klines/%2E%2E/1m/%2E%2E-1m-2023-03-24.zip",
        "data/spot/daily/klines/A%2FB/1m/A%2FB-1m-2023-03-24.zip",
        "/data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2023-03-24.zip",
        "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2023-03-24.zip\n",
    ],
)
def test_a_path_that_is_no_kline_archive_is_none(path: str) -> None:
    assert ArchiveName.of_path(path) is None


@given(archive_names(), st.integers(0, 200), st.integers(0, 3), st.text(max_size=3))
def test_a_path_with_something_replaced_is_an_archive_with_that_path_or_none(
    name: ArchiveName, position: int, length: int, text: str
) -> None:
    path = name.path[:position] + text + name.path[position + length :]
    found = ArchiveName.of_path(path)
    assert found is None or found.path == unquote(path)


def test_every_archive_of_the_real_data_is_understood(shared_data: Path) -> None:
    root = shared_data / "vision"
    paths = [path.relative_to(root).as_posix() for path in root.rglob("*.zip")]
    assert paths
    for path in paths:
        name = ArchiveName.of_path(path)
        assert name is not None
        assert name.path == path
        assert ArchiveName(name.series, name.period) == name


@pytest.mark.parametrize("base_url", ["https://host/mirror", "https://host/mirror/", "https://host/mirror//"])
def test_an_address_is_percent_encoded_where_it_is_not_ascii(base_url: str) -> None:
    path = name_of("币安人生USDT", "1m", "2026-01", "spot").path
    symbol = "%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9FUSDT"
    expected = f"https://host/mirror/data/spot/monthly/klines/{symbol}/1m/{symbol}-1m-2026-01.zip"
    assert url_of(base_url, path) == expected
