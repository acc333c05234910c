"""A folder that has not changed is listed once, and each change of its names is seen by the next look."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.cache.folder import SegmentName
from ckvd.cache.known_listings import KnownListings, is_settled
from ckvd.errors import CacheError
from ckvd.model.market import DAY_MS, SeriesKey
from ckvd.model.timespan import Span
from ckvd.segment.checks import now_ns
from support.after_listing import after_listing
from support.tables import regular_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BTC = SeriesKey.of("BTCUSDT", "1h")
STEP_MS = 2000
HOUR_NS = 3_600_000_000_000


def day(number: int) -> Span:
    return Span(number * DAY_MS, (number + 1) * DAY_MS)


def put(folder: CacheFolder, number: int) -> Path:
    return SeriesStore(folder, BTC).put(regular_table(BTC, day(number)), day(number))


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path / "cache")


@pytest.fixture
def _an_hour_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was done so far was done long ago. What is done from now on has the time of the file system."""
    monkeypatch.setattr("ckvd.cache.known_listings.now_ns", lambda: now_ns() + HOUR_NS)


def until_the_time_moves_on(path: Path) -> None:
    """Older kernels tell the time of a change in steps of some milliseconds."""
    latest, probe = path.stat().st_ctime_ns, path.parent / "probe"
    for _ in range(1_000_000):
        probe.touch()
        if probe.stat().st_ctime_ns > latest:
            return
    raise AssertionError("the clock of the file system stands still")


# --- What is kept ------------------------------------------------------------------------------------------


@given(
    tick_ms=st.sampled_from([1, 4, 10, 1000, STEP_MS]),
    gaps_ms=st.lists(st.one_of(st.integers(0, 20), st.integers(0, 3 * STEP_MS)), min_size=1, max_size=40),
    is_look=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_whatever_the_steps_of_the_clock_a_kept_listing_is_that_of_now(
    tick_ms: int, gaps_ms: list[int], is_look: list[bool]
) -> None:
    """A folder is a number that counts its changes, and the time of the last one, in steps of its clock."""
    now_ms, state, changed_ms = 10 * STEP_MS, 0, 10 * STEP_MS // tick_ms * tick_ms
    known: tuple[int, int] | None = None  # the state that was listed, and the time of change that it had
    for gap_ms, looks in zip(gaps_ms, is_look, strict=False):
        now_ms += gap_ms
        if not looks:
            state, changed_ms = state + 1, now_ms // tick_ms * tick_ms
        elif known is not None and known[1] == changed_ms:
            assert known[0] == state
        else:
            known = (state, changed_ms) if is_settled(changed_ms * 1_000_000, now_ms * 1_000_000) else None


@pytest.mark.usefixtures("_an_hour_later")
def test_a_folder_that_was_left_alone_is_listed_once(folder: CacheFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, 0)
    listings = KnownListings(folder)
    listed = after_listing(monkeypatch, lambda _: None)
    first = listings.segments(BTC)
    assert first == [SegmentName(day(0), 1)]
    assert all(listings.segments(BTC) is first for _ in range(3))
    assert listed == [1]


def test_a_folder_that_changed_just_now_is_listed_each_time(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, 0)
    listings = KnownListings(folder)
    listed = after_listing(monkeypatch, lambda _: None)
    for _ in range(3):
        listings.segments(BTC)
    assert listed == [1, 1, 1]


def test_changes_within_one_step_of_the_clock_are_all_seen(folder: CacheFolder) -> None:
    """The folder is changed and looked at as fast as the disk can, without a pause for its clock to move on."""
    path = put(folder, 0)
    listings = KnownListings(folder)
    aside = folder.root / "aside"
    for _ in range(300):
        assert len(listings.segments(BTC)) == 1
        path.rename(aside)
        assert listings.segments(BTC) == []
        aside.rename(path)


@pytest.mark.usefixtures("_an_hour_later")
def test_a_disk_that_may_tell_of_changes_late_is_listed_each_time(
    folder: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, 0)
    listed = after_listing(monkeypatch, lambda _: None)
    # What `has_prompt_folders` says of real disks is tested with it.
    monkeypatch.setattr("ckvd.cache.known_listings.has_prompt_folders", lambda _device: False)
    listings = KnownListings(folder)
    for _ in range(3):
        listings.segments(BTC)
    assert listed == [1, 1, 1]


# --- What is seen ------------------------------------------------------------------------------------------


def by_adding(folder: CacheFolder, _: Path) -> list[int]:
    put(folder, 1)
    return [0, 1]


def by_removing(_: CacheFolder, path: Path) -> list[int]:
    path.unlink()
    return []


def by_renaming(_: CacheFolder, path: Path) -> list[int]:
    path.rename(path.with_name(SegmentName(day(2), 1).file_name))
    return [2]


def by_deleting_the_folder(folder: CacheFolder, _: Path) -> list[int]:
    shutil.rmtree(folder.series_path(BTC))
    return []


def by_deleting_all_and_filling_again(folder: CacheFolder, _: Path) -> list[int]:
    shutil.rmtree(folder.root)
    put(folder, 3)
    return [3]


def by_a_folder_in_its_place(folder: CacheFolder, _: Path) -> list[int]:
    other = CacheFolder(folder.root.with_name("other"))
    put(other, 4)
    folder.root.rename(folder.root.with_name("before"))
    other.root.rename(folder.root)
    return [4]


def by_a_link_in_its_place(folder: CacheFolder, _: Path) -> list[int]:
    other = CacheFolder(folder.root.with_name("other"))
    put(other, 5)
    folder.root.rename(folder.root.with_name("before"))
    folder.root.symlink_to(other.root, target_is_directory=True)
    return [5]


WAYS = [
    *(by_adding, by_removing, by_renaming, by_deleting_the_folder, by_deleting_all_and_filling_again),
    *(by_a_folder_in_its_place, by_a_link_in_its_place),
]


@pytest.mark.usefixtures("_an_hour_later")
@pytest.mark.parametrize("change", WAYS, ids=lambda way: way.__name__)
def test_each_change_is_seen_by_the_next_look(
    folder: CacheFolder, change: Callable[[CacheFolder, Path], list[int]]
) -> None:
    path = put(folder, 0)
    listings = KnownListings(folder)
    assert listings.segments(BTC) is listings.segments(BTC)
    until_the_time_moves_on(folder.series_path(BTC))
    expected = change(folder, path)
    assert sorted(name.span for name in listings.segments(BTC)) == [day(number) for number in expected]


@pytest.mark.usefixtures("_an_hour_later")
def test_a_file_that_takes_the_name_of_another_is_read(folder: CacheFolder, tmp_path: Path) -> None:
    """The names are the same, and so may the time of modification be, which anybody can set."""
    path = put(folder, 0)
    other = CacheFolder(tmp_path / "other")
    table = regular_table(BTC, day(0), close=7.0)
    new = SeriesStore(other, BTC).put(table, day(0))
    with KlineCache(folder.root) as cache:
        before = cache.read_series(BTC, day(0)).close
        until_the_time_moves_on(folder.series_path(BTC))
        new.replace(path)
        assert set(cache.read_series(BTC, day(0)).close.tolist()) == {7.0}
        assert set(before.tolist()) != {7.0}


@pytest.mark.usefixtures("_an_hour_later")
def test_a_clock_that_was_set_ends_all_trust(folder: CacheFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, 0)
    listings = KnownListings(folder)
    first = listings.segments(BTC)
    monkeypatch.setattr("ckvd.cache.known_listings._clock_offset_ns", lambda: 0)
    again = listings.segments(BTC)
    assert again == first
    assert again is not first
    assert listings.segments(BTC) is again


@pytest.mark.usefixtures("_an_hour_later")
def test_a_folder_that_is_lost_behind_a_link_is_an_error_as_ever(folder: CacheFolder, tmp_path: Path) -> None:
    put(folder, 0)
    root = tmp_path / "link"
    root.symlink_to(folder.root, target_is_directory=True)
    listings = KnownListings(CacheFolder(root))
    assert len(listings.segments(BTC)) == 1
    folder.root.rename(tmp_path / "elsewhere")
    with pytest.raises(CacheError, match="leads nowhere"):
        listings.segments(BTC)


# --- How much is kept --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_an_hour_later")
def test_no_more_names_are_kept_than_are_allowed(folder: CacheFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckvd.cache.known_listings.CACHE_KNOWN_NAMES_MAX", 5)
    listings = KnownListings(folder)
    all_series = [SeriesKey.of(f"S{number}USDT", "1h") for number in range(8)]
    for series in all_series:
        for number in range(2):
            SeriesStore(folder, series).put(regular_table(series, day(number)), day(number))
    for _ in range(3):
        for series in all_series:
            assert len(listings.segments(series)) == 2
            assert sum(len(known.listing) for known in listings._known.values()) <= 5
            assert listings._name_count == sum(len(known.listing) for known in listings._known.values())
