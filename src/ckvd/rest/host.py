"""`ExchangeHost`: asking one host of the exchange, within its limits, until there is an answer.

All tasks of a client ask through here, in the order in which they came. A request waits until the budget has room
and the line has a place, and is counted before it is sent. When the exchange finds the requests too many, nobody
sends anything until the pause is over. When it bans this address, or asks for a longer pause than is bearable,
whoever waits is told so at once, and nothing is sent until that has ended.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckvd.errors import BannedError, ExchangeError, NetworkError, RateLimitError
from ckvd.model.timespan import now_ms
from ckvd.network.retry import Failure, RetryPolicy
from ckvd.rest.refusal import refusal_of, retry_after_s
from ckvd.rest.weight import ServerClock, WeightBudget, date_of
from ckvd.utils.config import REST_WEIGHT_SHARE, REST_WEIGHT_WINDOW_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckvd.model.market import Market
    from ckvd.network.transport import Response, Transport

logger = logging.getLogger(__name__)

_USED_WEIGHT = "x-mbx-used-weight-1m"


@dataclass(frozen=True, slots=True)
class DatedResponse:
    """An answer with rows.

    Attributes
    ----------
    response : Response
    date_ms : int or None
        When the exchange made it, by its own clock, rounded down to a second; None where it does not say.
    attempt_count : int
        Requests that it took.
    """

    response: Response
    date_ms: int | None
    attempt_count: int


@dataclass(frozen=True, slots=True)
class _Stop:
    """Nothing is sent before a time, by the clock that is never set, because of a refusal."""

    until_s: float
    refusal: BannedError | RateLimitError

    def error(self, url: str) -> BannedError | RateLimitError:
        """What to raise in place of a request."""
        refusal = self.refusal
        reason = f"not sent: {refusal.reason}"
        status, code, said = refusal.status, refusal.code, refusal.message
        if isinstance(refusal, BannedError):
            return BannedError(url, reason, until_ms=refusal.until_ms, status=status, code=code, message=said)
        pause_s = refusal.retry_after_s
        return RateLimitError(url, reason, retry_after_s=pause_s, status=status, code=code, message=said)


@dataclass(frozen=True, slots=True)
class _Failed:
    """An attempt without rows, and the pause in seconds that the answer asked for, where it did."""

    error: NetworkError
    retry_after_s: float | None = None


class ExchangeHost:
    """One host, for one market.

    Parameters
    ----------
    base_url : str
    market : Market
    transport : Transport
        It stays the caller's.
    line : asyncio.Semaphore
        The places on the line, shared with the client's other hosts.
    retry : RetryPolicy
    weight_limit : int
        What the exchange allows in a window.
    window_s, share : float
        See `WeightBudget`.
    steady_s : callable
        Seconds, by a clock of this machine that is never set.
    """

    def __init__(
        self,
        base_url: str,
        market: Market,
        transport: Transport,
        line: asyncio.Semaphore,
        *,
        retry: RetryPolicy,
        weight_limit: int,
        window_s: float = REST_WEIGHT_WINDOW_S,
        share: float = REST_WEIGHT_SHARE,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._market = market
        self._transport = transport
        self._line = line
        self._retry = retry
        self._rng = random.Random()  # noqa: S311 - it spreads requests in time, it keeps no secret
        self._steady_s = steady_s
        clock = ServerClock(time.time() - steady_s())
        self._budget = WeightBudget(weight_limit, clock, window_s=window_s, share=share)
        self._turn = asyncio.Lock()
        self._sleeper: asyncio.Task[None] | None = None
        self._stop: _Stop | None = None

    def __repr__(self) -> str:
        return f"<ExchangeHost {self.base_url}: {self._budget!r}>"

    async def ask(self, path: str, params: Mapping[str, str | int], weight: int) -> DatedResponse:
        """Ask until there is an answer with rows, as often as the policy allows.

        Raises
        ------
        ExchangeError
            The exchange refuses: see the classes made of it.
        NetworkError, HttpStatusError
            There was no answer at last, or none of the exchange's.
        ClientClosedError
        """
        number = 1
        while True:
            outcome = await self._attempt(path, params, weight)
            if isinstance(outcome, _Failed):
                await self._wait_after(outcome, number)
                number += 1
            else:
                date_s = date_of(outcome.headers)
                return DatedResponse(outcome, None if date_s is None else 1000 * date_s, number)

    # --- One attempt ---------------------------------------------------------------------------------------

    async def _attempt(self, path: str, params: Mapping[str, str | int], weight: int) -> Response | _Failed:
        url = self.base_url + path
        await self._admit(url, weight)
        sent_s = self._steady_s()
        try:
            response = await self._transport.request(url, params)
        except BaseException as error:
            self._budget.lose(weight)
            if isinstance(error, NetworkError):
                return _Failed(error)
            raise
        else:
            return self._learn(response, weight, sent_s) or response
        finally:
            self._line.release()
            self._wake()

    def _learn(self, response: Response, weight: int, sent_s: float) -> _Failed | None:
        """Settle a request by its answer; None for one with rows."""
        now_s = self._steady_s()
        date_s = date_of(response.headers)
        made_ms = now_ms() if date_s is None else 1000 * date_s
        refusal = refusal_of(response, self._market, made_ms)
        used = _read_count(response.headers.get(_USED_WEIGHT, ""))
        if isinstance(refusal, BannedError):
            logger.warning("%s", refusal)
            self._stop = _Stop(now_s + (refusal.until_ms - made_ms) / 1000, refusal)
        elif isinstance(refusal, RateLimitError):
            pause_s = refusal.retry_after_s or 0.0
            # Whatever the sum is, there is no more to be had in this window.
            used = max(used or 0, self._budget.capacity)
            if pause_s <= self._retry.retry_after_max_s:
                self._budget.pause(now_s + pause_s)
            else:
                self._stop = _Stop(now_s + pause_s, refusal)
        self._budget.settle(weight, used=used, date_s=date_s, sent_s=sent_s, now_s=now_s)
        return None if refusal is None else _Failed(refusal, retry_after_s(response, made_ms))

    async def _wait_after(self, failed: _Failed, number: int) -> None:
        """Wait before the next attempt, or raise the error of this one."""
        error = failed.error
        is_rate_limit = isinstance(error, RateLimitError)
        is_transient = is_rate_limit or error.status in (None, 200, 408) or 500 <= (error.status or 0) <= 599
        failure = Failure(error.url, error.reason, is_transient=is_transient, retry_after_s=failed.retry_after_s)
        wait_s = self._retry.wait_s(number, failure, self._rng)
        if wait_s is None:
            raise error
        logger.info("%s: trying again", error)
        if not is_rate_limit:  # There, the budget keeps everybody waiting.
            await self._transport.sleep(wait_s)

    # --- Admission -----------------------------------------------------------------------------------------

    async def _admit(self, url: str, weight: int) -> None:
        """Wait for room in the budget and a place on the line, first come, first served; take both."""
        async with self._turn:
            while True:
                while wait_s := self._wait_s(url, weight):
                    await self._pause(wait_s)
                await self._line.acquire()
                # What was room may be gone, or a ban may have come, while the line was full.
                try:
                    is_room = not self._wait_s(url, weight)
                except ExchangeError:
                    self._line.release()
                    raise
                if is_room:
                    self._budget.reserve(weight)
                    return
                self._line.release()

    def _wait_s(self, url: str, weight: int) -> float:
        now_s = self._steady_s()
        if self._stop is not None and now_s < self._stop.until_s:
            raise self._stop.error(url)
        return self._budget.wait_s(weight, now_s)

    async def _pause(self, wait_s: float) -> None:
        """Wait until the time has passed, or something has changed. Only one task is here at a time."""
        sleeper = asyncio.create_task(self._transport.sleep(wait_s))
        sleeper.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._sleeper = sleeper
        try:
            await asyncio.wait({sleeper})
        finally:
            self._sleeper = None
            sleeper.cancel()
        if not sleeper.cancelled():
            sleeper.result()

    def _wake(self) -> None:
        if self._sleeper is not None:
            self._sleeper.cancel()


def _read_count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() else None
