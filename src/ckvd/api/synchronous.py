"""Fetching without `await`, in scripts, threads and notebooks: klines, funding, metrics, or a report of a fetch."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, TypeVar, Unpack, overload

from ckvd.api.crypto_kline_vision_data import CryptoKlineVisionData
from ckvd.utils.config import THREAD_STOP_TIMEOUT_S

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from ckvd.acquisition.report import DownloadReport, Progress
    from ckvd.bars.funding import Funding
    from ckvd.bars.klines import Klines
    from ckvd.bars.metrics import Metrics
    from ckvd.bars.resample import ResampledKlines
    from ckvd.cache.selection import Choice
    from ckvd.model.timespan import TimeLike
    from ckvd.segment.checks import Verify

_T = TypeVar("_T")

# A cancelled call waits for its threads, and then for those of each client that it leaves.
_LEAVING_S: Final = 4 * THREAD_STOP_TIMEOUT_S


class DataOptions(TypedDict, total=False):
    """The parameters of `CryptoKlineVisionData`."""

    cache: str | os.PathLike[str] | None
    vision_url: str | os.PathLike[str] | None
    listing_url: str | None
    rest_url: str | Mapping[str, str] | None
    use_rest: bool
    offline: bool
    concurrency: int
    workers: int | None
    is_checksum_required: bool
    verify: Verify
    clock: Callable[[], int]


@overload
def get_klines(
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
    **options: Unpack[DataOptions],
) -> Klines: ...


@overload
def get_klines(
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
    **options: Unpack[DataOptions],
) -> Klines | ResampledKlines: ...


def get_klines(
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
    **options: Unpack[DataOptions],
) -> Klines | ResampledKlines:
    """Fetch what the cache lacks of a span, then read the span, synchronously.

    It works in scripts, in threads, and in notebooks, where an event loop runs already and waits meanwhile. There
    `on_progress` is called in another thread than the waiting one. The options are those of
    `CryptoKlineVisionData`; the other parameters, the result and the errors are those of its `get_klines`.
    """
    return _run(
        options,
        lambda data: data.get_klines(
            symbol,
            interval,
            start=start,
            end=end,
            market=market,
            kind=kind,
            missing=missing,
            derive=derive,
            refresh=refresh,
            on_progress=on_progress,
        ),
    )


def get_funding(
    symbol: str,
    *,
    start: TimeLike,
    end: TimeLike = "now",
    market: str = "um",
    missing: Literal["raise", "ignore"] = "raise",
    refresh: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Unpack[DataOptions],
) -> Funding:
    """Fetch and read funding rates, synchronously: see `get_klines`, and `CryptoKlineVisionData.get_funding`."""
    return _run(
        options,
        lambda data: data.get_funding(
            symbol,
            start=start,
            end=end,
            market=market,
            missing=missing,
            refresh=refresh,
            on_progress=on_progress,
        ),
    )


def get_metrics(
    symbol: str,
    *,
    start: TimeLike,
    end: TimeLike = "now",
    market: str = "um",
    missing: Literal["raise", "ignore"] = "raise",
    refresh: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Unpack[DataOptions],
) -> Metrics:
    """Fetch and read metrics, synchronously: see `get_klines`, and `CryptoKlineVisionData.get_metrics`."""
    return _run(
        options,
        lambda data: data.get_metrics(
            symbol,
            start=start,
            end=end,
            market=market,
            missing=missing,
            refresh=refresh,
            on_progress=on_progress,
        ),
    )


def ensure(
    symbols: str | Sequence[str],
    interval: str | Sequence[str] | None = None,
    *,
    start: TimeLike,
    end: TimeLike = "now",
    market: str = "spot",
    kind: str = "klines",
    refresh: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Unpack[DataOptions],
) -> DownloadReport:
    """Fetch what the cache lacks of a span, synchronously: see `get_klines`, and `CryptoKlineVisionData.ensure`."""
    return _run(
        options,
        lambda data: data.ensure(
            symbols,
            interval,
            start=start,
            end=end,
            market=market,
            kind=kind,
            refresh=refresh,
            on_progress=on_progress,
        ),
    )


def update(
    symbols: Choice = None,
    interval: Choice = None,
    *,
    market: Choice = None,
    kind: Choice = None,
    new_listings: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Unpack[DataOptions],
) -> DownloadReport:
    """Bring what the cache holds up to now, synchronously: see `CryptoKlineVisionData.update` and `get_klines`."""
    return _run(
        options,
        lambda data: data.update(
            symbols, interval, market=market, kind=kind, new_listings=new_listings, on_progress=on_progress
        ),
    )


def _run(options: DataOptions, call: Callable[[CryptoKlineVisionData], Coroutine[Any, Any, _T]]) -> _T:
    """Call a client and close it, in an event loop of its own.

    Where a loop runs in this thread already, the new one runs in another thread, which is waited for. Ctrl-C
    cancels the call there too. Before Python 3.13 a `join` that Ctrl-C interrupts takes the thread for one that has
    ended, so an event tells when it has.
    """
    begun: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = []

    async def run() -> _T:
        begun.append((asyncio.get_running_loop(), asyncio.current_task()))
        async with CryptoKlineVisionData(**options) as data:
            return await call(data)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    results: list[_T] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    def work() -> None:
        try:
            results.append(asyncio.run(run()))
        except BaseException as error:  # noqa: BLE001  (raised again in the waiting thread)
            errors.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=work, name="ckvd")
    thread.start()
    try:
        ended.wait()
    except BaseException:
        for loop, task in begun:
            if task is not None:
                with contextlib.suppress(RuntimeError):  # that loop has just been closed
                    loop.call_soon_threadsafe(task.cancel)
        ended.wait(_LEAVING_S)
        raise
    thread.join()
    if errors:
        raise errors.pop()
    return results.pop()
