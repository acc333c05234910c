"""Fetching without `await`: `get_klines` and `ensure` for scripts, threads and notebooks."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, overload

from ckvd.api.crypto_kline_vision_data import CryptoKlineVisionData

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from ckvd.acquisition.report import DownloadReport, Progress
    from ckvd.bars.klines import Klines
    from ckvd.bars.resample import ResampledKlines
    from ckvd.model.timespan import TimeLike

_T = TypeVar("_T")


class DataOptions(TypedDict, total=False):
    """The parameters of `CryptoKlineVisionData`."""

    cache: str | os.PathLike[str] | None
    vision_url: str | os.PathLike[str] | None
    listing_url: str | None
    rest_url: str | Mapping[str, str] | None
    use_rest: bool
    offline: bool
    concurrency: int
    is_checksum_required: bool
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


def ensure(
    symbols: str | Sequence[str],
    interval: str,
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


def _run(options: DataOptions, call: Callable[[CryptoKlineVisionData], Coroutine[Any, Any, _T]]) -> _T:
    """Call a client and close it, in an event loop of its own.

    Where a loop runs in this thread already, the new one runs in another thread, which is joined.
    """

    async def run() -> _T:
        async with CryptoKlineVisionData(**options) as data:
            return await call(data)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    results: list[_T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(asyncio.run(run()))
        except BaseException as error:  # noqa: BLE001  (raised again in the waiting thread)
            errors.append(error)

    thread = threading.Thread(target=work, name="ckvd")
    thread.start()
    thread.join()
    if errors:
        raise errors.pop()
    return results.pop()
