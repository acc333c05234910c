"""Whether to try again, and how long to wait before that. Pure: no clock, no I/O.

The longest wait doubles from attempt to attempt. The wait is drawn at random between zero and that (full jitter),
so that downloads that failed together do not come back together. A server that names a pause gets it, unless the
pause is too long: then the request has failed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckvd.errors import HttpStatusError, NetworkError
from ckvd.network.response import parse_http_date
from ckvd.utils.config import (
    RETRY_AFTER_MAX_S,
    RETRY_ATTEMPTS_MAX,
    RETRY_BACKOFF_FIRST_S,
    RETRY_BACKOFF_MAX_S,
)

if TYPE_CHECKING:
    import datetime as dt
    from random import Random

    from ckvd.network.response import Head

# A pause of a century. `float` makes infinity of a number with more than 308 digits.
_PAUSE_S_MAX: Final = 100 * 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that brought no response, or a response that asks for another attempt later.

    Attributes
    ----------
    url : str
        What was asked for.
    reason : str
        What went wrong.
    is_transient : bool
        Whether the same request may succeed later.
    status : int or None
        The HTTP status, if there was a response.
    retry_after_s : float or None
        The pause that the server asks for, in seconds.
    error_type : type of NetworkError
        What to raise if no other attempt is made.
    """

    url: str
    reason: str
    is_transient: bool
    status: int | None = None
    retry_after_s: float | None = None
    error_type: type[NetworkError] = NetworkError

    def to_error(self, attempt_count: int = 1) -> NetworkError:
        """The exception to raise when no other attempt is made."""
        reason = self.reason
        if self.retry_after_s is not None:
            reason += f"; the server asks to wait {self.retry_after_s:g} s"
        if attempt_count > 1:
            reason += f" (attempt {attempt_count}, the last)"
        return self.error_type(self.url, reason, status=self.status)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often to try, and how long to wait in between.

    Attributes
    ----------
    attempts_max : int
        Attempts in all, the first one included.
    backoff_first_s, backoff_max_s : float
        The longest wait after the first attempt, and after any attempt.
    retry_after_max_s : float
        The longest pause that a server may ask for. A request with a longer one has failed.
    """

    attempts_max: int = RETRY_ATTEMPTS_MAX
    backoff_first_s: float = RETRY_BACKOFF_FIRST_S
    backoff_max_s: float = RETRY_BACKOFF_MAX_S
    retry_after_max_s: float = RETRY_AFTER_MAX_S

    def backoff_limit_s(self, attempt: int) -> float:
        """The longest wait after an attempt, counted from 1."""
        doublings = min(attempt - 1, 64)  # more would leave the range of a float
        return min(self.backoff_max_s, self.backoff_first_s * 2.0**doublings)

    def wait_s(self, attempt: int, failure: Failure, random: Random) -> float | None:
        """How long to wait before the next attempt.

        Parameters
        ----------
        attempt : int
            The number of the attempt that failed, counted from 1.
        failure : Failure
        random : random.Random
            The source of the jitter.

        Returns
        -------
        float or None
            Seconds; None to give up.
        """
        if not failure.is_transient or attempt >= self.attempts_max:
            return None
        jitter_s = random.uniform(0.0, self.backoff_limit_s(attempt))
        if failure.retry_after_s is None:
            return jitter_s
        return None if failure.retry_after_s > self.retry_after_max_s else failure.retry_after_s + jitter_s


def failure_of_status(head: Head, now: dt.datetime) -> Failure | None:
    """Return the failure of a response that is worth another attempt (408, 429, 5xx); None for all others.

    For `now`, see `retry_after_s`.
    """
    if not is_transient_status(head.status):
        return None
    return Failure(
        head.url,
        f"the server answered {head.status}",
        is_transient=True,
        status=head.status,
        retry_after_s=retry_after_s(head, now),
        error_type=HttpStatusError,
    )


def is_transient_status(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status in (408, 429) or 500 <= status <= 599


def retry_after_s(head: Head, now: dt.datetime) -> float | None:
    """The pause in seconds that a response asks for; None if it asks for none.

    Parameters
    ----------
    head : Head
    now : datetime
        The present, with a time zone. A date in `Retry-After` is compared with the response's own `Date`, and with
        this if there is none.
    """
    return parse_retry_after(head.headers.get("retry-after", ""), head.date or now)


def parse_retry_after(text: str, now: dt.datetime) -> float | None:
    """Read a `Retry-After` header: seconds, or an HTTP date.

    Returns
    -------
    float or None
        Seconds from now, zero for a date that has passed; None if the text is neither. More than a century is
        cut to that.
    """
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d*)?", text, re.ASCII):
        return min(float(text), _PAUSE_S_MAX)
    date = parse_http_date(text)
    return None if date is None else max(0.0, (date - now).total_seconds())
