"""Whatever is done to a cache in whatever order, it has the bars of a model made of dictionaries."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ckvd.api.vision_data_client import VisionDataClient
from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.cache.packing import pack_series
from ckvd.maintenance.audit import audit_cache
from ckvd.maintenance.pruning import prune_span
from ckvd.maintenance.repair import repair
from ckvd.maintenance.verification import is_clean, verify_cache
from ckvd.model.market import SeriesKey
from ckvd.model.schema import COLUMN_DTYPES
from ckvd.model.table import KlineTable, fields_of
from ckvd.model.timespan import Span
from ckvd.vision.folder_source import FolderArchiveSource

HOURS = SeriesKey.of("BTCUSDT", "1h")
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
FIRST_MS = 1_672_531_200_000  # 2023-01-01
DAYS = 28
DATES = [f"2023-01-{number + 1:02d}" for number in range(DAYS)]

Row = list[str]


def row_of(number: int, hour: int, version: int) -> Row | None:
    """The genuine row of an hour; every fifth day lacks one."""
    if number % 5 == 0 and hour == 7:
        return None
    open_ms = FIRST_MS + number * DAY_MS + hour * HOUR_MS
    price = f"{1000 * version + number}.{hour:02d}000000"
    cells = [price, price, price, price, f"{hour + 1}.00000000"]
    return [
        str(open_ms),
        *cells,
        str(open_ms + HOUR_MS - 1),
        "5.00000000",
        str(hour),
        "1.00000000",
        "2.00000000",
        "0",
    ]


class CacheMachine(RuleBasedStateMachine):
    """The model: `versions` is what the source has for each day, `covered` the days that the cache covers."""

    @initialize()
    def start(self) -> None:
        self.place = Path(tempfile.mkdtemp())
        self.mirror = self.place / "mirror"
        self.folder = CacheFolder(self.place / "cache")
        self.versions: dict[int, int] = {}
        self.covered: set[int] = set()
        self.clock_s = 1_700_000_000
        for number in range(DAYS):
            self.publish(number, 1)
        self.cache = KlineCache(self.folder.root)

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.cache.close()
            shutil.rmtree(self.place)

    def publish(self, number: int, version: int) -> None:
        """Put a daily archive into the mirror, as the publisher does."""
        self.versions[number] = version
        rows = [row for hour in range(24) if (row := row_of(number, hour, version)) is not None]
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"BTCUSDT-1h-{DATES[number]}.csv", "".join(",".join(row) + "\n" for row in rows))
        path = self.mirror / f"data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-{DATES[number]}.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed.getvalue())
        digest = hashlib.sha256(packed.getvalue()).hexdigest()
        path.with_name(path.name + ".CHECKSUM").write_text(f"{digest}  {path.name}")
        self.clock_s += 10
        os.utime(path, (self.clock_s, self.clock_s))

    @rule(first=st.integers(0, DAYS - 1), count=st.integers(1, 14))
    def download(self, first: int, count: int) -> None:
        stop = min(first + count, DAYS)

        async def work() -> None:
            async with VisionDataClient(self.mirror, cache=self.folder.root) as vision:
                await vision.download_series([HOURS], span_of(first, stop))

        asyncio.run(work())
        self.covered.update(range(first, stop))

    @rule(first=st.integers(0, DAYS - 1), count=st.integers(1, 5))
    def overlap(self, first: int, count: int) -> None:
        """Put the bars of the source again, in one segment, over whatever is there."""
        stop = min(first + count, DAYS)
        rows = [
            row
            for number in range(first, stop)
            for hour in range(24)
            if (row := row_of(number, hour, self.versions[number])) is not None
        ]
        columns = {
            name: np.array([float(cell) for cell in cells]).astype(COLUMN_DTYPES[name])
            for name, cells in zip(fields_of(HOURS), zip(*rows, strict=True), strict=True)
        }
        SeriesStore(self.folder, HOURS).put(KlineTable(HOURS, columns, {}), span_of(first, stop))
        self.covered.update(range(first, stop))

    @rule(number=st.integers(0, DAYS - 1))
    def replace(self, number: int) -> None:
        """The publisher corrects a day; an audit finds it, if the cache knows the day by its archive."""
        version = self.versions[number]
        known = {
            source.name for source in self.cache.read_series(HOURS, span_of(0, DAYS), missing="ignore").sources
        }
        is_known = any(DATES[number] in name for name in known)
        self.publish(number, version + 1)

        async def work() -> set[str]:
            source = FolderArchiveSource(self.mirror)
            return {one.archive async for one in audit_cache(self.folder, source, fix=True) if one.is_stored}

        stored = asyncio.run(work())
        assert len(stored) <= 1
        if number in self.covered and not stored:
            # The segment of an overlap wins in the day: it has no archive to compare with.
            assert not is_known or not self.comes_from_archive(number)
            self.publish(number, version)

    def comes_from_archive(self, number: int) -> bool:
        klines = self.cache.read_series(HOURS, span_of(number, number + 1))
        return any(DATES[number] in source.name for source in klines.sources)

    @rule(is_thorough=st.booleans())
    def pack(self, is_thorough: bool) -> None:
        assert not pack_series(self.folder, HOURS, is_thorough=is_thorough).refusals

    @rule(first=st.integers(0, DAYS - 1), count=st.integers(1, 6))
    def prune(self, first: int, count: int) -> None:
        stop = min(first + count, DAYS)
        prune_span(self.folder, HOURS, span_of(first, stop))
        self.covered -= set(range(first, stop))

    @precondition(lambda self: bool(self.covered))
    @rule(
        which=st.integers(0, 63),
        kind=st.sampled_from(["flip", "truncate", "empty"]),
        position=st.integers(0, 1 << 16),
        bit=st.integers(0, 7),
    )
    def damage_and_repair(self, which: int, kind: str, position: int, bit: int) -> None:
        # Which segments there are depends on which archives came first: both choices wrap around.
        names = sorted(self.folder.segments(HOURS))
        path = self.folder.series_path(HOURS) / names[which % len(names)].file_name
        content = bytearray(path.read_bytes())
        if kind == "flip":
            content[position % len(content)] ^= 1 << bit
        # As a disk would do it: in place, but not under the maps that are open here.
        path.unlink()
        path.write_bytes(bytes({"flip": content, "truncate": content[:-1], "empty": b""}[kind]))
        findings = list(verify_cache(self.folder))
        assert not is_clean(findings)
        report = asyncio.run(repair(self.folder, findings, FolderArchiveSource(self.mirror)))
        assert report.is_complete

    @rule()
    def reopen(self) -> None:
        self.cache.close()
        self.cache = KlineCache(self.folder.root)

    @invariant()
    def reads_as_the_model(self) -> None:
        if not hasattr(self, "cache"):
            return
        klines = self.cache.read_series(HOURS, span_of(0, DAYS), missing="ignore")
        expected = [
            (int(row[0]), float(row[1]), float(row[5]), int(row[8]))
            for number in sorted(self.covered)
            for hour in range(24)
            if (row := row_of(number, hour, self.versions[number])) is not None
        ]
        found = zip(
            klines.open_time.tolist(),
            klines.open.tolist(),
            klines.volume.tolist(),
            klines.count.tolist(),
            strict=True,
        )
        assert list(found) == expected
        missing = {
            (moment_ms - FIRST_MS) // DAY_MS
            for span in klines.missing
            for moment_ms in range(*bounds(span), DAY_MS)
        }
        assert missing == set(range(DAYS)) - self.covered

    @invariant()
    def is_in_order(self) -> None:
        if hasattr(self, "cache"):
            assert is_clean(list(verify_cache(self.folder, is_quick=True)))


def span_of(first: int, stop: int) -> Span:
    return Span(FIRST_MS + first * DAY_MS, FIRST_MS + stop * DAY_MS)


def bounds(span: Span) -> tuple[int, int]:
    return span.start_ms, span.end_ms


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
