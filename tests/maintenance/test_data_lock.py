"""A data lock shows whether bars are the same, bit for bit, however they are stored."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cache.packing import pack_series
from ckvd.errors import CacheError, DataLockError, NotCachedError, SegmentError
from ckvd.maintenance.data_lock import (
    Verdict,
    check_lock,
    format_lock,
    hash_span,
    lock_data,
    parse_lock,
    write_lock,
)
from ckvd.maintenance.pruning import prune_span
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Absence, Reason
from support.caches import day, flip
from support.disks import files_no_longer_than
from support.tables import BTCUSDT_1M, make_table, regular_table

if TYPE_CHECKING:
    from ckvd.model.timespan import Span

HOURS = SeriesKey.of("BTCUSDT", "1h")
# Of two days of minutes, by the first version that locked data.
OLDER_SHA256 = "588bb9444e2f1770e412606d5b68791cb688353b2a31ce840e737b73bb157a63"


def test_a_hash_does_not_depend_on_segments(tmp_path: Path) -> None:
    one, many = CacheFolder(tmp_path / "one"), CacheFolder(tmp_path / "many")
    table = regular_table(BTCUSDT_1M, day(0, 20))
    SeriesStore(one, BTCUSDT_1M).put(table, day(0, 20))
    for number in range(20):
        SeriesStore(many, BTCUSDT_1M).put(table.rows(number * 1440, (number + 1) * 1440), day(number))
    lock = format_lock(lock_data(one))
    assert format_lock(lock_data(many)) == lock
    pack_series(many, BTCUSDT_1M)
    assert format_lock(lock_data(many)) == lock
    assert [check.verdict for check in check_lock(many, parse_lock(lock))] == [Verdict.SAME]
    assert hash_span(one, BTCUSDT_1M, day(3)) == hash_span(many, BTCUSDT_1M, day(3))


def test_a_single_bit_changes_the_hash(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    table = regular_table(BTCUSDT_1M, day(0))
    SeriesStore(folder, BTCUSDT_1M).put(table, day(0))
    (line,) = lock_data(folder)
    table.columns["volume"][7] = -0.0
    table.columns["volume"][7:8].view(np.uint64)[0] ^= 1
    SeriesStore(folder, BTCUSDT_1M).put(table, day(0))
    (check,) = check_lock(folder, [line])
    assert check.verdict is Verdict.DIFFERENT
    (missing,) = check_lock(CacheFolder(tmp_path / "other"), [line])
    assert missing.verdict is Verdict.MISSING
    check.to_json()
    missing.to_json()


def test_a_span_that_is_not_covered_has_no_hash(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    SeriesStore(folder, BTCUSDT_1M).put(regular_table(BTCUSDT_1M, day(3)), day(3))
    with pytest.raises(NotCachedError):
        hash_span(folder, BTCUSDT_1M, day(3, 2))


def put_unavailable(folder: CacheFolder, span: Span, series: SeriesKey = BTCUSDT_1M) -> None:
    """Store that a span was asked for and that no source had it."""
    absence = Absence(span.start_ms, span.end_ms, Reason.NOT_IN_ARCHIVE, span.end_ms)
    empty = make_table(series, [])
    SeriesStore(folder, series).put(empty, span, absences=[absence], recheck_ms=span.end_ms)


@pytest.fixture
def holed(tmp_path: Path) -> CacheFolder:
    """Five days, of which no source had the second and the third."""
    folder = CacheFolder(tmp_path / "holed")
    for span in (day(0), day(3, 2)):
        SeriesStore(folder, BTCUSDT_1M).put(regular_table(BTCUSDT_1M, span), span)
    put_unavailable(folder, day(1, 2))
    return folder


def test_what_no_source_had_is_a_line_of_its_own_and_does_not_keep_the_rest_from_being_locked(
    holed: CacheFolder,
) -> None:
    text = format_lock(lock_data(holed))
    lines = parse_lock(text)
    assert [(line.span, line.bar_count, line.is_unavailable) for line in lines] == [
        (day(0), 1440, False),
        (day(1, 2), 0, True),
        (day(3, 2), 2880, False),
    ]
    assert f"# unavailable when it was asked for: {BTCUSDT_1M} {day(1, 2)}\n" in text
    assert [line.to_json()["is_unavailable"] for line in lines] == [False, True, False]
    assert [check.verdict for check in check_lock(holed, lines)] == [Verdict.SAME] * 3
    # The bars beside it have the hashes that they have without it.
    assert lines[0] == hash_span(holed, BTCUSDT_1M, day(0))


def test_days_within_a_bar_of_three_days_that_older_versions_call_unavailable_change_no_lock(
    tmp_path: Path,
) -> None:
    series = SeriesKey.of("BTCUSDT", "3d")
    newer, older = CacheFolder(tmp_path / "newer"), CacheFolder(tmp_path / "older")
    for folder in (newer, older):
        SeriesStore(folder, series).put(make_table(series, [day(n).start_ms for n in (0, 3, 6)]), day(0, 9))
    put_unavailable(older, day(4), series)
    lock = format_lock(lock_data(newer))
    assert format_lock(lock_data(older)) == lock
    assert [check.verdict for check in check_lock(older, parse_lock(lock))] == [Verdict.SAME]


def test_caches_with_other_unavailable_spans_have_other_locks_and_the_check_says_which_differ(
    holed: CacheFolder, tmp_path: Path
) -> None:
    lines = list(lock_data(holed))
    filled, unasked, partly = (CacheFolder(tmp_path / name) for name in ("filled", "unasked", "partly"))
    for other in (filled, unasked, partly):
        shutil.copytree(holed.root, other.root)
    SeriesStore(filled, BTCUSDT_1M).put(regular_table(BTCUSDT_1M, day(1, 2)), day(1, 2))
    SeriesStore(partly, BTCUSDT_1M).put(regular_table(BTCUSDT_1M, day(2)), day(2))
    prune_span(unasked, BTCUSDT_1M, day(2))
    locks = {format_lock(lock_data(one)) for one in (holed, filled, unasked, partly)}
    assert len(locks) == 4

    before, there, after = check_lock(filled, lines)
    assert (before.verdict, there.verdict, after.verdict) == (Verdict.SAME, Verdict.DIFFERENT, Verdict.SAME)
    assert there.found is not None
    assert there.found.bar_count == 2880
    assert there.message == f"unavailable by the lock, and the cache has {day(1, 2)}"
    there.to_json()

    _, there, _ = check_lock(partly, lines)
    assert (there.verdict, there.found) == (Verdict.DIFFERENT, None)
    assert str(day(2)) in there.message

    _, there, _ = check_lock(unasked, lines)
    assert there.verdict is Verdict.MISSING
    assert f"was not asked for {day(2)}" in there.message

    # The other way round, the lock of the full cache names what this one lacks.
    (check,) = check_lock(holed, lock_data(filled))
    assert check.verdict is Verdict.MISSING
    assert str(day(1, 2)) in check.message


def test_a_lock_of_unavailable_spans_does_not_depend_on_segments(holed: CacheFolder, tmp_path: Path) -> None:
    other = CacheFolder(tmp_path / "other")
    for number in (0, 3, 4):
        SeriesStore(other, BTCUSDT_1M).put(regular_table(BTCUSDT_1M, day(number)), day(number))
    for number in (1, 2):
        put_unavailable(other, day(number))
    hashes = [line.sha256 for line in lock_data(other)]
    assert [line.span for line in lock_data(other)] == [line.span for line in lock_data(holed)]
    assert hashes[:2] == [line.sha256 for line in lock_data(holed)][:2]
    pack_series(other, BTCUSDT_1M)
    assert [line.sha256 for line in lock_data(other)] == hashes


def test_answers_without_bars_are_locked_as_before(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    absence = Absence(day(0).start_ms, day(0).end_ms, Reason.BEFORE_LISTING)
    SeriesStore(folder, BTCUSDT_1M).put(make_table(BTCUSDT_1M, []), day(0), absences=[absence])
    (line,) = lock_data(folder)
    assert not line.is_unavailable
    assert line == hash_span(folder, BTCUSDT_1M, day(0))


def test_a_lock_that_an_older_version_wrote_is_checked(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    SeriesStore(folder, BTCUSDT_1M).put(regular_table(BTCUSDT_1M, day(0, 2)), day(0, 2))
    older = (
        "# ckvd data lock, version 1: SHA-256, bars, span, series\n"
        f"{OLDER_SHA256} 2880 2023-01-30..2023-02-01 spot/klines/BTCUSDT/1m\n"
    )
    assert format_lock(lock_data(folder)) == older
    assert [check.verdict for check in check_lock(folder, parse_lock(older))] == [Verdict.SAME]


def test_a_damaged_segment_is_not_taken_for_an_unavailable_span(holed: CacheFolder) -> None:
    name = next(name for name in holed.segments(BTCUSDT_1M) if name.span == day(1, 2))
    lines = list(lock_data(holed))
    flip(holed.segment_path(BTCUSDT_1M, name), 40)
    with pytest.raises(SegmentError):
        list(lock_data(holed))
    assert [check.verdict for check in check_lock(holed, lines)][1] is Verdict.UNREADABLE


def test_a_lock_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "data.lock"
    write_lock(file, "old")
    (tmp_path / "link").symlink_to(file)
    with (
        files_no_longer_than(10),
        pytest.raises(CacheError, match=r"data\.lock: cannot be written: File too large"),
    ):
        write_lock(file, "much longer than before")
    assert file.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.lock", "link"]
    write_lock(tmp_path / "link", "new")
    assert file.read_text() == "new"
    (tmp_path / ".data.lock.1-aaaaaaaa.tmp").write_text("of a killed process")
    (tmp_path / ".other.lock.1-aaaaaaaa.tmp").write_text("of no concern")
    write_lock(tmp_path / "link", "newest")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"data.lock", "link", ".other.lock.1-aaaaaaaa.tmp"}
    write_lock(Path("/dev/null"), "nothing")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x y", "'x y' is no hash, number of bars, span and series"),
        ("0 1 2023-01-01..2023-01-02 spot/klines/BTCUSDT/1h", "'0' is no SHA-256"),
        (f"{'0' * 64} 1 2023-01-01 spot/klines/B/1h", "'2023-01-01' and 'spot/klines/B/1h' are no span and series"),
        (f"{'0' * 64} 1 2023-01-01..2023-01-02 spot/B/1h", "are no span and series"),
    ],
)
def test_a_file_that_is_no_lock_is_refused_by_name_with_a_remedy(line: str, reason: str) -> None:
    with pytest.raises(DataLockError, match=r"data\.lock, line 2: .*expected .*: give that one") as caught:
        parse_lock(f"# comment\n{line}\n", "data.lock")
    assert reason in str(caught.value)
