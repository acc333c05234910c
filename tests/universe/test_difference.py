"""What two snapshots have different."""

from __future__ import annotations

from ckvd.model.life import EndReason, EndSource, Life
from ckvd.model.market import Market
from ckvd.model.timespan import parse_time
from ckvd.universe.difference import UniverseDifference, compare_snapshots
from ckvd.universe.snapshot import Snapshot
from support.universes import life

ONE, OTHER = "2025-01-01", "2026-01-01"


def compare(before: list[Life], after: list[Life]) -> UniverseDifference:
    one, other = (
        Snapshot(Market.UM, parse_time(at), tuple(lives)) for at, lives in ((ONE, before), (OTHER, after))
    )
    return compare_snapshots(one, other)


def test_equal_snapshots_have_no_difference() -> None:
    lives = [life("AUSDT", "2020-01-01"), life("BUSDT", "2020-01-01", "2021-01-01")]
    found = compare(lives, lives)
    assert (found.new, found.again, found.gone, found.ended, found.changed) == ((), (), (), (), ())


def test_new_tickers_and_further_lives_of_known_ones_are_told_apart() -> None:
    old = life("AUSDT", "2020-01-01", "2024-01-01")
    again, new = life("AUSDT", "2025-06-01"), life("BUSDT", "2025-06-01")
    found = compare([old], [old, again, new])
    assert (found.again, found.new, found.gone) == ((again,), (new,), ())
    assert compare([old, again, new], [old]).gone == (again, new)


def test_a_life_ended_if_it_was_alive_when_the_older_snapshot_was_made() -> None:
    alive = life("AUSDT", "2020-01-01", end_reason=EndReason.ALIVE)
    over = life("AUSDT", "2020-01-01", "2025-06-01", end_reason=EndReason.DELISTED)
    found = compare([alive], [over])
    assert found.ended == (over,)
    assert found.changed[0].changed == ("end_ms", "end_reason")
    planned = life("AUSDT", "2020-01-01", "2025-06-01", end_reason=EndReason.ALIVE)
    assert compare([planned], [over]).ended == (over,)
    long_over = life("AUSDT", "2020-01-01", "2024-06-01", end_reason=EndReason.DELISTED)
    assert compare([long_over], [long_over]).ended == ()


def test_a_beginning_that_is_known_better_now_is_a_change_and_no_new_life() -> None:
    found = compare([life("AUSDT", "2020-01-01")], [life("AUSDT", "2020-01-02T14:00Z")])
    assert (found.new, found.gone, found.changed[0].changed) == ((), (), ("first_ms",))


def test_archives_that_go_on_after_the_end_are_no_change() -> None:
    one, other = (
        life("AUSDT", "2020-01-01", end, end_source=EndSource.LAST_ARCHIVE, last_archive_ms=parse_time(end))
        for end in ("2024-12-31", "2025-12-31")
    )
    assert compare([one], [other]).changed == ()
