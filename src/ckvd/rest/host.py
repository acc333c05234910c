"""`ExchangeHost`: requests to one host of the exchange, within its limits, until one is answered with rows.

All tasks of a client send through here, first come, first served. A request waits until the weight budget has room
and the transport has a free slot, and is counted before it is sent. After a 429 nothing is sent until the pause is
over. After a ban, or a pause that is too long to wait for, every waiting task gets the error at once, and nothing
is sent until the ban or pause has ended.

Requests for funding rates have a limit of their own. They wait for it and for that of weights, because it is not
certain that the exchange leaves them out there.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ckvd.errors import BannedError, ExchangeError, NetworkError, RateLimitError
from ckvd.network.response import parse_count
from ckvd.network.retry import Failure, RetryPolicy, retry_after_s
from ckvd.rest.refusal import is_transient, refusal_of
from ckvd.rest.weight import RequestBudget, ServerClock, WeightBudget
from ckvd.utils.config import (
    ANSWER_NBYTES_MAX,
    REST_FUNDING_LIMIT,
    REST_FUNDING_WINDOW_S,
    REST_WEIGHT_SHARE,
    REST_WEIGHT_WINDOW_S,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckvd.model.market import Market
    from ckvd.network.response import Response
    from ckvd.network.transport import Transport

logger = logging.getLogger(__name__)

_USED_WEIGHT = "x-mbx-used-weight-1m"


@dataclass(frozen=True, slots=True)
class _Stop:
    """A refusal, and until when nothing is sent because of it, by the monotonic clock."""

    until_s: float
    refusal: BannedError | RateLimitError

    def error(self, url: str) -> BannedError | RateLimitError:
        """The error of a request that is not sent."""
        refusal = self.refusal
        reason = f"not sent: {refusal.reason}"
        status, code, message = refusal.status, refusal.code, refusal.message
        if isinstance(refusal, BannedError):
            return BannedError(url, reason, until_ms=refusal.until_ms, status=status, code=code, message=message)
        pause_s = refusal.retry_after_s
        return RateLimitError(url, reason, retry_after_s=pause_s, status=status, code=code, message=message)


@dataclass(frozen=True, slots=True)
class _FailedAttempt:
    """An attempt without rows: the error to raise if it was the last, and the failure for the retry policy."""

    error: NetworkError
    failure: Failure


class _Charge(NamedTuple):
    """What a request counts against a limit."""

    budget: WeightBudget | RequestBudget
    weight: int


def _lose(charges: Sequence[_Charge]) -> None:
    for budget, weight in charges:
        budget.lose(weight)


class ExchangeHost:
    """One host, for one market.

    Parameters
    ----------
    base_url : str
    market : Market
    transport : Transport
        Not closed here. Its slots are shared with the client's other hosts.
    retry : RetryPolicy
    weight_limit : int
        The weight that the exchange allows in a window.
    window_s, share : float
        See `WeightBudget`.
    steady_s : callable
        Seconds by a monotonic clock of this machine.
    """

    def __init__(
        self,
        base_url: str,
        market: Market,
        transport: Transport,
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
        self._retry = retry
        self._rng = random.Random()  # noqa: S311 - it spreads requests in time, it keeps no secret
        self._steady_s = steady_s
        clock = ServerClock(time.time() - steady_s())
        self._budget = WeightBudget(weight_limit, clock, window_s=window_s, share=share)
        self._apart = RequestBudget(REST_FUNDING_LIMIT, steady_s, window_s=REST_FUNDING_WINDOW_S, share=share)
        self._turn = asyncio.Lock()
        self._sleeper: asyncio.Task[None] | None = None
        self._stop: _Stop | None = None

    def __repr__(self) -> str:
        return f"<ExchangeHost {self.base_url}: {self._budget!r}>"

    async def ask(
        self,
        path: str,
        params: Mapping[str, str | int],
        weight: int,
        *,
        is_counted_apart: bool = False,
        nbytes_max: int = ANSWER_NBYTES_MAX,
    ) -> tuple[Response, int]:
        """Send a request until it is answered with status 200, as often as the policy allows.

        Parameters
        ----------
        path : str
        params : mapping
        weight : int
        is_counted_apart : bool
            See `MarketRules`.
        nbytes_max : int
            A body that is longer is a failure.

        Returns
        -------
        Response
        int
            The number of requests that it took.

        Raises
        ------
        ExchangeError
            The exchange refuses; see its subclasses.
        NetworkError, HttpStatusError
            The last attempt brought no response, or none of the exchange's own.
        ClientClosedError
        """
        number = 1
        charges = (_Charge(self._budget, weight), *([_Charge(self._apart, 1)] if is_counted_apart else []))
        while True:
            outcome = await self._attempt(path, params, charges, nbytes_max)
            if isinstance(outcome, _FailedAttempt):
                await self._wait_after(outcome, number)
                number += 1
            else:
                return outcome, number

    # --- One attempt ---------------------------------------------------------------------------------------

    async def _attempt(
        self, path: str, params: Mapping[str, str | int], charges: Sequence[_Charge], nbytes_max: int
    ) -> Response | _FailedAttempt:
        url = self.base_url + path
        await self._admit(url, charges)
        sent_s = self._steady_s()
        try:
            outcome = await self._transport.request(url, params, nbytes_max=nbytes_max)
        except BaseException:
            _lose(charges)
            raise
        else:
            if isinstance(outcome, Failure):
                _lose(charges)
                return _FailedAttempt(outcome.to_error(), outcome)
            return self._learn(outcome, charges, sent_s) or outcome
        finally:
            self._transport.slots.release()
            self._wake()

    def _learn(self, response: Response, charges: Sequence[_Charge], sent_s: float) -> _FailedAttempt | None:
        """Settle a request by its response; None for one with rows."""
        now_s = self._steady_s()
        made = response.date or dt.datetime.now(dt.UTC)
        made_ms = int(made.timestamp() * 1000)
        pause_s = retry_after_s(response, made)
        refusal = refusal_of(response, self._market, made_ms, pause_s)
        used = parse_count(response.headers.get(_USED_WEIGHT, ""))
        if isinstance(refusal, BannedError):
            logger.warning("%s", refusal)
            self._stop = _Stop(now_s + (refusal.until_ms - made_ms) / 1000, refusal)
        elif isinstance(refusal, RateLimitError):
            # Whatever the sum in the response, nothing is left of this window. A request that counts against both
            # limits may have met either: it waits for the next minute and for what the response asks for.
            used = max(used or 0, self._budget.capacity)
            until_s = now_s + (pause_s or 0.0)
            if pause_s is None or pause_s <= self._retry.retry_after_max_s:
                for charge in charges:
                    charge.budget.pause(until_s)
            else:
                self._stop = _Stop(until_s, refusal)
        date_s = None if response.date is None else int(made.timestamp())
        for budget, weight in charges:
            budget.settle(weight, used=used, date_s=date_s, sent_s=sent_s, now_s=now_s)
        if refusal is None:
            return None
        failure = Failure(
            refusal.url,
            refusal.reason,
            is_transient=is_transient(refusal, self._market),
            retry_after_s=pause_s,
        )
        return _FailedAttempt(refusal, failure)

    async def _wait_after(self, failed: _FailedAttempt, number: int) -> None:
        """Wait before the next attempt, or raise the error of this one."""
        wait_s = self._retry.wait_s(number, failed.failure, self._rng)
        if wait_s is None:
            raise failed.error
        logger.info("%s: trying again", failed.error)
        if not isinstance(failed.error, RateLimitError):  # After one, the budget makes every request wait.
            await self._transport.sleep(wait_s)

    # --- Admission -----------------------------------------------------------------------------------------

    async def _admit(self, url: str, charges: Sequence[_Charge]) -> None:
        """Wait for room in the budgets and a slot of the transport, first come, first served; take both.

        The slot is taken here, not by the transport: a request that waits for one must not count against the
        budget, and must not be sent after a ban.
        """
        slots = self._transport.slots
        async with self._turn:
            while True:
                while wait_s := self._wait_s(url, charges):
                    await self._pause(wait_s)
                await slots.acquire()
                # Meanwhile the room may have been used up, or a ban may have come.
                try:
                    is_room = not self._wait_s(url, charges)
                except ExchangeError:
                    slots.release()
                    raise
                if is_room:
                    for budget, weight in charges:
                        budget.reserve(weight)
                    return
                slots.release()

    def _wait_s(self, url: str, charges: Sequence[_Charge]) -> float:
        now_s = self._steady_s()
        if self._stop is not None and now_s < self._stop.until_s:
            raise self._stop.error(url)
        return max(budget.wait_s(weight, now_s) for budget, weight in charges)

    async def _pause(self, wait_s: float) -> None:
        """Wait until the time is over, or a request was settled. One task at a time is here."""
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
