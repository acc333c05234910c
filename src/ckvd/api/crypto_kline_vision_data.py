"""`CryptoKlineVisionData`: the rows of a span, from the cache, from Vision archives, and from the REST interface.

In that order: each is asked only for what the one before lacks.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, cast, overload

from ckvd.acquisition.completion import Completion
from ckvd.acquisition.completion.scope import Scope, to_complete
from ckvd.acquisition.derive import derive_klines
from ckvd.acquisition.download import SERIES_TOGETHER, find_missing, pack_stored
from ckvd.acquisition.due import find_due, note_begun
from ckvd.acquisition.planning import Wanted
from ckvd.acquisition.report import CompletionReport, DownloadReport, Progress
from ckvd.api.vision_data_client import VisionDataClient
from ckvd.cache.coverage import unavailable_absences, uncovered_spans
from ckvd.cache.folder import CacheFolder
from ckvd.cache.kline_cache import KlineCache, require_bars
from ckvd.cache.resolution import hull
from ckvd.cache.rows import read_grid
from ckvd.cache.selection import SeriesFilter
from ckvd.cache.untraded_tail import find_untraded_tails
from ckvd.concurrency.stopping import check_stop
from ckvd.concurrency.work import Workers, in_thread, run_bounded
from ckvd.errors import (
    ArchiveError,
    CacheBusyError,
    CkvdError,
    ClientClosedError,
    NetworkError,
    NotCachedError,
    NotFetchedError,
    SnapshotError,
)
from ckvd.lifecycle import ConnectionHolder, Resource
from ckvd.model.grid import Grid, closed_part
from ckvd.model.market import DAY_MS, Kind, Market, SeriesKey, parse_market, series_of
from ckvd.model.schema import schema_of
from ckvd.model.timespan import Span, now_ms
from ckvd.rest.rest_data_client import RestDataClient
from ckvd.segment.checks import require_verify
from ckvd.universe.new_listings import find_new_listings
from ckvd.universe.refresh import refresh
from ckvd.universe.snapshot import newest_snapshot, oldest_snapshot_ms
from ckvd.utils.config import DOWNLOAD_CONCURRENCY

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from ckvd.acquisition.report import ArchiveReport, DownloadPlan
    from ckvd.bars.funding import Funding
    from ckvd.bars.klines import Klines
    from ckvd.bars.metrics import Metrics
    from ckvd.bars.resample import ResampledKlines
    from ckvd.bars.series_rows import SeriesRows
    from ckvd.cache.selection import Choice
    from ckvd.model.provenance import Absence
    from ckvd.model.timespan import TimeLike
    from ckvd.segment.checks import Verify
    from ckvd.universe.snapshot import Snapshot

_SPANS_SHOWN: Final = 5


class CryptoKlineVisionData(ConnectionHolder):
    """Klines, funding and metrics from a cache that is filled from Vision and the REST interface as needed.

    An asynchronous context manager.

    Parameters
    ----------
    cache : path-like, optional
        The cache folder, see `KlineCache`.
    vision_url : str or path-like, optional
        A mirror of Binance Vision, see `VisionDataClient`.
    listing_url : str, optional
        Where the mirror answers listings, see `VisionDataClient`.
    rest_url : str or mapping, optional
        The host of the REST interface, see `RestDataClient`.
    vision_client : VisionDataClient, optional
        A client to use in place of its own. It is never closed here, and must fill the same cache folder.
    rest_client : RestDataClient, optional
        Likewise.
    use_rest : bool
        Whether the REST interface may be asked.
    offline : bool
        Open no connection at all. Asking for what the cache lacks is an error that names it.
    concurrency : int
        Archives fetched at a time.
    workers : int, optional
        Processes that decode and store archives: see `VisionDataClient`.
    is_checksum_required : bool
        Refuse archives without a CHECKSUM file.
    verify : {"never", "first"}
        Whether the rows that `get_klines` and others return are compared with the checksums of their segments: see
        `open_cache`.
    clock : callable
        The present in milliseconds.
    """

    _workers: Workers | None = None
    _vision: VisionDataClient | None = None
    _rest: RestDataClient | None = None
    _vision_is_external = _rest_is_external = False

    def __init__(
        self,
        *,
        cache: str | os.PathLike[str] | None = None,
        vision_url: str | os.PathLike[str] | None = None,
        listing_url: str | None = None,
        rest_url: str | Mapping[str, str] | None = None,
        vision_client: VisionDataClient | None = None,
        rest_client: RestDataClient | None = None,
        use_rest: bool = True,
        offline: bool = False,
        concurrency: int = DOWNLOAD_CONCURRENCY,
        workers: int | None = None,
        is_checksum_required: bool = False,
        verify: Verify = "never",
        clock: Callable[[], int] = now_ms,
    ) -> None:
        require_verify(verify)
        self.folder = CacheFolder.at(cache)
        self._verify: Verify = verify
        self._clock = clock
        self._offline = offline
        self._is_closed = False
        self._workers = Workers()
        self._vision_is_external = vision_client is not None
        self._rest_is_external = rest_client is not None
        if not offline:
            self._vision = (
                vision_client
                or VisionDataClient(
                    vision_url,
                    cache=self.folder.root,
                    listing_url=listing_url,
                    concurrency=concurrency,
                    workers=workers,
                    is_checksum_required=is_checksum_required,
                    clock=clock,
                ).part()
            )
        if use_rest and not offline:
            self._rest = rest_client or RestDataClient(base_url=rest_url, clock=clock).part()

    @overload
    async def get_klines(
        self,
        symbol: str,
        interval: str,
        *,
        start: TimeLike,
        end: TimeLike = "now",
        market: str = "spot",
        kind: str = "klines",
        missing: Literal["raise", "ignore"] = "raise",
        derive: Literal[False] = False,
        refresh: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Klines: ...

    @overload
    async def get_klines(
        self,
        symbol: str,
        interval: str,
        *,
        start: TimeLike,
        end: TimeLike = "now",
        market: str = "spot",
        kind: str = "klines",
        missing: Literal["raise", "ignore"] = "raise",
        derive: bool,
        refresh: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Klines | ResampledKlines: ...

    async def get_klines(
        self,
        symbol: str,
        interval: str,
        *,
        start: TimeLike,
        end: TimeLike = "now",
        market: str = "spot",
        kind: str = "klines",
        missing: Literal["raise", "ignore"] = "raise",
        derive: bool = False,
        refresh: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Klines | ResampledKlines:
        """Fetch what the cache lacks of a span, then read the span.

        Parameters
        ----------
        symbol, interval, market, kind : str
            The series, see `SeriesKey.of`.
        start, end : str, int, datetime or numpy.datetime64
            The span; `start` is included, `end` is not. Bars that are not closed yet are no data.
        missing : {"raise", "ignore"}
            What to do where something was not fetched: raise, or return the rest.
        derive : bool
            Make the bars of shorter ones where the cache has only those. Nothing is fetched then.
        refresh : bool
            Ask again now for all that was unavailable, and not only when its time has come.
        on_progress : callable, optional
            See `VisionDataClient.download`.

        Returns
        -------
        Klines, or with `derive` ResampledKlines where they were made of shorter ones
            `klines.gaps` says why bars are missing, `klines.sources` where the others came from.

        Raises
        ------
        NotFetchedError
            A request failed, and bars are missing because of that. It is a `NetworkError` and a `NotCachedError`;
            the failure of the request is its cause.
        NotCachedError
            No source has the bars now; an archive is damaged, which is the cause then; or the cache lacks them and
            the client is offline.
        IdentityError, TimeError
            The series or the span is invalid.
        SegmentError, CacheError
            The cache cannot be used.
        """
        series = SeriesKey.of(symbol, interval, market=market, kind=kind)
        require_bars(series)
        span = Span.of(start, end, present_ms=self._clock())
        if derive:
            closed = closed_part(span, read_grid(self.folder, series), self._clock())
            if (derived := self._derive(series, closed)) is not None:
                return derived
        rows = await self._get_rows(series, span, missing=missing, refresh=refresh, on_progress=on_progress)
        return cast("Klines", rows)

    async def get_funding(
        self,
        symbol: str,
        *,
        start: TimeLike,
        end: TimeLike = "now",
        market: str = "um",
        missing: Literal["raise", "ignore"] = "raise",
        refresh: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Funding:
        """Fetch what the cache lacks of the funding rates of a span, then read the span.

        Archives are of months. The open month, and what no archive has, come from the REST interface. When the
        archive of a month appears, its rows replace those: it has `interval_hours`, and no `mark_price`.

        Parameters
        ----------
        symbol, market : str
            A perpetual of `um` or `cm`.
        start, end, missing, refresh, on_progress
            As for `get_klines`. Rates that were settled in the last ten minutes are no data yet.

        Returns
        -------
        Funding
            `funding.gaps` says why settlements are missing, `funding.sources` where the others came from.

        Raises
        ------
        NotFetchedError, NotCachedError, IdentityError, TimeError, SegmentError, CacheError
            See `get_klines`.
        """
        series = SeriesKey.of(symbol, market=market, kind=Kind.FUNDING_RATE)
        span = Span.of(start, end, present_ms=self._clock())
        rows = await self._get_rows(series, span, missing=missing, refresh=refresh, on_progress=on_progress)
        return cast("Funding", rows)

    async def get_metrics(
        self,
        symbol: str,
        *,
        start: TimeLike,
        end: TimeLike = "now",
        market: str = "um",
        missing: Literal["raise", "ignore"] = "raise",
        refresh: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Metrics:
        """Fetch what the cache lacks of open interest and the ratios of a span, then read the span.

        Archives are the only source, and those of days appear on the next day: the last day is not there yet, and
        `missing="ignore"` leaves it out.

        Parameters
        ----------
        symbol, market : str
            A contract of `um` or `cm`.
        start, end, missing, refresh, on_progress
            As for `get_klines`. The span is that of the five minutes which the rows describe.

        Returns
        -------
        Metrics

        Raises
        ------
        NotFetchedError, NotCachedError, IdentityError, TimeError, SegmentError, CacheError
            See `get_klines`.
        """
        series = SeriesKey.of(symbol, market=market, kind=Kind.METRICS)
        span = Span.of(start, end, present_ms=self._clock())
        rows = await self._get_rows(series, span, missing=missing, refresh=refresh, on_progress=on_progress)
        return cast("Metrics", rows)

    async def _get_rows(
        self,
        series: SeriesKey,
        span: Span,
        *,
        missing: Literal["raise", "ignore"],
        refresh: bool,
        on_progress: Callable[[Progress], None] | None,
    ) -> SeriesRows:
        """Fetch what the cache lacks of a span, then read its rows."""
        present_ms = self._clock()
        span = closed_part(span, read_grid(self.folder, series), present_ms)
        report = await self.ensure_series([series], span, refresh=refresh, on_progress=on_progress)
        # The first bars of a series of 3d bars may tell more of its grid.
        span = closed_part(span, read_grid(self.folder, series), present_ms)
        for completion in report.completions:
            span = completion.closed_part(span)
        with KlineCache(self.folder.root, verify=self._verify) as cache:
            try:
                return cache.read_rows(series, span, missing=missing)
            except NotCachedError as error:
                lacking = [Span(one.start_ms, one.end_ms) for one in error.missing]
                failure = report.failure_of(series, lacking)
                raise self._not_fetched(series, report, lacking, failure) from failure

    def _not_fetched(
        self, series: SeriesKey, report: DownloadReport, missing: Sequence[Span], failure: CkvdError | None
    ) -> NotCachedError:
        """The error for spans that are still missing after a fetch. It says first what failed."""
        shown = ", ".join(map(str, missing[:_SPANS_SHOWN]))
        if len(missing) > _SPANS_SHOWN:
            shown += f" and {len(missing) - _SPANS_SHOWN} more"
        ways_out = 'missing="ignore" reads what is there'
        if failure is not None:
            consequence = f"so {series} lacks {shown}; {ways_out}"
            if isinstance(failure, NetworkError):
                return NotFetchedError(failure, consequence, missing)
            return NotCachedError(f"{failure}; {consequence}", missing)
        if self._offline:
            return NotCachedError(
                f"{series}: the client is offline, and the cache {self.folder.root} lacks {shown}; fetch it with a "
                f"client that is not offline (or ckvd download); {ways_out}",
                missing,
            )
        why = "; ".join(filter(None, dict.fromkeys(report.why(series, span) for span in missing)))
        return NotCachedError(
            f"{series}: no source that was asked has {shown} ({why or 'it was not asked for'}); refresh=True asks "
            f"at once; {ways_out}",
            missing,
        )

    def _derive(self, series: SeriesKey, span: Span) -> ResampledKlines | None:
        if not uncovered_spans(self.folder, series, span, self._clock()):
            return None
        with KlineCache(self.folder.root, verify=self._verify) as cache:
            return derive_klines(cache, series, span)

    async def ensure(
        self,
        symbols: str | Sequence[str],
        interval: str | Sequence[str] | None = None,
        *,
        start: TimeLike,
        end: TimeLike = "now",
        market: str = "spot",
        kind: str = "klines",
        refresh: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> DownloadReport:
        """Fetch what the cache lacks of a span, for one or more symbols, and read nothing.

        A failure of one archive or symbol is in the report, and does not keep the others from being stored. The
        parameters are those of `get_klines`. Each symbol is fetched at each interval; all of them are planned
        before the first archive is fetched, and thousands take no more memory at a time than a few.
        Funding rates have no interval, and that of metrics may be left out.

        Raises
        ------
        IdentityError, TimeError
            The series or the span is invalid.
        CacheError
            The cache folder cannot be used. A series that another process has locked fails alone.
        ClientClosedError
            The client is or was closed.
        """
        series = series_of(symbols, interval, market=market, kind=kind)
        span = Span.of(start, end, present_ms=self._clock())
        return await self.ensure_series(series, span, refresh=refresh, on_progress=on_progress)

    async def ensure_series(
        self,
        series: Sequence[SeriesKey],
        span: Span,
        *,
        refresh: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> DownloadReport:
        """`ensure`, by keys and span."""
        wanted = [Wanted(key, span) for key in dict.fromkeys(series)]
        with self._employed():
            return await self._ensure(wanted, refresh=refresh, on_progress=on_progress)

    async def update(
        self,
        symbols: Choice = None,
        interval: Choice = None,
        *,
        market: Choice = None,
        kind: Choice = None,
        new_listings: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> DownloadReport:
        """Bring every series that the cache holds up to the present, each from where it ends.

        What is provisional or was unavailable is asked for again where its time has come (`ckvd.acquisition.due`).
        Nothing is fetched that was never asked for: the time before a series begins in the cache, or between two
        parts of it. An update right after another one makes no request, unless a bar has closed meanwhile. Of a
        series that has ended, the end is asked for again once a day.

        Parameters
        ----------
        symbols, interval, market, kind : str or sequence of str, optional
            Which series; by default all. Symbols are patterns, see `SeriesFilter`.
        new_listings : bool
            Also begin with the symbols that were listed since the cache has followed their market, and that are
            like those that it holds: see `ckvd.universe.new_listings`. The universe of a market is refreshed first
            if its newest snapshot is a day old. Where that fails, `unlisted` of the report says why, and what the
            cache holds is updated all the same.
        on_progress : callable, optional
            See `VisionDataClient.download`.

        Returns
        -------
        DownloadReport
            Its `spans` are those of the series of which something was due, `current` has the others. A series that
            another process has locked, or whose folder cannot be read, fails alone.

        Raises
        ------
        IdentityError
            A market, kind or interval is unknown.
        CacheError
            The cache folder cannot be used.
        ClientClosedError
            The client is or was closed.
        """
        chosen = SeriesFilter.parse(symbols=symbols, markets=market, kinds=kind, intervals=interval)
        return await self.update_series(
            await in_thread(chosen.choose, self.folder),
            new_listings=chosen if new_listings else None,
            on_progress=on_progress,
        )

    async def update_series(
        self,
        series: Sequence[SeriesKey],
        *,
        new_listings: SeriesFilter | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> DownloadReport:
        """`update`, by keys. `new_listings` says which new series are wanted as well."""
        with self._employed():
            wanted, refused = await self._due(series)
            listed, unlisted = await self._new_listings(series, new_listings)
            wanted += listed
            if not self._offline:
                await in_thread(note_begun, self.folder, wanted, self._clock())
            report = await self._ensure(wanted, refresh=False, on_progress=on_progress)
            asked = {*report.spans, *refused}
            current = tuple(key for key in dict.fromkeys(series) if key not in asked)
            return replace(report, refused=refused, unlisted=unlisted, current=current)

    async def survey(self, series: Sequence[SeriesKey], span: Span, *, refresh: bool = False) -> DownloadPlan:
        """Say what `ensure_series` would fetch. Archives are listed, none is fetched, and nothing is written.

        Raises
        ------
        ClientClosedError
            The client is or was closed, or is offline and cannot list archives.
        """
        with self._employed():
            wanted = [Wanted(key, span) for key in dict.fromkeys(series)]
            return await self._require_vision().survey(wanted, refresh=refresh)

    async def survey_update(
        self, series: Sequence[SeriesKey], *, new_listings: SeriesFilter | None = None
    ) -> DownloadPlan:
        """Say what `update_series` would fetch. The newest snapshot tells new listings. Errors: see `survey`."""
        with self._employed():
            wanted, refused = await self._due(series)
            listed, unlisted = await self._new_listings(series, new_listings, may_refresh=False)
            plan = await self._require_vision().survey([*wanted, *listed])
            return replace(plan, refused=refused, unlisted=unlisted)

    async def _due(self, series: Sequence[SeriesKey]) -> tuple[list[Wanted], dict[SeriesKey, CkvdError]]:
        """What is due of some series, and the failure of each that cannot be read."""
        refused: dict[SeriesKey, CkvdError] = {}
        chosen, use_rest = list(dict.fromkeys(series)), self._rest is not None
        wanted = await in_thread(
            find_due, self.folder, chosen, self._clock(), use_rest=use_rest, refuse=refused.__setitem__
        )
        return wanted, refused

    async def _new_listings(
        self, held: Sequence[SeriesKey], chosen: SeriesFilter | None, *, may_refresh: bool = True
    ) -> tuple[list[Wanted], dict[Market, CkvdError]]:
        """The series that were listed since the cache has followed their markets, and why they are unknown."""
        wanted: list[Wanted] = []
        unlisted: dict[Market, CkvdError] = {}
        if chosen is None or self._offline:
            return wanted, unlisted
        present_ms = self._clock()
        for market in dict.fromkeys(key.market for key in held):
            series = [key for key in held if key.market is market]
            since_ms = await in_thread(self._followed_since, market, series)
            # The series that the cache holds are updated all the same.
            try:
                snapshot = await in_thread(newest_snapshot, self.folder, market)
                if may_refresh and (snapshot is None or present_ms - snapshot.made_ms >= DAY_MS):
                    snapshot = await self.refresh_universe(market)
            except (NetworkError, ArchiveError, SnapshotError) as error:
                unlisted[market] = error
                continue
            if snapshot is not None:
                found = find_new_listings(series, snapshot.lives, since_ms=since_ms, until_ms=present_ms)
                for key, life in found:
                    span = closed_part(Span(life.first_ms, present_ms), Grid.of(key.interval), present_ms)
                    if span and key in chosen:
                        wanted.append(Wanted(key, span))
        return wanted, unlisted

    def _followed_since(self, market: Market, series: Sequence[SeriesKey]) -> int:
        """When the cache began to follow a market: with its first snapshot, or else where its newest bars end."""
        first_ms = oldest_snapshot_ms(self.folder, market)
        if first_ms is not None:
            return first_ms
        ends_ms = [0]
        for key in series:
            # A folder that cannot be read fails alone: `_due` has found it too.
            with contextlib.suppress(CkvdError):
                ends_ms.append(hull(self.folder.segments(key)).end_ms)
        # A cache without any bar follows nothing yet.
        return max(ends_ms) or self._clock()

    def _employed(self) -> contextlib.AbstractContextManager[None]:
        """In the block, work in threads is stopped when this client is closed."""
        if self._is_closed or self._workers is None:
            raise ClientClosedError("the client is closed")
        return self._workers.employed()

    def _require_vision(self) -> VisionDataClient:
        if self._vision is None:
            raise ClientClosedError("the client is offline: it cannot ask which archives there are")
        return self._vision

    async def _ensure(
        self,
        wanted: Sequence[Wanted],
        *,
        refresh: bool,
        on_progress: Callable[[Progress], None] | None,
    ) -> DownloadReport:
        # Taken once: closing the client meanwhile must not turn this into a call without REST.
        vision, rest = self._vision, self._rest
        if vision is None or not wanted:
            return await in_thread(_look, self.folder, wanted, self._clock())
        progress = _CompletionProgress(on_progress, len(wanted))
        report = await vision.fetch(wanted, refresh=refresh, on_progress=progress.of_archives)
        failed: dict[SeriesKey, list[ArchiveReport]] = {}
        for archive in report.failed:
            failed.setdefault(archive.series, []).append(archive)

        def begin(one: Wanted) -> tuple[Completion, list[Span]] | None:
            return self._begin(one, failed.get(one.series, ()), vision, rest, refresh=refresh)

        # Mostly there is nothing to do, and a hop to a thread takes as long as finding that out.
        done: set[SeriesKey] = set()
        for first in range(0, len(wanted), SERIES_TOGETHER):
            done |= await in_thread(_find_done, wanted[first : first + SERIES_TOGETHER], begin)

        async def complete(one: Wanted) -> CompletionReport:
            begun = None if one.series in done else await in_thread(begin, one)
            if begun is None:
                completion = CompletionReport(one.series, 0, (), (), has_changed=False)
            else:
                completion = await begun[0].run(begun[1])
            progress.finish(one.series)
            return completion

        completions = await run_bounded(complete, wanted, count=vision.limits.series)
        report = replace(report, completions=tuple(completions), present_ms=self._clock())
        # Not a method: the thread may hold what it was given for a moment longer than its caller.
        whole = await in_thread(_look_back, self.folder, wanted, report)
        await pack_stored(self.folder, whole, vision.limits)
        return whole

    def _begin(
        self,
        one: Wanted,
        failed: Sequence[ArchiveReport],
        vision: VisionDataClient,
        rest: RestDataClient | None,
        *,
        refresh: bool,
    ) -> tuple[Completion, list[Span]] | None:
        """The completion of a series, and what it leaves out; None where another process has the series locked."""
        rest = rest if schema_of(one.series).has_rest else None
        # An archive that was not fetched is left for the next call. So is a damaged one, unless the REST interface
        # may have its bars; bars that it lacks too are missing until the archive is repaired.
        series = one.series
        if any(isinstance(archive.error, CacheBusyError) for archive in failed):
            return None  # its lock was waited for already
        left = [
            archive.period.span for archive in failed if rest is None or isinstance(archive.error, NetworkError)
        ]
        damaged = tuple(archive.period.span for archive in failed if archive.period.span not in left)
        now_ms = self._clock()
        wanted = to_complete(one.span, read_grid(self.folder, series), now_ms)
        scope = Scope(series, wanted, self.folder, rest, now_ms, damaged, refresh)
        return Completion(scope, vision.archives), [*left, *one.left_out]

    async def refresh_universe(
        self, market: str, *, on_symbol: Callable[[int, int], None] | None = None
    ) -> Snapshot:
        """Find who was listed when in a market, and store it in the cache as a new snapshot.

        The archives are listed, about three requests a symbol, and the exchange is asked for its symbols. Where it
        is unavailable, or not to be asked, the snapshot is made from the archives and the earlier snapshot:
        `Snapshot.unavailable` says why. `KlineCache.universe` chooses from snapshots.

        Parameters
        ----------
        market : {"spot", "um", "cm"}
        on_symbol : callable, optional
            Called in the event loop with the number of symbols that are listed, and of all.

        Returns
        -------
        Snapshot

        Raises
        ------
        IdentityError
            There is no such market.
        NetworkError, ArchiveError
            The archives cannot be listed, or the listing is invalid; or the client is offline.
        RestAnswerError
            The exchange's list of symbols is malformed.
        SnapshotError, CacheError
            The earlier snapshot is damaged, or the cache cannot be used. Nothing is stored then.
        ClientClosedError
            The client is or was closed.
        """
        chosen = parse_market(market)
        if self._is_closed or self._workers is None:
            raise ClientClosedError("the client is closed")
        if self._vision is None:
            raise NetworkError(
                str(self.folder.root), f"the client is offline, and the universe of {chosen} is made of a listing"
            )
        with self._workers.employed():
            return await refresh(
                self.folder, chosen, self._vision.archives, self._rest, self._clock(), on_symbol=on_symbol
            )

    @property
    def is_connected(self) -> bool:
        """Whether it holds connections of its own."""
        return any(part.is_connected for part in self._parts)

    def release(self) -> None:
        """See `ConnectionHolder.release`."""
        parts = self._parts
        if self._workers is not None:
            self._workers.stop()
        self._is_closed, self._rest, self._vision = True, None, None
        for part in parts:
            part.release()

    @property
    def _parts(self) -> list[RestDataClient | VisionDataClient]:
        """The clients that it owns."""
        rest = None if self._rest_is_external else self._rest
        vision = None if self._vision_is_external else self._vision
        return [part for part in (rest, vision) if part is not None]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        await super().__aexit__(kind, error, trace)

    @property
    def _resources(self) -> tuple[Resource, ...]:
        return (
            ("_workers", "work in threads", False),
            ("_rest", "REST client", self._rest_is_external),
            ("_vision", "Vision client", self._vision_is_external),
        )

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "offline" if self._offline else "open"
        return f"<CryptoKlineVisionData {str(self.folder.root)!r} {state}>"


def _find_done(
    wanted: Sequence[Wanted], begin: Callable[[Wanted], tuple[Completion, list[Span]] | None]
) -> set[SeriesKey]:
    """The series that need no completion, by what the cache has of them."""
    done = set()
    for one in wanted:
        check_stop()
        begun = begin(one)
        if begun is None or begun[0].is_done(begun[1]):
            done.add(one.series)
    return done


def _look(folder: CacheFolder, wanted: Sequence[Wanted], present_ms: int) -> DownloadReport:
    """What the cache has, without asking anybody."""
    spans = {one.series: one.span for one in wanted}
    missing = find_missing(folder, wanted, present_ms)
    tails = find_untraded_tails(folder, spans)
    return DownloadReport(spans, (), missing, present_ms=present_ms, untraded_tails=tails)


def _look_back(folder: CacheFolder, wanted: Sequence[Wanted], report: DownloadReport) -> DownloadReport:
    """A report with what the cache has after all sources were asked."""
    closed = [
        replace(one, span=completion.closed_part(one.span))
        for one, completion in zip(wanted, report.completions, strict=True)
    ]
    missing = find_missing(folder, closed, report.present_ms)
    unavailable: dict[SeriesKey, tuple[Absence, ...]] = {}
    for series, spans in missing.items():
        check_stop()
        if spans:
            found = (unavailable_absences(folder, series, span) for span in spans)
            unavailable[series] = tuple(absence for absences in found for absence in absences)
    # The series of which no source has anything. Where one failed, that is unknown.
    failed = {archive.series for archive in report.failed}
    failed |= {completion.series for completion in report.completions if completion.errors}
    not_found = tuple(
        series
        for series, spans in missing.items()
        if spans and series not in failed and not folder.segments(series)
    )
    return replace(
        report,
        missing=missing,
        unavailable=unavailable,
        not_found=not_found,
        untraded_tails=find_untraded_tails(folder, report.spans),
    )


class _CompletionProgress:
    """The progress of the archives, and then of the completion of each series."""

    def __init__(self, on_progress: Callable[[Progress], None] | None, series_total: int) -> None:
        self._on_progress = on_progress
        self._latest = Progress(0, 0, 0, None, completed_total=series_total)

    def of_archives(self, progress: Progress) -> None:
        self._latest = replace(progress, completed_total=self._latest.completed_total)
        self._tell()

    def finish(self, series: SeriesKey) -> None:
        completed_count = self._latest.completed_count + 1
        self._latest = replace(self._latest, latest=None, series=series, completed_count=completed_count)
        self._tell()

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self._latest)
