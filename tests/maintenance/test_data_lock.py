"""A data lock shows whether bars are the same, bit for bit, however they are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cache.packing import pack_series
from ckvd.errors import CacheError, DataLockError, NotCachedError
from ckvd.maintenance.data_lock import (
    Verdict,
    check_lock,
    format_lock,
    hash_span,
    lock_data,
    parse_lock,
    write_lock,
)
from ckvd.model.market import SeriesKey
from support.caches import day
from support.disks import files_no_longer_than
from support.tables import BTCUSDT_1M, regular_table

HOURS = SeriesKey.of("BTCUSDT", "1h")


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
