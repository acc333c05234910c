"""`ServerClock`: what time it certainly is where answers come from. Pure: it is told the time of this machine.

An answer says its time in whole seconds (`Date`), and was made between sending the request and receiving it. Each
one therefore bounds the difference of the two clocks from both sides. The time of this machine comes from a clock
that is never set, such as `time.monotonic`.
"""

from __future__ import annotations

import datetime as dt
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class ServerClock:
    """The clock of one host, as far as it is known.

    Parameters
    ----------
    guess_s : float
        Seconds by which it is ahead of this machine's clock, until an answer tells.
    """

    def __init__(self, guess_s: float) -> None:
        self._ahead_s = guess_s
        self._is_guessed = True

    def earliest_s(self, now_s: float) -> float:
        """The earliest that it may be there now, in seconds since the epoch."""
        return now_s + self._ahead_s

    def steady_s(self, server_s: float) -> float:
        """When it will be that late there for certain, by this machine's clock."""
        return server_s - self._ahead_s

    def observe(self, date_s: int, sent_s: float, received_s: float) -> bool:
        """Learn from an answer.

        Parameters
        ----------
        date_s : int
            What it says, whole seconds since the epoch.
        sent_s, received_s : float
            When the request was sent and the answer was here, by this machine's clock.

        Returns
        -------
        bool
            Whether it may be earlier over there than was thought to be certain: a clock was set, or drifts, or
            the guess was too high.
        """
        least_s, most_s = date_s - received_s, date_s + 1 - sent_s
        # A guess between the bounds may be wrong as well: only what an answer told is certain.
        is_set_back = self._ahead_s > least_s if self._is_guessed else self._ahead_s >= most_s
        self._is_guessed = False
        self._ahead_s = least_s if is_set_back else max(self._ahead_s, least_s)
        return is_set_back


def date_of(headers: Mapping[str, str]) -> int | None:
    """When an answer was made by its `Date`, whole seconds since the epoch; None where it does not say.

    Parameters
    ----------
    headers : mapping of str to str
        Names in lower case.
    """
    try:
        moment = parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    # A zone of -0000 means UTC of unknown origin, and comes back without one.
    aware = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment
    return int(aware.timestamp())
