"""The demo: serve the sample mirror on loopback, download from it with the real client, and read the bars.

`make demo` runs it. It connects only to its own server, and keeps its cache in `.demo/`.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import ckvd
from ckvd.model.timespan import format_time

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent
MIRROR = ROOT / "vision"
CACHE = ROOT.parent / ".demo" / "klines"


class _Mirror(SimpleHTTPRequestHandler):
    """Serve the files of a folder, by HTTP/1.1, so that connections are reused, and without a log."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None:
        """Log nothing."""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of the loopback interface, and yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Mirror, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def download(url: str) -> None:
    """Download three series of the mirror into the cache."""
    async with ckvd.VisionDataClient(url, cache=CACHE) as vision:
        for symbol, interval, market, start, end in (
            ("BTCUSDT", "1m", "spot", "2023-03-23", "2023-03-26"),
            ("BTCUSDT", "1h", "spot", "2024-12-01", "2025-02-01"),
            ("BTCUSD_PERP", "1h", "cm", "2024-01-01", "2024-01-04"),
        ):
            report = await vision.download(symbol, interval, start=start, end=end, market=market)
            state = "in the cache already" if report.covered_before else f"{len(report.stored)} archives stored"
            print(f"{market} {symbol} {interval}: {state}")


def read() -> None:
    """Read the downloaded bars from the cache, without a connection."""
    with ckvd.open_cache(CACHE) as cache:
        klines = cache.read("BTCUSDT", "1m", start="2023-03-23", end="2023-03-26")
        print(f"\n{klines}")
        print(f"mean close {klines.close.mean():.2f}, traded {klines.volume.sum():.4f} BTC")
        for gap in klines.gaps:
            print(f"gap: {gap}")
        for flag, count in klines.flag_counts.items():
            print(f"flag {flag.name}: {count} bars")
        hours = cache.read("BTCUSDT", "1h", start="2025-01-01", end="2025-02-01")
        print(f"\n{hours}, closes are a view: {hours.close.base is not None}")
        print(f"first bar {format_time(int(hours.open_time[0]))}, close {hours.close[0]}")
        contracts = cache.read("BTCUSD_PERP", "1h", start="2024-01-01", end="2024-01-04", market="cm")
        print(f"\n{contracts}: {contracts.volume.sum():.0f} contracts, {contracts['base_volume'].sum():.4f} BTC")
        print("\nsegments:")
        for path in sorted(cache.folder.root.rglob("*.ckvd")):
            print(f"  {path.relative_to(ROOT.parent)}  {path.stat().st_size} bytes")


def main() -> None:
    """Run the demo."""
    with serve(MIRROR) as url:
        print(f"serving {MIRROR.relative_to(ROOT.parent)} at {url}")
        asyncio.run(download(url))
    read()


if __name__ == "__main__":
    main()
