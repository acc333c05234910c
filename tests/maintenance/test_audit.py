"""Archives that were corrected at the source are found, with the bars that changed, and fetched again."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import io
import os
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckvd.cache import CacheFolder, KlineCache, SeriesStore, fault_points
from ckvd.cache.coverage import read_coverage
from ckvd.cache.fault_points import Step
from ckvd.maintenance.audit import ArchiveAudit, Change, audit_cache, suspect
from ckvd.model.calendar import Period
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Absence, Origin, Reason, Source
from ckvd.model.timespan import Span
from ckvd.vision.folder_source import FolderArchiveSource
from ckvd.vision.name import ArchiveName
from ckvd.vision.source import ListedArchive
from support.caches import download
from support.places import SAMPLES
from support.tables import make_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckvd.vision.source import AbsentArchive, FetchedArchive

HOURS = SeriesKey.of("BTCUSDT", "1h")
MARCH = Span.of("2023-03-01", "2023-04-01")
MONTH = "data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2023-03.zip"
DAY = "data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2023-03-24.zip"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLES, tmp_path / "mirror"))


@pytest.fixture
def folder(tmp_path: Path, mirror: Path) -> CacheFolder:
    return download(tmp_path / "cache", HOURS, MARCH, mirror)


def audit(folder: CacheFolder, mirror: Path, *, is_thorough: bool = False, fix: bool = False) -> list[ArchiveAudit]:
    async def run() -> list[ArchiveAudit]:
        source = FolderArchiveSource(mirror)
        return [found async for found in audit_cache(folder, source, is_thorough=is_thorough, fix=fix)]

    return asyncio.run(run())


def rewrite(path: Path, change: list[tuple[bytes, bytes]] | None = None, drop_line: int | None = None) -> None:
    """Correct an archive as the publisher does: in place, with a new CHECKSUM."""
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.namelist()
        lines = archive.read(member).splitlines(keepends=True)
    if drop_line is not None:
        del lines[drop_line]
    content = b"".join(lines)
    for old, new in change or []:
        assert old in content
        content = content.replace(old, new, 1)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    path.write_bytes(packed.getvalue())
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    path.with_name(path.name + ".CHECKSUM").write_text(f"{digest}  {path.name}")
    os.utime(path, (1_900_000_000, 1_900_000_000))


def first_cells(path: Path) -> list[bytes]:
    with zipfile.ZipFile(path) as archive:
        return archive.read(archive.namelist()[0]).split(b"\n")[0].split(b",")


def test_an_unchanged_archive_is_not_fetched(folder: CacheFolder, mirror: Path) -> None:
    (found,) = audit(folder, mirror)
    assert (found.archive, found.change, found.message) == (MONTH, Change.UNCHANGED, "")


def test_an_archive_with_only_a_new_time_is_fetched_and_found_unchanged(folder: CacheFolder, mirror: Path) -> None:
    os.utime(mirror / MONTH, (1_900_000_000, 1_900_000_000))
    (found,) = audit(folder, mirror)
    assert (found.change, found.message) == (Change.UNCHANGED, "fetched: its bytes are the same")


def test_changed_bars_are_only_reported_without_fix(folder: CacheFolder, mirror: Path) -> None:
    cells = first_cells(mirror / MONTH)
    rewrite(mirror / MONTH, [(b",".join(cells[:2]), cells[0] + b",12345.00000000")], drop_line=5)
    before = folder.segments(HOURS)
    (found,) = audit(folder, mirror)
    assert found.change is Change.CHANGED
    assert not found.is_stored
    assert found.difference.changed == (MARCH.start_ms,)
    assert found.difference.columns == ("open",)
    assert found.difference.removed == (MARCH.start_ms + 5 * 3_600_000,)
    assert found.difference.added_count == 0
    assert folder.segments(HOURS) == before
    found.to_json()


def test_changed_archives_are_stored_with_fix(folder: CacheFolder, mirror: Path) -> None:
    cells = first_cells(mirror / MONTH)
    rewrite(mirror / MONTH, [(b",".join(cells[:2]), cells[0] + b",12345.00000000")])
    (found,) = audit(folder, mirror, fix=True)
    assert found.is_stored
    with KlineCache(folder.root) as cache:
        assert cache.read_series(HOURS, MARCH).open[0] == 12345.0
    (again,) = audit(folder, mirror, is_thorough=True)
    assert again.change is Change.UNCHANGED


def heal(folder: CacheFolder, hole_ms: int) -> None:
    """Fill the hole of a day from another source, as a download does."""
    day = Span.of("2023-03-24", "2023-03-25")
    with KlineCache(folder.root) as cache:
        opens = [int(moment) for moment in cache.read_series(HOURS, day).open_time]
    sources = [
        Source(Origin.VISION_MONTHLY, MONTH, day.start_ms, day.end_ms, sha256="0" * 64),
        Source(Origin.REST, "/api/v3/klines", day.start_ms, day.end_ms),
    ]
    SeriesStore(folder, HOURS).put(make_table(HOURS, sorted({*opens, hole_ms}), open=7.0), day, sources=sources)


@pytest.fixture
def hole_ms(folder: CacheFolder) -> int:
    """Where the month lacks an hour."""
    with KlineCache(folder.root) as cache:
        return cache.read_series(HOURS, MARCH).gaps[0].start_ms


def opens_at(folder: CacheFolder, open_ms: int) -> list[float]:
    with KlineCache(folder.root) as cache:
        klines = cache.read_series(HOURS, MARCH)
        return [float(price) for price in klines.open[klines.open_time == open_ms]]


def test_bars_of_another_source_are_kept(folder: CacheFolder, mirror: Path, hole_ms: int) -> None:
    heal(folder, hole_ms)
    cells = first_cells(mirror / MONTH)
    for price in (b"12345.00000000", b"12346.00000000"):
        rewrite(mirror / MONTH, [(b",".join(cells[:2]), cells[0] + b"," + price)])
        cells[1] = price
        found = audit(folder, mirror, is_thorough=True, fix=True)
        assert not any(one.difference.removed_count for one in found)
        assert opens_at(folder, hole_ms) == [7.0]
        assert opens_at(folder, MARCH.start_ms) == [float(price)]


class SlowSource(FolderArchiveSource):
    """A folder of archives, where something happens while one is fetched."""

    def __init__(self, root: Path, meanwhile: Callable[[], None]) -> None:
        super().__init__(root)
        self._meanwhile = meanwhile

    async def fetch(
        self, name: ArchiveName, folder: Path, *, on_bytes: Callable[[int], None] | None = None
    ) -> FetchedArchive | AbsentArchive:
        fetched = await super().fetch(name, folder, on_bytes=on_bytes)
        self._meanwhile()
        return fetched


def correct_while(folder: CacheFolder, mirror: Path, meanwhile: Callable[[], None]) -> list[ArchiveAudit]:
    async def run() -> list[ArchiveAudit]:
        source = SlowSource(mirror, meanwhile)
        return [found async for found in audit_cache(folder, source, fix=True)]

    return asyncio.run(run())


def test_bars_that_others_publish_while_an_archive_is_fetched_are_kept(
    folder: CacheFolder, mirror: Path, hole_ms: int
) -> None:
    rewrite(mirror / MONTH)
    (found,) = correct_while(folder, mirror, lambda: heal(folder, hole_ms))
    assert found.is_stored
    assert found.difference.removed_count == 0
    assert opens_at(folder, hole_ms) == [7.0]


def test_bars_that_others_publish_while_a_correction_is_written_are_kept(
    folder: CacheFolder, mirror: Path, hole_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = first_cells(mirror / MONTH)
    rewrite(mirror / MONTH, [(b",".join(cells[:2]), cells[0] + b",12345.00000000")])
    written: list[Step] = []

    def heal_once(step: Step) -> None:
        if step is Step.ROWS_WRITTEN:
            written.append(step)
            if len(written) == 1:
                heal(folder, hole_ms)

    monkeypatch.setattr(fault_points, "reach", heal_once)
    (found,) = audit(folder, mirror, fix=True)
    assert len(written) > 2
    assert (found.difference.changed_count, found.difference.removed_count) == (1 + 23, 0)
    assert opens_at(folder, hole_ms) == [7.0]
    assert opens_at(folder, MARCH.start_ms) == [12345.0]


def test_a_series_that_others_keep_changing_is_busy(
    folder: CacheFolder, mirror: Path, hole_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(mirror / MONTH)
    healing: list[None] = []

    def heal_each_time(step: Step) -> None:
        if step is Step.ROWS_WRITTEN and not healing:
            healing.append(None)
            heal(folder, hole_ms)
            healing.pop()

    monkeypatch.setattr(fault_points, "reach", heal_each_time)
    (found,) = audit(folder, mirror, fix=True)
    assert found.change is Change.FAILED
    assert "try again" in found.message
    assert opens_at(folder, hole_ms) == [7.0]


def test_archives_that_are_gone_or_damaged_are_reported(folder: CacheFolder, mirror: Path) -> None:
    (mirror / (MONTH + ".CHECKSUM")).write_text("0" * 64)
    os.utime(mirror / MONTH, (1_900_000_000, 1_900_000_000))
    (found,) = audit(folder, mirror)
    assert found.change is Change.FAILED
    assert "CHECKSUM" in found.message
    (mirror / MONTH).unlink()
    (found,) = audit(folder, mirror)
    assert found.change is Change.GONE
    shutil.rmtree(mirror)
    (found,) = audit(folder, mirror)
    assert found.change is Change.FAILED


def store_day(folder: CacheFolder, day: Span, *sources: Source, open_price: float) -> None:
    """Store a day of the cache anew, with other cells and other sources beside the month."""
    with KlineCache(folder.root) as cache:
        opens = [int(moment) for moment in cache.read_series(HOURS, day).open_time]
    month = Source(Origin.VISION_MONTHLY, MONTH, day.start_ms, day.end_ms, sha256="0" * 64)
    SeriesStore(folder, HOURS).put(make_table(HOURS, opens, open=open_price), day, sources=[month, *sources])


FIRST_DAY = Span.of("2023-03-01", "2023-03-02")


@pytest.mark.parametrize(
    "other",
    [
        Source(Origin.REST, "/api/v3/klines", FIRST_DAY.start_ms, FIRST_DAY.end_ms, is_preferred=True),
        Source(Origin.VISION_DAILY, "not listed any more", FIRST_DAY.start_ms, FIRST_DAY.end_ms, sha256="1" * 64),
    ],
)
def test_a_corrected_month_does_not_replace_bars_of_a_source_that_goes_before_it(
    folder: CacheFolder, mirror: Path, other: Source
) -> None:
    store_day(folder, FIRST_DAY, other, open_price=7.0)
    cells = first_cells(mirror / MONTH)
    rewrite(mirror / MONTH, [(b",".join(cells[:2]), cells[0] + b",12345.00000000")])
    reported = next(one for one in audit(folder, mirror) if one.archive == MONTH)
    found = next(one for one in audit(folder, mirror, fix=True) if one.archive == MONTH)
    assert found.difference == reported.difference
    assert (found.difference.changed_count, found.difference.removed_count) == (0, 0)
    assert opens_at(folder, MARCH.start_ms) == [7.0]
    with KlineCache(folder.root) as cache:
        assert other in cache.read_series(HOURS, FIRST_DAY).sources


def test_a_preferred_archive_that_was_corrected_is_stored_and_stays_preferred(
    folder: CacheFolder, mirror: Path
) -> None:
    (month,) = (source for source in sources_of(folder) if source.name == MONTH)
    preferred = dataclasses.replace(month, start_ms=FIRST_DAY.start_ms, end_ms=FIRST_DAY.end_ms, is_preferred=True)
    day = Source(Origin.VISION_DAILY, DAY, FIRST_DAY.start_ms, FIRST_DAY.end_ms, sha256="1" * 64)
    with KlineCache(folder.root) as cache:
        opens = [int(moment) for moment in cache.read_series(HOURS, FIRST_DAY).open_time]
    SeriesStore(folder, HOURS).put(make_table(HOURS, opens, open=7.0), FIRST_DAY, sources=[preferred, day])
    cells = first_cells(mirror / MONTH)
    rewrite(mirror / MONTH, [(b",".join(cells[:2]), cells[0] + b",12345.00000000")])
    audit(folder, mirror, fix=True)
    assert opens_at(folder, MARCH.start_ms) == [12345.0]
    months = [source for source in sources_of(folder) if source.name == MONTH]
    assert [(source.span, source.is_preferred) for source in months] == [
        (FIRST_DAY, True),
        (Span(FIRST_DAY.end_ms, MARCH.end_ms), False),
    ]


def sources_of(folder: CacheFolder) -> tuple[Source, ...]:
    with KlineCache(folder.root) as cache:
        return cache.read_series(HOURS, MARCH).sources


def test_a_correction_leaves_nothing_to_ask_for_again_with_its_bars(folder: CacheFolder, mirror: Path) -> None:
    with KlineCache(folder.root) as cache:
        opens = cache.read_series(HOURS, MARCH).open_time
    month = Source(Origin.VISION_MONTHLY, MONTH, MARCH.start_ms, MARCH.end_ms, sha256="0" * 64)
    hole = Absence(MARCH.start_ms, MARCH.end_ms, Reason.NOT_IN_ARCHIVE, recheck_ms=MARCH.end_ms)
    SeriesStore(folder, HOURS).put(make_table(HOURS, opens), MARCH, sources=[month], absences=[hole])
    rewrite(mirror / MONTH)
    (found,) = audit(folder, mirror, fix=True)
    assert found.is_stored
    # Otherwise the whole month would be asked for again, and stored over what was healed since.
    assert {held.recheck_ms for held in read_coverage(folder, HOURS, MARCH)} == {0}


def test_archives_outside_of_a_span_are_not_looked_up(folder: CacheFolder, mirror: Path) -> None:
    async def run(span: Span) -> list[ArchiveAudit]:
        return [found async for found in audit_cache(folder, FolderArchiveSource(mirror), span=span)]

    assert len(asyncio.run(run(Span.of("2023-03-31T23:59:59", "2023-05-01")))) == 1
    assert asyncio.run(run(Span.of("2023-04-01", "2023-05-01"))) == []


@pytest.mark.parametrize(
    ("known", "listed", "is_suspect"),
    [
        (('"abc"', ""), ('"abc"', ""), False),
        (('W/"abc"', ""), ("abc", ""), False),
        (('"abc"', ""), ('"abd"', ""), True),
        (("", "Mon, 03 Apr 2023 10:11:12 GMT"), ("x", "2023-04-03T10:11:12.000Z"), False),
        (("", "Mon, 03 Apr 2023 10:11:12 GMT"), ("", "2023-04-03T10:11:13.000Z"), True),
        (("", ""), ("", "2023-04-03T10:11:13.000Z"), True),
        (("", "yesterday"), ("", "2023-04-03T10:11:13.000Z"), True),
        (("", "Mon, 03 Apr 2023 10:11:12 +99999999999999999999"), ("", "0001-01-01T00:00:00+05:00"), True),
    ],
)
def test_the_listing_shows_what_may_have_changed(
    known: tuple[str, str], listed: tuple[str, str], is_suspect: bool
) -> None:
    source = Source(Origin.VISION_MONTHLY, MONTH, 0, 1, etag=known[0], last_modified=known[1])
    name = ArchiveName(HOURS, Period.of_label("2023-03"))
    assert bool(suspect(source, ListedArchive(name, 1, listed[0], listed[1]))) == is_suspect
