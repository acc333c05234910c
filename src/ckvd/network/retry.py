"""Whether to try again, and how long to wait before: pure decisions, without a clock and without I/O.

The wait doubles from attempt to attempt and is drawn at random between zero and that (full jitter), so that many
downloads which failed together do not come back together. A server that says how long to wait is obeyed, unless it
asks for longer than is bearable: then the request has failed. Imports `errors` and `utils.config`.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from ckvd.errors import HttpStatusError, NetworkError
from ckvd.utils.config import (
    RETRY_AFTER_MAX_S,
    RETRY_ATTEMPTS_MAX,
    RETRY_BACKOFF_FIRST_S,
    RETRY_BACKOFF_MAX_S,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that brought no answer, or one that asks to come back later.

    Attributes
    ----------
    url : str
        What was asked for.
    reason : str
        What went wrong.
    is_transient : bool
        Whether the same request may succeed later.
    status : int or None
        The HTTP status, where there was an answer.
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
        """The exception for a caller who will not see another attempt."""
        reason = self.reason
        if self.retry_after_s is not None:
            reason += f"; the server asks to wait {self.retry_after_s:g} s"
        if attempt_count > 1:
            reason += f" (attempt {attempt_count}, the last)"
        return self.error_type(self.url, reason, status=self.status)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient to be.

    Attributes
    ----------
    attempts_max : int
        Attempts in all, the first one included.
    backoff_first_s, backoff_max_s : float
        The longest wait after the first attempt, and after any.
    retry_after_max_s : float
        A server that asks for a longer pause than this is not waited for.
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
            Where the jitter comes from.

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


def failure_of_status(url: str, status: int, headers: Mapping[str, str], now: dt.datetime) -> Failure | None:
    """Judge an answer by its status.

    Parameters
    ----------
    url : str
    status : int
    headers : mapping of str to str
        Names in lower case.
    now : datetime
        The present, with a time zone: what a date in `Retry-After` is compared with when the server does not
        tell its own time.

    Returns
    -------
    Failure or None
        A failure for 408, 429 and 5xx, which are worth another attempt. None for all else, which is an answer.
    """
    if status not in (408, 429) and not 500 <= status <= 599:
        return None
    return Failure(
        url,
        f"the server answered {status}",
        is_transient=True,
        status=status,
        retry_after_s=parse_retry_after(headers.get("retry-after", ""), _moment(headers.get("date", "")) or now),
        error_type=HttpStatusError,
    )


def parse_retry_after(text: str, now: dt.datetime) -> float | None:
    """Read a `Retry-After` header: seconds, or an HTTP date.

    Returns
    -------
    float or None
        Seconds from now, zero for the past; None when there is no header or nobody can tell what it means.
    """
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d*)?", text, re.ASCII):
        return float(text)
    moment = _moment(text)
    return None if moment is None else max(0.0, (moment - now).total_seconds())


def _moment(text: str) -> dt.datetime | None:
    """Read an HTTP date."""
    try:
        moment = parsedate_to_datetime(text)
        # A zone of -0000 means UTC of unknown origin, and comes back without one.
        return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
