"""Responses without rows: each becomes the exception that says why the exchange refused. Pure.

Errors come as `{"code": -1121, "msg": "..."}`, those of a firewall as HTML. `decision_of` says what each documented
code means for a request for klines; one code may mean different things in different markets.

Sources: the pages of error codes of spot, USD-margined and coin-margined futures at
https://developers.binance.com/docs. Codes that only orders, accounts and streams can meet are left out: like codes
that nobody has documented, they are fatal.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypedDict

from ckvd.errors import (
    BannedError,
    ExchangeError,
    HttpStatusError,
    InvalidSymbolError,
    NetworkError,
    NotTradingError,
    RateLimitError,
    RegionRefusedError,
    shown,
)
from ckvd.model.market import Market
from ckvd.model.timespan import format_time
from ckvd.network.retry import is_transient_status
from ckvd.utils.config import REST_URL_SPOT_ALTERNATIVE

if TYPE_CHECKING:
    from ckvd.network.response import Response


class Decision(StrEnum):
    """What a code of the exchange means for a request for klines."""

    UNKNOWN = "unknown"  # there is no such symbol or pair: no bars, now or later
    NOT_TRADING = "not trading"  # the contract does not trade yet, or no longer: no bars now
    WAIT = "wait"  # too many requests: nothing is sent until the pause is over
    RETRY = "retry"  # the same request may be answered in a moment
    REFUSED = "refused"  # this address is not served: no request will be answered
    FATAL = "fatal"  # the request is wrong, or means nothing to the exchange: it is reported


_ALL: Final = tuple(Market)
_FUTURES: Final = (Market.UM, Market.CM)
_DOCUMENTED: Final[tuple[tuple[int, str, tuple[Market, ...], Decision], ...]] = (
    (-1000, "UNKNOWN", _ALL, Decision.RETRY),
    (-1001, "DISCONNECTED", _ALL, Decision.RETRY),
    (-1002, "UNAUTHORIZED", _ALL, Decision.FATAL),
    (-1003, "TOO_MANY_REQUESTS", _ALL, Decision.WAIT),
    (-1004, "SERVER_BUSY", (Market.SPOT,), Decision.RETRY),
    (-1004, "DUPLICATE_IP", _FUTURES, Decision.FATAL),
    (-1005, "NO_SUCH_IP", _FUTURES, Decision.REFUSED),
    (-1006, "UNEXPECTED_RESP", _ALL, Decision.RETRY),
    (-1007, "TIMEOUT", _ALL, Decision.RETRY),
    (-1008, "SERVER_BUSY", _ALL, Decision.RETRY),
    (-1010, "ERROR_MSG_RECEIVED", _ALL, Decision.FATAL),
    (-1011, "NON_WHITE_LIST", _FUTURES, Decision.REFUSED),
    (-1016, "SERVICE_SHUTTING_DOWN", _ALL, Decision.RETRY),
    (-1020, "UNSUPPORTED_OPERATION", _ALL, Decision.FATAL),
    (-1021, "INVALID_TIMESTAMP", _ALL, Decision.FATAL),
    (-1022, "INVALID_SIGNATURE", _ALL, Decision.FATAL),
    (-1023, "START_TIME_GREATER_THAN_END_TIME", _FUTURES, Decision.FATAL),
    (-1099, "NOT_FOUND", _ALL, Decision.FATAL),
    (-1100, "ILLEGAL_CHARS", _ALL, Decision.FATAL),
    (-1101, "TOO_MANY_PARAMETERS", _ALL, Decision.FATAL),
    (-1102, "MANDATORY_PARAM_EMPTY_OR_MALFORMED", _ALL, Decision.FATAL),
    (-1103, "UNKNOWN_PARAM", _ALL, Decision.FATAL),
    (-1104, "UNREAD_PARAMETERS", _ALL, Decision.FATAL),
    (-1105, "PARAM_EMPTY", _ALL, Decision.FATAL),
    (-1106, "PARAM_NOT_REQUIRED", _ALL, Decision.FATAL),
    (-1108, "PARAM_OVERFLOW", (Market.SPOT,), Decision.FATAL),
    (-1120, "BAD_INTERVAL", _ALL, Decision.FATAL),
    (-1121, "BAD_SYMBOL", _ALL, Decision.UNKNOWN),
    # In spot it is about a parameter that klines do not have.
    (-1122, "INVALID_SYMBOLSTATUS", (Market.SPOT,), Decision.FATAL),
    (-1122, "INVALID_SYMBOL_STATUS", _FUTURES, Decision.NOT_TRADING),
    (-1127, "MORE_THAN_XX_HOURS", _ALL, Decision.FATAL),
    (-1128, "OPTIONAL_PARAMS_BAD_COMBO", _ALL, Decision.FATAL),
    (-1130, "INVALID_PARAMETER", _ALL, Decision.FATAL),
    (-1182, "PARAMS_BAD_COMBO", (Market.SPOT,), Decision.FATAL),
    (-2014, "BAD_API_KEY_FMT", _ALL, Decision.FATAL),
    (-2015, "REJECTED_MBX_KEY", _ALL, Decision.FATAL),
    (-4084, "UPCOMING_METHOD", _FUTURES, Decision.FATAL),
    (-4087, "REDUCE_ONLY_ORDER_PERMISSION", (Market.UM,), Decision.FATAL),
    (-4087, "INVALID_PAIR", (Market.CM,), Decision.UNKNOWN),
    (-4088, "NO_PLACE_ORDER_PERMISSION", (Market.UM,), Decision.FATAL),
    (-4088, "INVALID_TIME_INTERVAL", (Market.CM,), Decision.FATAL),
    (-4104, "INVALID_CONTRACT_TYPE", _FUTURES, Decision.FATAL),
    # Orders meet it for a contract that is settled; it says the same of klines.
    (-4108, "INVALID_SYMBOL_STATUS", _FUTURES, Decision.NOT_TRADING),
    (-4141, "SYMBOL_ALREADY_CLOSED", (Market.UM,), Decision.NOT_TRADING),
    # The page of coin-margined futures has another code for it; their server was seen to send this one too.
    (-4144, "INVALID_PAIR", _FUTURES, Decision.UNKNOWN),
    (-4165, "INVALID_TIME_INTERVAL", (Market.UM,), Decision.FATAL),
)
DECISIONS: Final = {(market, code): decision for code, _, markets, decision in _DOCUMENTED for market in markets}
"""What each documented code of each market means for a request for klines."""

_ERRORS: Final[dict[Decision, type[ExchangeError]]] = {
    Decision.UNKNOWN: InvalidSymbolError,
    Decision.NOT_TRADING: NotTradingError,
    Decision.REFUSED: RegionRefusedError,
}
_BANNED_UNTIL: Final = re.compile(r"banned until ([0-9]{13})\b")
# The shortest ban there is, for one that does not say how long it is. A pause of more than a year is nonsense.
_BAN_MS_MIN: Final = 120_000
_PAUSE_S_MAX: Final = 366 * 86_400
# Codes of the exchange have four or five digits.
_CODE_LIMIT: Final = 10**9


def decision_of(market: Market, status: int, code: int | None) -> Decision:
    """What a response without rows means for a request for klines.

    Parameters
    ----------
    market : Market
    status : int
        The HTTP status. Where it says that the address is refused or asks too much, it decides alone.
    code : int or None
        The exchange's code; None if it gave none.
    """
    decision = Decision.FATAL if code is None else DECISIONS.get((market, code), Decision.FATAL)
    if status in (418, 429):
        return Decision.WAIT
    if decision is Decision.WAIT:
        return decision
    if status in (403, 451):
        return Decision.REFUSED
    return Decision.RETRY if is_transient_status(status) else decision


def refusal_of(response: Response, market: Market, made_ms: int, pause_s: float | None) -> NetworkError | None:
    """Judge a response.

    Parameters
    ----------
    response : Response
    market : Market
        The market that was asked.
    made_ms : int
        When the response was made, in milliseconds.
    pause_s : float or None
        The pause that it asks for, in seconds.

    Returns
    -------
    NetworkError or None
        The exception to raise; None for a response with rows.
    """
    status = response.status
    if status == 200:
        return None
    code, message = _read_error(response.body)
    said = f"{status}, {message}" if code is None else f"{status}, code {code}: {message}"
    details: _Details = {"status": status, "code": code, "message": message}
    if status == 418:
        until_ms = _ban_end_ms(message, made_ms, pause_s)
        reason = f"the exchange has banned this address until {format_time(until_ms)} ({said})"
        return BannedError(response.url, reason, until_ms=until_ms, **details)
    decision = decision_of(market, status, code)
    if decision is Decision.WAIT:
        asks = "" if pause_s is None else f" and asks to wait {pause_s:g} s"
        reason = f"the exchange reports too many requests{asks} ({said})"
        return RateLimitError(response.url, reason, retry_after_s=pause_s, **details)
    if code is None and decision is not Decision.REFUSED:
        return HttpStatusError(response.url, f"expected rows, found status {said}", status=status)
    return _ERRORS.get(decision, ExchangeError)(response.url, _reason_of(decision, market, status, said), **details)


def _reason_of(decision: Decision, market: Market, status: int, said: str) -> str:
    match decision:
        case Decision.REFUSED:
            return _reason_of_region(market, status, said)
        case Decision.UNKNOWN:
            return f"market {market} has no such symbol ({said})"
        case Decision.NOT_TRADING:
            return f"the contract does not trade in market {market}: not yet, or no longer ({said})"
        case _:
            return f"the exchange answered {said}"


def is_transient(refusal: NetworkError, market: Market) -> bool:
    """Whether the same request may be answered in a moment."""
    if isinstance(refusal, BannedError):
        return False
    code = refusal.code if isinstance(refusal, ExchangeError) else None
    return decision_of(market, refusal.status or 0, code) in (Decision.WAIT, Decision.RETRY)


class _Details(TypedDict):
    status: int
    code: int | None
    message: str


def _ban_end_ms(message: str, made_ms: int, pause_s: float | None) -> int:
    """The end of a ban: the later of the two times that the message and the header give."""
    until = _BANNED_UNTIL.search(message)
    ends_ms = [int(until[1])] if until else []
    ends_ms += [made_ms + int(min(pause_s, _PAUSE_S_MAX) * 1000)] if pause_s is not None else []
    return max(ends_ms, default=made_ms + _BAN_MS_MIN)


def _reason_of_region(market: Market, status: int, said: str) -> str:
    who = {
        451: "does not serve this region",
        403: "does not serve this region, or has had too many requests",
    }.get(status, "does not serve this address")
    way_out = (
        f"set CKVD_REST_URL_SPOT to {REST_URL_SPOT_ALTERNATIVE}, which has the same market data"
        if market is Market.SPOT
        else f"archives are served everywhere; set CKVD_REST_URL_{market.upper()} to another address"
    )
    return f"the exchange {who} ({said}); {way_out}"


def _read_error(body: bytes) -> tuple[int | None, str]:
    """The code and message of an error; of any other body no code, and its beginning."""
    try:
        error = json.loads(body)
    except (ValueError, RecursionError):
        error = None
    if isinstance(error, dict) and isinstance(error.get("code"), int) and abs(error["code"]) < _CODE_LIMIT:
        return int(error["code"]), shown(error.get("msg", ""))
    return None, shown(body)
