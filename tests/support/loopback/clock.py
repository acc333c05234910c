"""`VirtualTime`: a clock that moves when it is told to, or when somebody sleeps by it."""

from __future__ import annotations

import asyncio
import threading


class VirtualTime:
    """One time for a server in its thread and for its clients.

    Parameters
    ----------
    now_ms : int
        Where it starts, in milliseconds since the epoch.
    """

    def __init__(self, now_ms: int) -> None:
        self._now_ms = float(now_ms)
        self._lock = threading.Lock()

    def now_ms(self) -> int:
        return int(self._now_ms)

    def steady_s(self) -> float:
        """The same time as a clock of one machine tells it that counts from its start."""
        return self._now_ms / 1000 - 1_000_000_000

    def advance_to(self, moment_ms: float) -> None:
        """Move on; never back."""
        with self._lock:
            self._now_ms = max(self._now_ms, moment_ms)

    def advance(self, delay_ms: float) -> None:
        with self._lock:
            self._now_ms += delay_ms

    async def sleep(self, delay_s: float) -> None:
        """Let the time pass at once. Those who sleep at the same time do not wait for one another."""
        until_ms = self._now_ms + 1000 * delay_s
        await asyncio.sleep(0)
        self.advance_to(until_ms)
