"""The weight that may still be used of a host in this minute of its clock: `ServerClock`, `WeightBudget`. Pure.

`RequestBudget` is for a limit of requests in any stretch of time, wherever it begins.

All take this machine's time from a monotonic clock.

A response gives its time in whole seconds (`Date`). It was made between the sending of the request and the receipt
of the response, so each response bounds the difference of the two clocks from both sides.

The exchange adds up the weights of all requests from one IP address in each minute of its own clock, and returns
the sum with each response. Here a request counts from before it is sent. While it is under way it is unknown in
which minute the exchange counts it, so it counts in every minute. Once there is a response, the sum in it
includes the request. A new minute begins when it has certainly begun at the exchange.

The invariant: the weight sent in a minute, as the exchange counts it, never exceeds the weight counted against that
minute here. So the limit holds for any number of tasks. Other processes behind the same IP address show in the
sums, and have the share of the limit that is not used here.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ckvd.utils.config import REST_WEIGHT_SHARE, REST_WEIGHT_WINDOW_S

if TYPE_CHECKING:
    from collections.abc import Callable


class ServerClock:
    """The clock of one host, as far as its responses show it.

    Parameters
    ----------
    guess_s : float
        The seconds that it is ahead of this machine's clock; used until the first response.
    """

    def __init__(self, guess_s: float) -> None:
        self._ahead_s = guess_s
        self._is_guessed = True

    def earliest_s(self, now_s: float) -> float:
        """The earliest time that the host's clock may show now, in seconds since the epoch."""
        return now_s + self._ahead_s

    def steady_s(self, server_s: float) -> float:
        """When the host's clock will certainly have reached a time, by this machine's clock."""
        return server_s - self._ahead_s

    def observe(self, date_s: int, sent_s: float, received_s: float) -> bool:
        """Learn from a response.

        Parameters
        ----------
        date_s : int
            Its date, whole seconds since the epoch.
        sent_s, received_s : float
            When the request was sent and the response received, by this machine's clock.

        Returns
        -------
        bool
            Whether the host's clock may show an earlier time than `earliest_s` returned: a clock was set or drifts,
            or the guess was too high.
        """
        least_s, most_s = date_s - received_s, date_s + 1 - sent_s
        # A guess between the bounds may be wrong too: only a response is certain.
        is_set_back = self._ahead_s > least_s if self._is_guessed else self._ahead_s >= most_s
        self._is_guessed = False
        self._ahead_s = least_s if is_set_back else max(self._ahead_s, least_s)
        return is_set_back


# Longer than a float's rounding error: after a wait for a window, the window has begun.
_AFTER_S = 0.001


class WeightBudget:
    """The weight that one client may use of one host.

    Parameters
    ----------
    limit : int
        The weight that the exchange allows in a window.
    clock : ServerClock
        `settle` passes it the date of each response.
    window_s : float
        The length of a window. Windows begin at its multiples since the epoch.
    share : float
        The part of the limit that is used here.

    Attributes
    ----------
    capacity : int
        The most weight to use in a window.
    used : int
        The known weight used in the present window, by this client and others.
    in_flight : int
        The weight of requests under way.
    """

    def __init__(
        self,
        limit: int,
        clock: ServerClock,
        *,
        window_s: float = REST_WEIGHT_WINDOW_S,
        share: float = REST_WEIGHT_SHARE,
    ) -> None:
        self.capacity = max(1, int(limit * share))
        self.used = 0
        self.in_flight = 0
        self._clock = clock
        self._window_s = window_s
        self._window = 0
        self._paused_until_s = float("-inf")

    def __repr__(self) -> str:
        return f"<WeightBudget: {self.used} used, {self.in_flight} under way, of {self.capacity}>"

    def wait_s(self, weight: int, now_s: float) -> float:
        """How many seconds a request has to wait; 0 if it may be sent now.

        The wait may become shorter when another request is settled.
        """
        if now_s < self._paused_until_s:
            return self._paused_until_s - now_s
        self._advance_to(self._window_at(self._clock.earliest_s(now_s)))
        # A request that weighs more than the capacity is sent alone.
        if self.used + self.in_flight + min(weight, self.capacity) <= self.capacity:
            return 0.0
        next_s = self._clock.steady_s((self._window + 1) * self._window_s)
        return max(next_s - now_s, 0.0) + _AFTER_S

    def reserve(self, weight: int) -> None:
        """Count a request that is about to be sent."""
        self.in_flight += weight

    def settle(self, weight: int, *, used: int | None, date_s: int | None, sent_s: float, now_s: float) -> None:
        """Learn from the response to a request.

        Parameters
        ----------
        weight : int
            The weight that was reserved.
        used : int or None
            The sum in the response; None if it has none.
        date_s, sent_s, now_s
            See `ServerClock.observe`; `date_s` is None if the response has no date.
        """
        self.in_flight -= weight
        if date_s is None:
            # It may have been counted as late as now.
            self._advance_to(self._window_at(self._clock.earliest_s(now_s)))
        else:
            is_set_back = self._clock.observe(date_s, sent_s, now_s)
            window = self._window_at(date_s)
            self._advance_to(window)
            if window < self._window:
                if not is_set_back:
                    return  # The exchange counted it in a window that is over.
                # The window began too early here. The one before goes on, and counts requests sent since.
                self._window = window
        self.used = self.used + weight if used is None else max(self.used, used)

    def lose(self, weight: int) -> None:
        """Count a request without a response: the exchange may have counted it."""
        self.in_flight -= weight
        self.used += weight

    def pause(self, until_s: float) -> None:
        """Send nothing before a time."""
        self._paused_until_s = max(self._paused_until_s, until_s)

    def _window_at(self, server_s: float) -> int:
        return int(server_s // self._window_s)

    def _advance_to(self, window: int) -> None:
        if window > self._window:
            self._window = window
            self.used = 0


class RequestBudget:
    """The requests that one client may send to one host in any stretch of time of a length.

    The exchange counted a request at some moment between its sending and the response. So it counts from before it
    is sent, and for the whole length after the response. Then the limit holds whether the exchange counts in fixed
    windows or in the last minutes, and no clock but that of this machine matters.

    Parameters
    ----------
    limit : int
        The requests that the exchange allows.
    steady_s : callable
        Seconds by a monotonic clock of this machine.
    window_s : float
        The length.
    share : float
        The part of the limit that is used here.

    Attributes
    ----------
    capacity : int
        The most requests to send.
    in_flight : int
        Requests under way.
    """

    def __init__(self, limit: int, steady_s: Callable[[], float], *, window_s: float, share: float) -> None:
        self.capacity = max(1, int(limit * share))
        self.in_flight = 0
        self._steady_s = steady_s
        self._window_s = window_s
        self._ended_s: deque[float] = deque()
        self._paused_until_s = float("-inf")

    def __repr__(self) -> str:
        return f"<RequestBudget: {len(self._ended_s)} sent, {self.in_flight} under way, of {self.capacity}>"

    def wait_s(self, count: int, now_s: float) -> float:
        """See `WeightBudget.wait_s`."""
        while self._ended_s and self._ended_s[0] + self._window_s < now_s:
            self._ended_s.popleft()
        left = self.capacity - self.in_flight - len(self._ended_s) - count
        # Where those under way alone fill it, a response ends the wait.
        waits_s = [self._paused_until_s - now_s, 0.0]
        if left < 0:
            oldest_s = self._ended_s[min(-left, len(self._ended_s)) - 1] if self._ended_s else now_s
            waits_s.append(oldest_s + self._window_s - now_s + _AFTER_S)
        return max(waits_s)

    def reserve(self, count: int) -> None:
        """Count requests that are about to be sent."""
        self.in_flight += count

    def settle(self, count: int, **_: object) -> None:
        """Learn that requests have a response. How many the exchange counted, it does not say."""
        self.lose(count)

    def lose(self, count: int) -> None:
        """Count requests without a response: the exchange may have counted them until now."""
        self.in_flight -= count
        self._ended_s.extend([self._steady_s()] * count)

    def pause(self, until_s: float) -> None:
        """Send nothing before a time."""
        self._paused_until_s = max(self._paused_until_s, until_s)
