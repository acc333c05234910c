"""`Venue`: archives, an exchange, a clock and a cache for one test, all on loopback."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import numpy as np

import ckvd
from ckvd.model.calendar import Period
from ckvd.model.market import HOUR_MS, SeriesKey
from ckvd.model.schema import schema_of
from ckvd.model.timespan import Span, parse_time
from ckvd.network.retry import RetryPolicy
from ckvd.vision.name import ArchiveName
from support.archives import columns_of, zip_text
from support.loopback.clock import VirtualTime
from support.loopback.exchange import Exchange
from support.loopback.mirror import Mirror, publish
from support.loopback.rows import Row, make_rows, open_ms_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

    from ckvd.acquisition.report import DownloadReport


HOURS = SeriesKey.of("BTCUSDT", "1h")


class Venue:
    """A mirror of archives and an exchange, with one clock.

    Parameters
    ----------
    folder : Path
        An empty folder: `vision` and `klines` are made in it.
    now : str
        The time that the clock shows.
    mirror_root : Path, optional
        A mirror to serve in place of an empty one.
    """

    def __init__(self, folder: Path, now: str, *, mirror_root: Path | None = None) -> None:
        self.time = VirtualTime(parse_time(now))
        self.root = mirror_root or folder / "vision"
        self.root.mkdir(exist_ok=True)
        self.cache_path = folder / "klines"
        self.mirror = Mirror(self.root)
        self.exchange = Exchange({}, clock=self.time.now_ms)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.mirror)
        self._stack.enter_context(self.exchange)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def publish(self, series: SeriesKey, label: str, rows: Sequence[Row], *, digest: str | None = None) -> None:
        """Put an archive of some rows on the mirror."""
        name = ArchiveName(series, Period.of_label(label))
        # Funding and metrics always have a header line. Bars of spot, which most tests are about, have none.
        header = () if series.kind.is_bars else (schema_of(series).header,)
        publish(self.root, name.path, zip_of([*header, *rows], name.file_name), digest=digest)

    def unpublish(self, series: SeriesKey, label: str) -> None:
        """Take an archive off the mirror."""
        path = self.root / ArchiveName(series, Period.of_label(label)).path
        path.unlink()
        path.with_name(path.name + ".CHECKSUM").unlink()

    @property
    def request_count(self) -> int:
        """Requests to both, from the beginning."""
        return len(self.mirror.server.requests) + self.exchange.request_count

    def options(self, **changes: Any) -> dict[str, Any]:
        """The arguments for a `CryptoKlineVisionData` of this venue."""
        return {
            "cache": self.cache_path,
            "vision_url": self.mirror.base_url,
            "listing_url": self.mirror.listing_url,
            "rest_url": self.exchange.url,
            "clock": self.time.now_ms,
            **changes,
        }

    def data(self, **changes: Any) -> ckvd.CryptoKlineVisionData:
        """A client of this venue."""
        return ckvd.CryptoKlineVisionData(**self.options(**changes))

    def rest_client(self) -> ckvd.RestDataClient:
        """A REST client that makes one attempt and whose pauses take no time."""
        return ckvd.RestDataClient(
            base_url=self.exchange.url,
            clock=self.time.now_ms,
            steady_clock=self.time.steady_s,
            sleep=self.time.sleep,
            retry=RetryPolicy(attempts_max=1),
        )


def zip_of(rows: Iterable[Row], file_name: str) -> bytes:
    """The bytes of an archive of some rows."""
    return zip_text(file_name, (",".join(row) + "\n" for row in rows))


def rows_between(rows: Iterable[Row], start: str, end: str) -> list[Row]:
    """The rows that open in a span."""
    start_ms, end_ms = parse_time(start), parse_time(end)
    return [row for row in rows if start_ms <= open_ms_of(row) < end_ms]


def fetch(venue: Venue, start: str, end: str, series: SeriesKey = HOURS, **changes: object) -> ckvd.Klines:
    async def run() -> ckvd.Klines:
        async with venue.data(**changes) as data:
            return await data.get_klines(
                series.symbol, series.bar_interval, start=start, end=end, market=series.market, kind=series.kind
            )

    return asyncio.run(run())


def ensure(venue: Venue, symbols: Sequence[str], start: str, end: str, **changes: object) -> DownloadReport:
    async def run() -> DownloadReport:
        async with venue.data(**changes) as data:
            return await data.ensure(symbols, "1h", start=start, end=end)

    return asyncio.run(run())


def ensure_series(
    venue: Venue, series: SeriesKey, start: str, end: str, *, refresh: bool = False, **changes: Any
) -> DownloadReport:
    async def run() -> DownloadReport:
        async with venue.data(**changes) as data:
            return await data.ensure_series([series], Span.of(start, end), refresh=refresh)

    return asyncio.run(run())


def hours(start: str, end: str) -> list[Row]:
    return make_rows(range(parse_time(start), parse_time(end), HOUR_MS), HOUR_MS)


def assert_equal(klines: ckvd.Klines, rows: Sequence[Row]) -> None:
    """Every cell equals what `float` and `int` make of the text."""
    table = {open_ms_of(row): list(row) for row in rows}
    assert len(klines) == len(table)
    for name, expected in columns_of(table, klines.column_names).items():
        assert klines[name].tobytes() == np.array(expected, klines[name].dtype).tobytes(), name
