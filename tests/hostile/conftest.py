"""What tests with hostile files get: an end. What should never wait may wait in a test that fails."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_TIMEOUT_S = 60


@pytest.fixture(autouse=True)
def _end_what_waits(request: pytest.FixtureRequest) -> Iterator[None]:
    """Interrupt the system call of a test that waits for ever: opening a pipe, or taking a lock."""
    timeout_s = getattr(request.module, "TIMEOUT_S", _TIMEOUT_S)

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"it took longer than {timeout_s} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(timeout_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
