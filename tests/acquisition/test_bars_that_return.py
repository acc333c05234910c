"""What was pruned, set aside or never stored comes back from archives, and nothing that is held is lost for it."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ckvd
from ckvd.acquisition.completion import Completion
from ckvd.acquisition.completion.scope import Scope, outer_seconds
from ckvd.acquisition.download import Download, pack_stored
from ckvd.acquisition.limits import IngestLimits
from ckvd.acquisition.planning import Wanted
from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cache.rows import read_contents
from ckvd.maintenance.gap_report import report_gaps
from ckvd.maintenance.pruning import prune_span
from ckvd.maintenance.quarantine import quarantine_file
from ckvd.maintenance.repair import find_lost, repair
from ckvd.maintenance.verification import Trouble, verify_cache
from ckvd.model.calendar import Period, days_of, months_of
from ckvd.model.grid import Grid, closed_part
from ckvd.model.market import DAY_MS, HOUR_MS, SeriesKey
from ckvd.model.provenance import Absence, Origin, Reason
from ckvd.model.table import empty_table
from ckvd.model.timespan import Span, difference, parse_time
from ckvd.vision.folder_source import FolderArchiveSource
from ckvd.vision.name import ArchiveName
from ckvd.vision.source import AbsentArchive
from support.loopback.mirror import publish
from support.loopback.rows import make_row
from support.strategies import spans
from support.venue import HOURS, Venue, assert_equal, ensure, fetch, hours, rows_between, zip_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckvd.vision.source import FetchedArchive
    from support.loopback.rows import Row

TODAY = "2023-06-20T10:30"
CUT = Span.of("2023-01-10T07:00", "2023-01-20T03:00")
WHOLE_DAYS = Span.of("2023-01-10", "2023-01-20")
BETWEEN_BARS = Span.of("2023-01-10T07:00:01", "2023-01-10T07:59:59")
ONE_HOUR = Span.of("2023-01-12T06:00", "2023-01-12T07:00")
ONE_DAY = Span.of("2023-01-12", "2023-01-13")
JANUARY = Span.of("2023-01-01", "2023-02-01")


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    with Venue(tmp_path, TODAY) as venue:
        yield venue


@pytest.fixture
def rows() -> list[Row]:
    return hours("2023-01-01", "2023-02-01")


def publish_days(venue: Venue, rows: Sequence[Row], without: str = "", damaged: str = "") -> None:
    for day in days_of(JANUARY):
        if day.label != without:
            found = rows_between(rows, day.label, f"{day.label}T23:59:59")
            venue.publish(HOURS, day.label, found, digest="0" * 64 if day.label == damaged else None)


def archives_asked(venue: Venue, use: Callable[[], object]) -> list[str]:
    """The labels of the archives that are asked for while something is done."""
    before = len(venue.mirror.server.requests)
    use()
    paths = [request.path for request in venue.mirror.server.requests[before:]]
    return [path.rpartition("-1h-")[2].removesuffix(".zip") for path in paths if path.endswith(".zip")]


def january(venue: Venue, *, offline: bool = False) -> ckvd.Klines:
    return fetch(venue, "2023-01-01", "2023-02-01", use_rest=False, offline=offline)


# --- By example --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("have_days", [False, True])
@pytest.mark.parametrize("cut", [CUT, WHOLE_DAYS, BETWEEN_BARS])
def test_pruned_bars_come_back_from_the_days_or_else_from_the_month(
    venue: Venue, rows: list[Row], cut: Span, have_days: bool
) -> None:
    venue.publish(HOURS, "2023-01", rows)
    assert_equal(january(venue), rows)
    if have_days:
        publish_days(venue, rows)
    prune_span(CacheFolder(venue.cache_path), HOURS, cut)
    asked = archives_asked(venue, lambda: assert_equal(january(venue), rows))
    days = [day.label for day in days_of(cut)]
    if have_days:
        assert asked == days
    else:
        assert [label for label in asked if len(label) == len("2023-01")] == ["2023-01"]
    assert archives_asked(venue, lambda: january(venue)) == []


def test_days_and_the_month_bring_together_what_was_pruned(venue: Venue, rows: list[Row]) -> None:
    venue.publish(HOURS, "2023-01", rows)
    january(venue)
    publish_days(venue, rows, without="2023-01-15")
    prune_span(CacheFolder(venue.cache_path), HOURS, CUT)
    asked = archives_asked(venue, lambda: assert_equal(january(venue), rows))
    # The listing shows that a day has no archive, and the month has all of them.
    assert asked == ["2023-01"]


def test_a_damaged_day_comes_from_the_month(venue: Venue, rows: list[Row]) -> None:
    venue.publish(HOURS, "2023-01", rows)
    january(venue)
    publish_days(venue, rows, damaged="2023-01-15")
    prune_span(CacheFolder(venue.cache_path), HOURS, CUT)
    assert_equal(january(venue), rows)
    assert archives_asked(venue, lambda: january(venue)) == []


def test_the_rest_of_a_day_of_the_rest_interface_comes_from_its_archive(venue: Venue, rows: list[Row]) -> None:
    venue.exchange.publish(HOURS, rows)
    fetch(venue, "2023-01-01", "2023-01-10T12:30")
    publish_days(venue, rows)
    klines = fetch(venue, "2023-01-10", "2023-01-11", use_rest=False)
    assert_equal(klines, rows_between(rows, "2023-01-10", "2023-01-11"))
    # What was to be replaced by the archive is replaced with it.
    assert {source.origin for source in klines.sources} == {Origin.VISION_DAILY}


def test_healed_bars_stay_when_a_worse_archive_is_fetched_for_others(venue: Venue, rows: list[Row]) -> None:
    hole = rows_between(rows, "2023-01-05T04:00", "2023-01-05T09:00")
    venue.publish(HOURS, "2023-01", [row for row in rows if row not in hole])
    venue.exchange.publish(HOURS, rows)
    assert_equal(fetch(venue, "2023-01-01", "2023-02-01"), rows)
    prune_span(CacheFolder(venue.cache_path), HOURS, CUT)
    assert_equal(january(venue), rows)


@pytest.mark.parametrize("have_days", [False, True])
@pytest.mark.parametrize("cut", [CUT, ONE_HOUR, ONE_DAY])
@pytest.mark.parametrize("hole", [("2023-01-12T05:00", "2023-01-12T09:00"), ("2023-01-12", "2023-01-13")])
def test_a_bar_that_the_archive_lacks_does_not_fetch_it_at_each_download(
    venue: Venue, rows: list[Row], hole: tuple[str, str], cut: Span, have_days: bool
) -> None:
    known = [row for row in rows if row not in rows_between(rows, *hole)]
    venue.publish(HOURS, "2023-01", known)
    if have_days:
        publish_days(venue, known)

    def look() -> ckvd.Klines:
        ensure(venue, ["BTCUSDT"], "2023-01-01", "2023-02-01", use_rest=False)
        with ckvd.open_cache(venue.cache_path) as cache:
            return cache.read("BTCUSDT", "1h", start="2023-01-01", end="2023-02-01", missing="ignore")

    before = look()
    prune_span(CacheFolder(venue.cache_path), HOURS, cut)
    after = look()
    assert_equal(after, known)
    assert after.gaps == before.gaps
    assert [gap.reason for gap in after.gaps] == [Reason.NOT_IN_ARCHIVE]
    assert archives_asked(venue, look) == []


def forget_as_before(folder: CacheFolder, cut: Span) -> None:
    """Prune a span, and say of it what the first versions said then."""
    prune_span(folder, HOURS, cut)
    recheck_ms = parse_time("2023-09-01")
    absence = Absence(cut.start_ms, cut.end_ms, Reason.NOT_IN_ARCHIVE, recheck_ms)
    SeriesStore(folder, HOURS).put(empty_table(HOURS), cut, absences=[absence], recheck_ms=recheck_ms)


def test_what_an_older_cache_falsely_calls_not_in_archive_is_found_and_fetched(
    venue: Venue, rows: list[Row]
) -> None:
    venue.publish(HOURS, "2023-01", rows)
    january(venue)
    folder = CacheFolder(venue.cache_path)
    forget_as_before(folder, CUT)
    (finding,) = verify_cache(folder)
    assert (finding.trouble, finding.span) == (Trouble.UNFOUNDED, CUT)
    assert "ckvd download" in finding.message
    assert_equal(january(venue), rows)
    assert list(verify_cache(folder)) == []


def test_what_an_older_cache_rightly_calls_missing_is_asked_for_once_more_and_said_rightly(venue: Venue) -> None:
    for label, end in (("2022-12", "2023-01-01"), ("2023-02", "2023-03-01")):
        venue.publish(HOURS, label, hours(label, end))
    folder = CacheFolder(venue.cache_path)
    forget_as_before(folder, JANUARY)

    def look() -> None:
        ensure(venue, ["BTCUSDT"], "2022-12-01", "2023-03-01", use_rest=False)

    assert "2023-02" in archives_asked(venue, look)
    assert report_gaps(folder, HOURS).bar_counts == {Reason.NO_ARCHIVE: 31 * 24}
    assert list(verify_cache(folder)) == []
    assert archives_asked(venue, look) == []


def test_a_file_that_was_set_aside_comes_back_from_a_month_that_has_no_days(venue: Venue, rows: list[Row]) -> None:
    venue.publish(HOURS, "2023-01", rows)
    january(venue)
    folder = CacheFolder(venue.cache_path)
    # The month in three segments, one below another.
    for cut in (CUT, ONE_DAY):
        prune_span(folder, HOURS, cut)
        january(venue)
    for name in sorted(folder.segments(HOURS), key=lambda name: -name.revision)[:2]:
        quarantine_file(folder, HOURS, name.file_name, "to see", at_ms=parse_time(TODAY))
    found = find_lost(folder, at_ms=parse_time(TODAY))
    assert found
    report = asyncio.run(repair(folder, found, FolderArchiveSource(venue.root), at_ms=parse_time(TODAY)))
    assert report.is_complete
    assert_equal(january(venue, offline=True), rows)


# --- Against a model ---------------------------------------------------------------------------------------

LONG = SeriesKey.of("BTCUSDT", "8h")
GRID = Grid.of(LONG.interval)
FIRST_MS, LAST_MS = parse_time("2023-01-30"), parse_time("2023-02-04")
NOW_MS = parse_time(TODAY)
PERIODS = [*months_of(Span(FIRST_MS, LAST_MS)), *days_of(Span(FIRST_MS, LAST_MS))]


class Recording(FolderArchiveSource):
    """A folder of archives that notes which were fetched."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fetched: list[Period] = []

    async def fetch(
        self, name: ArchiveName, folder: Path, *, on_bytes: Callable[[int], None] | None = None
    ) -> FetchedArchive | AbsentArchive:
        found = await super().fetch(name, folder, on_bytes=on_bytes)
        if not isinstance(found, AbsentArchive):
            self.fetched.append(name.period)
        return found


def opens_of(span: Span) -> set[int]:
    return set(GRID.opens(span).tolist())


@dataclass
class World:
    """A mirror of some archives with holes, a cache, and what the cache has to hold."""

    root: Path
    published: dict[Period, set[int]]
    held: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        (self.root / "data").mkdir()
        for period, opens in self.published.items():
            name = ArchiveName(LONG, period)
            # Outside of the days of the model, a month has all of its bars.
            whole = opens | {open_ms for open_ms in opens_of(period.span) if not FIRST_MS <= open_ms < LAST_MS}
            found = [make_row(open_ms, open_ms + 8 * HOUR_MS - 1) for open_ms in sorted(whole)]
            publish(self.root, name.path, zip_of(found, name.file_name))

    @property
    def folder(self) -> CacheFolder:
        return CacheFolder(self.root / "cache")

    @property
    def available(self) -> set[int]:
        return set().union(*self.published.values())

    def download(self, span: Span, *, refresh: bool) -> list[Period]:
        """Download as a client does that may not ask the REST interface."""
        source = Recording(self.root)

        async def run() -> None:
            limits = IngestLimits()
            download = Download(source, self.folder, limits=limits, now_ms=NOW_MS, refresh=refresh)
            report = await download.run([Wanted(LONG, span)])
            wanted = closed_part(outer_seconds(span), GRID, NOW_MS)
            scope = Scope(LONG, wanted, self.folder, None, NOW_MS, refresh=refresh)
            completion = await Completion(scope, source).run([])
            assert completion.errors == ()
            assert completion.conflict_open_times == ()
            await pack_stored(self.folder, report, limits)

        asyncio.run(run())
        return source.fetched

    def read(self) -> set[int]:
        """The bars that are held, which have to be those that were published."""
        table = read_contents(self.folder, LONG, Span(FIRST_MS, LAST_MS)).table
        opens = table.open_time.tolist()
        volumes = [float(make_row(open_ms, 0)[5]) for open_ms in opens]
        assert table.columns["volume"].tolist() == volumes
        return set(opens)


@st.composite
def publications(draw: st.DrawFn) -> dict[Period, set[int]]:
    """Which archives there are, and the bars in each."""
    published = {}
    for period in PERIODS:
        if draw(st.integers(0, 3)):
            opens = sorted(opens_of(period.span) & opens_of(Span(FIRST_MS, LAST_MS)))
            published[period] = set(opens) - draw(st.sets(st.sampled_from(opens), max_size=2))
    return published


SPANS = spans(FIRST_MS, LAST_MS, DAY_MS) | spans(FIRST_MS, LAST_MS, HOUR_MS) | spans(FIRST_MS, LAST_MS)
STEPS = st.lists(st.tuples(st.sampled_from(["download", "refresh", "prune"]), SPANS), max_size=6)


@settings(max_examples=30, deadline=None)
@given(publications(), STEPS)
def test_in_the_end_every_bar_that_a_source_has_is_held_and_nothing_was_asked_for_in_vain(
    published: dict[Period, set[int]], steps: list[tuple[str, Span]]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        world = World(Path(place), published)
        for step, span in [*steps, ("download", Span(FIRST_MS, LAST_MS))]:
            before, covered = world.read(), [name.span for name in world.folder.segments(LONG)]
            if step == "prune":
                seconds = Span(*(bound // 1000 * 1000 for bound in (span.start_ms, span.end_ms)))
                prune_span(world.folder, LONG, seconds)
                gone = {open_ms for open_ms in before if open_ms in seconds}
                assert world.read() == before - gone
                continue
            fetched = world.download(span, refresh=step == "refresh")
            assert world.read() >= before
            # A day is read for its hours that are not held, and once more for a hole in its others.
            assert max(Counter(fetched).values(), default=0) <= 2
            days = Span(span.start_ms // DAY_MS * DAY_MS, -(-span.end_ms // DAY_MS) * DAY_MS)
            for period in fetched:
                # Something was not held of what was wanted, or of the days that were healed with it.
                asked = period.span.intersection(days)
                assert opens_of(asked) - before or difference([asked], covered)
            assert world.download(span, refresh=False) == []
        assert world.read() == world.available
        assert not list(verify_cache(world.folder))
