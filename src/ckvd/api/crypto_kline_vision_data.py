"""`CryptoKlineVisionData`: the klines of a span, from the cache, from Vision archives, and from the REST interface.

In that order: each is asked only for what the one before lacks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, overload

from ckvd.acquisition.completion import Completion
from ckvd.acquisition.completion.scope import Scope, outer_seconds
from ckvd.acquisition.derive import derive_klines
from ckvd.acquisition.download import pack_stored
from ckvd.acquisition.report import CompletionReport, DownloadReport
from ckvd.api.vision_data_client import VisionDataClient
from ckvd.cache.coverage import unavailable_absences, uncovered_spans
from ckvd.cache.folder import CacheFolder
from ckvd.cache.kline_cache import KlineCache
from ckvd.cache.rows import read_grid
from ckvd.cache.untraded_tail import find_untraded_tails
from ckvd.concurrency.work import Workers, in_thread, run_together
from ckvd.errors import CacheBusyError, ClientClosedError, NetworkError, NotCachedError, NotFetchedError
from ckvd.lifecycle import ConnectionHolder, Resource
from ckvd.model.grid import closed_part
from ckvd.model.market import SeriesKey, parse_market
from ckvd.model.timespan import Span, now_ms
from ckvd.rest.rest_data_client import RestDataClient
from ckvd.segment.checks import require_verify
from ckvd.universe.refresh import refresh
from ckvd.utils.config import DOWNLOAD_CONCURRENCY

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from ckvd.acquisition.report import Progress
    from ckvd.bars.klines import Klines
    from ckvd.bars.resample import ResampledKlines
    from ckvd.errors import CkvdError
    from ckvd.model.timespan import TimeLike
    from ckvd.segment.checks import Verify
    from ckvd.universe.snapshot import Snapshot

_SPANS_SHOWN: Final = 5


class CryptoKlineVisionData(ConnectionHolder):
    """Klines from a cache that is filled from Binance Vision and the REST interface as needed.

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
    is_checksum_required : bool
        Refuse archives without a CHECKSUM file.
    verify : {"never", "first"}
        Whether the bars that `get_klines` returns are compared with the checksums of their segments: see
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
        present_ms = self._clock()
        span = closed_part(Span.of(start, end), read_grid(self.folder, series), present_ms)
        if derive and (derived := self._derive(series, span)) is not None:
            return derived
        report = await self.ensure_series([series], span, refresh=refresh, on_progress=on_progress)
        # The first bars of a series of 3d bars may tell more of its grid.
        span = closed_part(span, read_grid(self.folder, series), present_ms)
        for completion in report.completions:
            span = completion.closed_part(span)
        with KlineCache(self.folder.root, verify=self._verify) as cache:
            try:
                return cache.read_series(series, span, missing=missing)
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
        interval: str,
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
        parameters are those of `get_klines`.

        Raises
        ------
        IdentityError, TimeError
            The series or the span is invalid.
        CacheError
            The cache folder cannot be used. A series that another process has locked fails alone.
        ClientClosedError
            The client is or was closed.
        """
        names = [symbols] if isinstance(symbols, str) else list(dict.fromkeys(symbols))
        series = [SeriesKey.of(symbol, interval, market=market, kind=kind) for symbol in names]
        return await self.ensure_series(series, Span.of(start, end), refresh=refresh, on_progress=on_progress)

    async def ensure_series(
        self,
        series: Sequence[SeriesKey],
        span: Span,
        *,
        refresh: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> DownloadReport:
        """`ensure`, by keys and span."""
        if self._is_closed or self._workers is None:
            raise ClientClosedError("the client is closed")
        with self._workers.employed():
            return await self._ensure_series(series, span, refresh=refresh, on_progress=on_progress)

    async def _ensure_series(
        self,
        series: Sequence[SeriesKey],
        span: Span,
        *,
        refresh: bool,
        on_progress: Callable[[Progress], None] | None,
    ) -> DownloadReport:
        # Taken once: closing the client meanwhile must not turn this into a call without REST.
        vision, rest = self._vision, self._rest
        if vision is None:
            present_ms = self._clock()
            missing = {key: uncovered_spans(self.folder, key, span, present_ms) for key in series}
            tails = find_untraded_tails(self.folder, series, span)
            return DownloadReport(tuple(series), span, (), missing, present_ms=present_ms, untraded_tails=tails)
        report = await vision.fetch_archives(series, span, refresh=refresh, on_progress=on_progress)
        completions = await run_together(
            [self._complete(key, span, report, vision, rest, refresh=refresh) for key in series]
        )
        present_ms = self._clock()
        missing = {
            one.series: uncovered_spans(self.folder, one.series, one.closed_part(span), present_ms)
            for one in completions
        }
        unavailable = {
            key: tuple(one for span in spans for one in unavailable_absences(self.folder, key, span))
            for key, spans in missing.items()
            if spans
        }
        whole = replace(
            report,
            missing=missing,
            completions=tuple(completions),
            present_ms=present_ms,
            unavailable=unavailable,
            untraded_tails=await in_thread(find_untraded_tails, self.folder, series, span),
        )
        whole = replace(whole, not_found=self._not_found(whole))
        await pack_stored(self.folder, whole, vision.limits)
        return whole

    def _not_found(self, report: DownloadReport) -> tuple[SeriesKey, ...]:
        """The series of which no source has anything. Where one failed, that is unknown."""
        failed = {archive.series for archive in report.failed}
        failed |= {completion.series for completion in report.completions if completion.errors}
        return tuple(
            series
            for series, spans in report.missing.items()
            if spans and series not in failed and not self.folder.segments(series)
        )

    async def _complete(
        self,
        series: SeriesKey,
        span: Span,
        report: DownloadReport,
        vision: VisionDataClient,
        rest: RestDataClient | None,
        *,
        refresh: bool,
    ) -> CompletionReport:
        # An archive that was not fetched is left for the next call. So is a damaged one, unless the REST interface
        # may have its bars; bars that it lacks too are missing until the archive is repaired.
        failed = [archive for archive in report.failed if archive.series == series]
        if any(isinstance(one.error, CacheBusyError) for one in failed):
            # Its lock was waited for already.
            return CompletionReport(series, 0, (), (), has_changed=False)
        left = [one.period.span for one in failed if rest is None or isinstance(one.error, NetworkError)]
        damaged = tuple(one.period.span for one in failed if one.period.span not in left)
        now_ms = self._clock()
        wanted = closed_part(outer_seconds(span), read_grid(self.folder, series), now_ms)
        scope = Scope(series, wanted, self.folder, rest, now_ms, damaged, refresh)
        completion = Completion(scope, vision.archives)
        return await completion.run(left)

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
