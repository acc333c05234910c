"""`Limits`: how long a request may take, and the least speed of its body."""

from __future__ import annotations

from dataclasses import dataclass

from ckvd.utils.config import LEAST_SPEED_GRACE_S, LEAST_SPEED_NBYTES_S


@dataclass(frozen=True, slots=True)
class Limits:
    """How many seconds a request may take to connect, to bring the next bytes of the body, and in all.

    After `grace_s`, the body must have come at `least_nbytes_s` bytes a second on average since the request began.
    """

    connect_s: float
    stall_s: float
    transfer_s: float
    least_nbytes_s: float = LEAST_SPEED_NBYTES_S
    grace_s: float = LEAST_SPEED_GRACE_S

    def earned_s(self, nbytes: int) -> float:
        """How long a request may have taken when so many bytes of the body have come."""
        return self.grace_s + nbytes / self.least_nbytes_s

    def reason(self, nbytes: int, took_s: float, *, is_whole: bool) -> str:
        """Say which limit was reached; `is_whole` if it was that of the whole request."""
        if is_whole:
            return f"it took longer than {self.transfer_s:g} s"
        if took_s < self.earned_s(nbytes):
            return f"nothing came for {self.stall_s:g} s"
        least = f"expected at least {self.least_nbytes_s:g} bytes a second after {self.grace_s:g} s"
        return f"{least}, found {nbytes} bytes in {took_s:.3g} s"
