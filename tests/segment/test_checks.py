"""Columns are compared with their checksums once in a process, and again if their file may have changed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from ckvd.errors import SegmentCorruptError
from ckvd.model.timespan import Span
from ckvd.platforms import inflate
from ckvd.segment import SegmentReader, checks
from ckvd.utils.config import FILE_TIME_STEP_S
from support.caches import flip
from support.models import MINUTE_MS
from support.processes import run_in_child
from support.tables import BTCUSDT_1M, regular_table, write_segment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckvd.segment.layout import ColumnLayout

HOUR = Span(0, 60 * MINUTE_MS)
COLUMNS = ("open_time", "open", "close")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_segment(tmp_path / "any.ckvd", regular_table(BTCUSDT_1M, HOUR), HOUR)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The checksums that were computed, of files that count as unchanged for long."""
    found: list[int] = []
    genuine = inflate.crc32

    def crc32(content: bytes) -> int:
        found.append(genuine(content))
        return found[-1]

    monkeypatch.setattr(inflate, "crc32", crc32)
    monkeypatch.setattr(checks, "FILE_TIME_STEP_S", -1.0)
    checks.forget()
    return found


def layout_of(path: Path, name: str) -> ColumnLayout:
    with SegmentReader(path) as reader:
        layout = reader.header.column(name)
    assert layout is not None
    return layout


def use(path: Path, *names: str) -> None:
    with SegmentReader(path, verify="first") as reader:
        for name in names:
            assert len(reader[name]) == 60


def test_a_column_is_checked_once_however_many_readers_use_it(path: Path, checked: list[int]) -> None:
    for _ in range(3):
        use(path, "close", "close", "open")
    assert checked == [layout_of(path, name).crc32 for name in ("close", "open")]


def test_a_column_that_is_not_stored_needs_no_check_but_that_of_what_it_is_made_of(
    path: Path, checked: list[int]
) -> None:
    use(path, "close_time")
    assert checked == [layout_of(path, "open_time").crc32]


def test_nothing_is_checked_by_default(path: Path, checked: list[int]) -> None:
    flip(path)
    with SegmentReader(path) as reader:
        for name in reader.header.columns:
            assert len(reader[name.name]) == 60
    assert checked == []


def test_a_copy_of_a_file_is_another_file(path: Path, checked: list[int]) -> None:
    use(path, "close")
    copy = path.with_name("copy.ckvd")
    copy.write_bytes(path.read_bytes())
    use(copy, "close")
    assert len(checked) == 2


def test_a_forked_child_checks_only_what_its_parent_has_not(path: Path, checked: list[int]) -> None:
    use(path, "close")

    def work(say: Callable[[str], None]) -> None:
        checked.clear()
        use(path, *COLUMNS)
        say(f"{len(checked)} of {len(COLUMNS)}")

    ended = run_in_child(work)
    assert (ended.status, ended.lines) == (0, ("2 of 3",))


def test_damage_is_told_each_time_with_all_that_helps(path: Path, checked: list[int]) -> None:
    layout = layout_of(path, "close")
    flip(path, layout.offset + 100, 3)
    for _ in range(2):
        with pytest.raises(SegmentCorruptError) as caught:
            use(path, "open", "close")
        message = str(caught.value)
        assert caught.value.path == str(path)
        for part in (str(path), "column close", f"{checked[-1]:#010x}", f"expected {layout.crc32:#010x}", "repair"):
            assert part in message


def test_no_row_of_a_damaged_column_is_given_also_where_the_rows_themselves_are_intact(path: Path) -> None:
    flip(path, layout_of(path, "close").offset + 59 * 8)
    with SegmentReader(path, verify="first") as reader:
        rows = reader.rows.between(0, MINUTE_MS)
        assert len(rows) == 1
        for use in (rows.stored, lambda name: rows.column(name, BTCUSDT_1M.interval)):
            assert use("open") is not None
            with pytest.raises(SegmentCorruptError, match="column close"):
                use("close")


def test_damaged_open_times_mislead_no_search(path: Path) -> None:
    flip(path, layout_of(path, "open_time").offset + 30 * 8)
    with SegmentReader(path, verify="first") as reader, pytest.raises(SegmentCorruptError, match="open_time"):
        reader.rows.between(0, MINUTE_MS)


def test_a_change_right_after_a_check_is_found(path: Path) -> None:
    """The clock of a file system stands still for some milliseconds, in which a change leaves no trace."""
    offset = layout_of(path, "close").offset
    for number in range(100):
        use(path, "close")
        with path.open("r+b", buffering=0) as file:
            file.seek(offset + number)
            byte = file.read(1)
            file.seek(offset + number)
            file.write(bytes([byte[0] ^ 1]))
            with pytest.raises(SegmentCorruptError):
                use(path, "close")
            file.seek(offset + number)
            file.write(byte)


def test_threads_that_use_a_column_at_once_get_it_or_its_damage(path: Path) -> None:
    count = 8

    def outcomes() -> list[str]:
        found: list[str] = []
        start = threading.Barrier(count)

        def work() -> None:
            start.wait()
            try:
                use(path, *COLUMNS)
                found.append("intact")
            except SegmentCorruptError:
                found.append("damaged")

        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    assert outcomes() == ["intact"] * count
    flip(path, layout_of(path, "close").offset)
    assert outcomes() == ["damaged"] * count


def test_any_other_word_is_refused_with_the_words_that_there_are(path: Path) -> None:
    for word in ("always", "", None, True):
        with pytest.raises(ValueError, match='"never" or "first"'):
            SegmentReader(path, verify=word)  # type: ignore[arg-type]


def test_checks_are_shared_only_for_files_that_a_later_change_would_give_another_time() -> None:
    step_ns = int(FILE_TIME_STEP_S * 1e9)
    version = (1, 10**18, 4096, 7)
    for age_ns, is_shared in ((0, False), (step_ns, False), (-step_ns, False), (step_ns + 1000, True)):
        both = [checks.checks_of(version, changed_ns=10**18, opened_ns=10**18 + age_ns) for _ in range(2)]
        assert (both[0] is both[1]) == is_shared
    other = checks.checks_of((1, 10**18, 4096, 8), changed_ns=10**18, opened_ns=2 * 10**18)
    assert other is not checks.checks_of(version, changed_ns=10**18, opened_ns=2 * 10**18)
