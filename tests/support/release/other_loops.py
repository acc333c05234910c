"""Event loops that run in another thread."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def stalled_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in another thread that does something else until the end of the block."""
    home, may_go_on, is_stalled = asyncio.new_event_loop(), threading.Event(), threading.Event()

    def stall() -> None:
        is_stalled.set()
        may_go_on.wait(30)

    home.call_soon(stall)
    thread = threading.Thread(target=home.run_forever)
    thread.start()
    try:
        assert is_stalled.wait(10)
        yield home
    finally:
        may_go_on.set()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), home).result(10)
        home.call_soon_threadsafe(home.stop)
        thread.join()
        home.close()
