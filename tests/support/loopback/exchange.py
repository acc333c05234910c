"""`Exchange`: answers for klines and funding as the exchange does, from rows that are given to it.

Each market has a clock, a sum of weights for each minute of it, a refusal for those who ask too much, and a ban for
those who go on asking. Of a span with more bars than rows are asked for, spot and USD-margined futures answer with
the first, coin-margined ones with the last, and with nothing but an error for more than 200 days.

Requests for funding rates have a limit of their own in each market: so many in any five minutes.
"""

from __future__ import annotations

import json
import math
import threading
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Self, TypeAlias

from ckvd.model.market import DAY_MS, Interval, Kind, Market, SeriesKey
from ckvd.model.timespan import now_ms
from support.loopback.reply import Reply, Request
from support.loopback.rows import Row, open_ms_of, settlements_json, to_json
from support.loopback.server import LoopbackServer

if TYPE_CHECKING:
    from types import TracebackType

Step: TypeAlias = Reply | Callable[[Reply], Reply]

_ROOTS = {"/api/v3": Market.SPOT, "/fapi/v1": Market.UM, "/dapi/v1": Market.CM}
_ROWS_MAX = {Market.SPOT: 1000, Market.UM: 1500, Market.CM: 1500}
_ROWS_DEFAULT = 500
_WINDOW_MAX_MS = 200 * DAY_MS
_FUNDING_LIMIT, _FUNDING_WINDOW_MS = 500, 300_000
_FUNDING_ROWS_MAX, _FUNDING_ROWS_DEFAULT = 1000, 100
_WEIGHT_LIMITS = {Market.SPOT: 6000, Market.UM: 2400, Market.CM: 2400}

_TOO_MUCH = "Too much request weight used; current limit is {limit} request weight per 1 MINUTE. Please use the \
websocket for live updates to avoid polling the API."
_BANNED = "Way too much request weight used; IP banned until {until}. Please use the websocket for live updates to \
avoid bans."


class RefusedError(Exception):
    """A request that is answered with an error of the exchange."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.body = json.dumps({"code": code, "msg": message}).encode()


@dataclass(slots=True)
class Account:
    """What one market of the exchange knows of its only client.

    Attributes
    ----------
    weights : Counter of int
        The sum of weights for each window.
    refused_count : int
        Answers with 429.
    ignored_count : int
        Requests that came although a pause was asked for.
    banned_until_ms : int
    request_count_in_ban : int
    funding_asked_ms : list of int
        When funding rates were asked for.
    """

    limit: int
    weights: Counter[int] = field(default_factory=Counter)
    refused_count: int = 0
    ignored_count: int = 0
    paused_until_ms: float = 0
    banned_until_ms: float = 0
    request_count_in_ban: int = 0
    funding_asked_ms: list[int] = field(default_factory=list)


class Exchange:
    """The exchange behind a `LoopbackServer`. A context manager.

    Parameters
    ----------
    rows : mapping of SeriesKey to rows
        Twelve fields a row as text, times in milliseconds, in any order, each open time once. Of funding the time,
        the rate and the mark price.
    clock : callable
        The exchange's time in milliseconds. Bars that open later are not there yet; the last one is not closed.
    weight_limits : mapping of Market to int, optional
    window_ms : int
        How long weights are added up. The `Date` of answers has whole seconds.
    patience : int
        So many requests may come in spite of a pause before the client is banned.
    ban_ms : int
    is_funding_newest_first : bool
        Whether a page of funding rates that is cut off has the last ones of its span.

    Attributes
    ----------
    server : LoopbackServer
    accounts : dict of Market to Account
    """

    def __init__(
        self,
        rows: Mapping[SeriesKey, Iterable[Row]],
        *,
        clock: Callable[[], int] = now_ms,
        weight_limits: Mapping[Market, int] | None = None,
        window_ms: int = 60_000,
        patience: int = 10,
        ban_ms: int = 120_000,
        is_funding_newest_first: bool = False,
    ) -> None:
        self._is_funding_newest_first = is_funding_newest_first
        self.server = LoopbackServer(self._reply)
        self.accounts = {
            market: Account((weight_limits or {}).get(market, limit)) for market, limit in _WEIGHT_LIMITS.items()
        }
        self._rows = {series: sorted(bars, key=open_ms_of) for series, bars in rows.items()}
        self._clock = clock
        self._window_ms = window_ms
        self._patience = patience
        self._ban_ms = ban_ms
        self._suspended: set[tuple[Market, str]] = set()
        self._script: deque[Step] = deque()
        self._infos: dict[Market, bytes] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.server.__exit__(kind, error, traceback)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def request_count(self) -> int:
        return len(self.server.requests)

    def script(self, *steps: Step) -> None:
        """Say what the next requests are answered: a reply, or a change of the genuine one."""
        with self._lock:
            self._script.extend(steps)

    def publish(self, series: SeriesKey, rows: Iterable[Row]) -> None:
        """Add rows to a series, or replace them."""
        with self._lock:
            known = {open_ms_of(row): row for row in [*self._rows.get(series, []), *rows]}
            self._rows[series] = [known[open_ms] for open_ms in sorted(known)]

    def publish_info(self, market: Market, body: bytes) -> None:
        """Say what `exchangeInfo` of a market is answered. Without it there is no such path."""
        with self._lock:
            self._infos[market] = body

    def suspend(self, market: Market, symbol: str) -> None:
        """Let a contract not trade: it is known, and every request for it is refused."""
        with self._lock:
            self._suspended.add((market, symbol))

    def resume(self, market: Market, symbol: str) -> None:
        """Let a contract trade again."""
        with self._lock:
            self._suspended.remove((market, symbol))

    def spend(self, market: Market, weight: int) -> None:
        """Use weight as another process does behind the same address."""
        with self._lock:
            self.accounts[market].weights[self._clock() // self._window_ms] += weight

    # --- Answers -------------------------------------------------------------------------------------------

    def _reply(self, request: Request) -> Reply:
        root, _, kind = request.path.rpartition("/")
        market = _ROOTS.get(root)
        if market is None or not (kind in set(Kind) or (kind == "exchangeInfo" and market in self._infos)):
            return Reply(404, b"<html>not found</html>")
        with self._lock:
            now_ms = self._clock()
            genuine = self._judge(market, now_ms, request, is_funding=kind == Kind.FUNDING_RATE)
            if genuine is None and kind == "exchangeInfo":
                genuine = Reply(200, self._infos[market])
            genuine = genuine or self._rows_for(market, Kind(kind), now_ms, request)
            dated = self._dated(genuine, market, now_ms)
            step = self._script.popleft() if self._script else dated
        return self._dated(step, market, now_ms) if isinstance(step, Reply) else step(dated)

    def _dated(self, reply: Reply, market: Market, now_ms: int) -> Reply:
        used = self.accounts[market].weights[now_ms // self._window_ms]
        headers = {
            "Content-Type": "application/json",
            "Date": formatdate(now_ms // 1000, usegmt=True),
            "X-MBX-USED-WEIGHT-1M": str(used),
            **reply.headers,
        }
        return replace(reply, headers=headers)

    def _judge(self, market: Market, now_ms: int, request: Request, *, is_funding: bool) -> Reply | None:
        """Count the weight of a request, and refuse it if it is too much."""
        account = self.accounts[market]
        if now_ms < account.banned_until_ms:
            account.request_count_in_ban += 1
            return self._ban(account, now_ms)
        window = now_ms // self._window_ms
        is_over = False
        if is_funding:
            account.funding_asked_ms.append(now_ms)
            last = bisect_right(account.funding_asked_ms, now_ms - _FUNDING_WINDOW_MS)
            is_over = len(account.funding_asked_ms) - last > _FUNDING_LIMIT
        else:
            account.weights[window] += weight_of(market, request.query)
        if now_ms >= account.paused_until_ms and account.weights[window] <= account.limit and not is_over:
            return None
        account.ignored_count += now_ms < account.paused_until_ms
        if account.ignored_count >= self._patience:
            account.banned_until_ms = now_ms + self._ban_ms
            return self._ban(account, now_ms)
        account.refused_count += 1
        account.paused_until_ms = max(account.paused_until_ms, (window + 1) * self._window_ms)
        return Reply(
            429,
            RefusedError(-1003, _TOO_MUCH.format(limit=account.limit)).body,
            {"Retry-After": _seconds(account.paused_until_ms - now_ms)},
        )

    def _ban(self, account: Account, now_ms: int) -> Reply:
        body = RefusedError(-1003, _BANNED.format(until=int(account.banned_until_ms))).body
        return Reply(418, body, {"Retry-After": _seconds(account.banned_until_ms - now_ms)})

    def _rows_for(self, market: Market, kind: Kind, now_ms: int, request: Request) -> Reply:
        try:
            if kind is Kind.FUNDING_RATE:
                symbol = request.query.get("symbol", "")
                return Reply(200, settlements_json(symbol, self._settlements(market, now_ms, request.query)))
            rows = self._select(market, kind, now_ms, request.query)
        except RefusedError as error:
            return Reply(400, error.body)
        return Reply(200, to_json(rows))

    def _select(self, market: Market, kind: Kind, now_ms: int, query: Mapping[str, str]) -> Sequence[Row]:
        bars = self._rows.get(self._series_of(market, kind, query), [])
        limit = _limit_of(market, query)
        start_ms, end_ms = _optional_ms(query, "startTime"), _optional_ms(query, "endTime")
        is_newest = start_ms is None or market is Market.CM
        if market is Market.CM:
            start_ms, end_ms = _window_of(start_ms, end_ms, now_ms)
        last_ms = now_ms if end_ms is None else min(end_ms, now_ms)
        first = bisect_left(bars, start_ms or 0, key=open_ms_of)
        chosen = bars[first : max(first, bisect_right(bars, last_ms, key=open_ms_of))]
        return chosen[-limit:] if is_newest else chosen[:limit]

    def _settlements(self, market: Market, now_ms: int, query: Mapping[str, str]) -> Sequence[Row]:
        symbol = query.get("symbol")
        if not symbol:
            raise RefusedError(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        if (market, symbol) in self._suspended:
            raise RefusedError(-1122, "Invalid symbol status.")
        if not any((known.market, known.symbol) == (market, symbol) for known in self._rows):
            raise RefusedError(-1121, "Invalid symbol.")
        rows = self._rows.get(SeriesKey.of(symbol, market=market, kind=Kind.FUNDING_RATE), [])
        start_ms, end_ms = _optional_ms(query, "startTime"), _optional_ms(query, "endTime")
        limit = min(int(query.get("limit", _FUNDING_ROWS_DEFAULT)), _FUNDING_ROWS_MAX)
        last_ms = now_ms if end_ms is None else min(end_ms, now_ms)
        chosen = [row for row in rows if (start_ms or 0) <= open_ms_of(row) <= last_ms]
        is_newest = start_ms is None or self._is_funding_newest_first
        return chosen[-limit:] if is_newest else chosen[:limit]

    def _series_of(self, market: Market, kind: Kind, query: Mapping[str, str]) -> SeriesKey:
        subject = "pair" if kind is Kind.INDEX_PRICE else "symbol"
        for name in (subject, "interval"):
            if not query.get(name):
                raise RefusedError(
                    -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."
                )
        names = {interval.rest_name: interval for interval in Interval}
        interval = names.get(query["interval"])
        if interval is None or (interval is Interval.S1 and market is not Market.SPOT):
            raise RefusedError(-1120, "Invalid interval.")
        symbol = query[subject]
        if (market, symbol) in self._suspended:
            raise RefusedError(-1122, "Invalid symbol status.")
        if not any((known.market, known.kind, known.symbol) == (market, kind, symbol) for known in self._rows):
            raise RefusedError(*((-4144, "Invalid pair.") if subject == "pair" else (-1121, "Invalid symbol.")))
        return SeriesKey(market, kind, symbol, interval)


def weight_of(market: Market, query: Mapping[str, str]) -> int:
    """The weight of a request as it is documented."""
    if market is Market.SPOT:
        return 2
    limit = int(query.get("limit", _ROWS_DEFAULT))
    return next(weight for below, weight in ((100, 1), (500, 2), (1001, 5), (math.inf, 10)) if limit < below)


def _limit_of(market: Market, query: Mapping[str, str]) -> int:
    limit = int(query.get("limit", _ROWS_DEFAULT))
    if market is not Market.SPOT and limit > _ROWS_MAX[market]:
        raise RefusedError(-1130, "Data sent for parameter 'limit' is not valid.")
    return min(limit, _ROWS_MAX[market])


def _window_of(start_ms: int | None, end_ms: int | None, now_ms: int) -> tuple[int, int]:
    """Where coin-margined bars may open."""
    if start_ms is None:
        end_ms = now_ms if end_ms is None else end_ms
        start_ms = end_ms - _WINDOW_MAX_MS
    elif end_ms is None:
        end_ms = min(now_ms, start_ms + _WINDOW_MAX_MS)
    if end_ms - start_ms > _WINDOW_MAX_MS:
        raise RefusedError(-4088, "Maximum time interval is 200 days.")
    return start_ms, end_ms


def _optional_ms(query: Mapping[str, str], name: str) -> int | None:
    return int(query[name]) if name in query else None


def _seconds(delay_ms: float) -> str:
    return str(math.ceil(delay_ms / 1000))
