"""`Stopwatch`: how long something took, without the time for which the machine did something else. And `LOADED`."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

# A bound is what an idle machine keeps. One that is busy with other things may take so many times as long.
LOADED = 5
_BEAT_S = 0.005


class Stopwatch:
    """Measures the body of a `with`.

    A second thread wakes up every few milliseconds. If it wakes late, the machine kept the whole process waiting,
    and that time does not count.

    Attributes
    ----------
    wall_s : float
        Time by the clock on the wall.
    elapsed_s : float
        The same, without the time for which the machine kept the process waiting.
    """

    wall_s = 0.0
    elapsed_s = 0.0

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._late_s = 0.0
        self._thread = threading.Thread(target=self._beat)
        self._thread.start()
        self._start_s = time.monotonic()
        return self

    def _beat(self) -> None:
        last_s = time.monotonic()
        while not self._stop.wait(_BEAT_S):
            now_s = time.monotonic()
            self._late_s += max(now_s - last_s - 2 * _BEAT_S, 0)
            last_s = now_s

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wall_s = time.monotonic() - self._start_s
        self._stop.set()
        self._thread.join()
        self.elapsed_s = self.wall_s - self._late_s
