"""Responses without rows: each becomes the exception that says why the exchange refused. Pure.

Errors come as `{"code": -1121, "msg": "..."}`, those of a firewall as HTML.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, TypedDict

from ckvd.errors import (
    BannedError,
    ExchangeError,
    HttpStatusError,
    InvalidSymbolError,
    NetworkError,
    RateLimitError,
    RegionRefusedError,
)
from ckvd.model.market import Market
from ckvd.model.timespan import format_time
from ckvd.utils.config import REST_URL_SPOT_ALTERNATIVE

if TYPE_CHECKING:
    from ckvd.network.response import Response

_TOO_MANY_REQUESTS: Final = -1003
_UNKNOWN_SUBJECTS: Final = (-1121, -4144)  # a symbol, a pair
_BANNED_UNTIL: Final = re.compile(r"banned until ([0-9]{13})\b")
# The shortest ban there is, for one that does not say how long it is. A pause of more than a year is nonsense.
_BAN_MS_MIN: Final = 120_000
_PAUSE_S_MAX: Final = 366 * 86_400
_MESSAGE_SHOWN: Final = 200


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
    if status == 429 or code == _TOO_MANY_REQUESTS:
        asks = "" if pause_s is None else f" and asks to wait {pause_s:g} s"
        reason = f"the exchange reports too many requests{asks} ({said})"
        return RateLimitError(response.url, reason, retry_after_s=pause_s, **details)
    if status in (403, 451):
        return RegionRefusedError(response.url, _reason_of_region(market, status, said), **details)
    if code is None:
        return HttpStatusError(response.url, f"expected rows, found status {said}", status=status)
    is_unknown = code in _UNKNOWN_SUBJECTS
    reason = f"market {market} has no such symbol ({said})" if is_unknown else f"the exchange answered {said}"
    return (InvalidSymbolError if is_unknown else ExchangeError)(response.url, reason, **details)


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
    who = "does not serve this region" + ("" if status == 451 else ", or has had too many requests")
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
    if isinstance(error, dict) and isinstance(error.get("code"), int):
        return error["code"], str(error.get("msg", ""))[:_MESSAGE_SHOWN]
    return None, " ".join(body[:_MESSAGE_SHOWN].decode("utf-8", "replace").split())
