"""The clients in the wrong kind of `with`, before they are entered, and after they are left."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

import ckvd
from ckvd.errors import ClientClosedError
from ckvd.network.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ASYNCHRONOUS: dict[str, Callable[[Path], Any]] = {
    "CryptoKlineVisionData": lambda folder: ckvd.CryptoKlineVisionData(cache=folder, vision_url=folder),
    "VisionDataClient": lambda folder: ckvd.VisionDataClient(folder, cache=folder),
    "RestDataClient": lambda _: ckvd.RestDataClient(),
    "Transport": lambda _: Transport(),
}


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_a_plain_with_says_to_use_async_with(tmp_path: Path, name: str) -> None:
    client = ASYNCHRONOUS[name](tmp_path)
    expected = rf"{name} is asynchronous: use `async with` .* call ckvd\.get_klines or ckvd\.ensure"
    with pytest.raises(TypeError, match=expected), client:
        raise AssertionError("it was entered")
    with ExitStack() as stack, pytest.raises(TypeError, match=expected):
        stack.enter_context(client)


def test_a_client_in_a_plain_with_can_still_be_used_and_closed(tmp_path: Path) -> None:
    data = ckvd.CryptoKlineVisionData(cache=tmp_path, offline=True)

    async def use() -> None:
        async with data:
            report = await data.ensure("BTCUSDT", "1h", start="2023-01-01", end="2023-01-02")
            assert not report.is_complete

    with pytest.raises(TypeError, match="use `async with`"), data:  # type: ignore[attr-defined]
        pass
    asyncio.run(use())


def test_a_client_that_was_left_says_that_it_is_closed(tmp_path: Path) -> None:
    async def main() -> None:
        async with ckvd.CryptoKlineVisionData(cache=tmp_path, vision_url=tmp_path) as data:
            pass
        with pytest.raises(ClientClosedError, match="the client is closed"):
            await data.get_klines("BTCUSDT", "1h", start="2023-01-01")
        async with ckvd.VisionDataClient(tmp_path, cache=tmp_path) as vision:
            pass
        with pytest.raises(ClientClosedError, match="the Vision client is closed"):
            await vision.download("BTCUSDT", "1h", start="2023-01-01", end="now")

    asyncio.run(main())


@pytest.mark.parametrize("open_it", [ckvd.KlineCache, ckvd.open_cache])
def test_a_cache_takes_both_kinds_of_with(tmp_path: Path, open_it: Callable[[Path], ckvd.KlineCache]) -> None:
    async def main() -> None:
        async with open_it(tmp_path) as cache:
            assert list(cache.series()) == []

    asyncio.run(main())
    with open_it(tmp_path) as cache:
        assert list(cache.series()) == []
