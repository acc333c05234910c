"""What is stored together is of one series, and no more than may go together; nothing waits for ever."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.acquisition import ingest
from ckvd.acquisition.ingest import ReadArchive, choose_group, read_archives
from ckvd.acquisition.limits import IngestLimits
from ckvd.errors import ArchiveError
from ckvd.model.calendar import Cadence, Period
from ckvd.model.market import SeriesKey
from ckvd.utils.config import FOLDER_BATCH_DAYS_MAX, INGEST_GROUP_ARCHIVES_MAX, INGEST_GROUP_NBYTES_MAX
from ckvd.vision.folder_source import choose_small
from ckvd.vision.name import ArchiveName
from ckvd.vision.source import FetchedArchive
from support.archives import make_archive

SERIES = [SeriesKey.of(symbol, "1m") for symbol in ("BTCUSDT", "ETHUSDT")]
LABELS = ["2023-01", "2023-02", *(f"2023-{month:02}-{day:02}" for month in (1, 2) for day in range(1, 29))]
NAMES = st.builds(
    ArchiveName, st.sampled_from(SERIES), st.sampled_from([Period.of_label(label) for label in LABELS])
)


def fetched(name: ArchiveName, nbytes: int) -> FetchedArchive:
    return FetchedArchive(
        name, Path("x.zip"), is_temporary=True, nbytes=nbytes, sha256="0" * 64, is_checksum_published=True, etag="",
        last_modified="", attempt_count=1,
    )  # fmt: skip


SIZES = st.sampled_from([1, 70_000, INGEST_GROUP_NBYTES_MAX // 3, INGEST_GROUP_NBYTES_MAX + 1])


@given(st.lists(st.builds(fetched, NAMES, SIZES), min_size=1, max_size=150))
def test_a_group_is_of_one_series_in_order_and_within_its_limits(waiting: list[FetchedArchive]) -> None:
    places = choose_group(waiting, IngestLimits())
    assert places[0] == 0
    assert len(set(places)) == len(places)
    group = [waiting[place] for place in places]
    assert {archive.name.series for archive in group} == {waiting[0].name.series}
    periods = [archive.name.period for archive in group[1:]]
    assert periods == sorted(periods)
    assert len(group) <= INGEST_GROUP_ARCHIVES_MAX
    nbytes = sum(archive.nbytes for archive in group)
    assert nbytes <= INGEST_GROUP_NBYTES_MAX or len(group) == 1
    # The next one in time would have been too much.
    left = [
        archive
        for place, archive in enumerate(waiting)
        if place not in places and archive.name.series == waiting[0].name.series
    ]
    if left:
        following = min(left, key=lambda archive: archive.name.period)
        assert len(group) == INGEST_GROUP_ARCHIVES_MAX or nbytes + following.nbytes > INGEST_GROUP_NBYTES_MAX


@given(st.lists(NAMES, min_size=1, max_size=150))
def test_days_are_looked_at_together_and_months_alone(names: list[ArchiveName]) -> None:
    places = choose_small(names)
    if names[0].period.cadence is Cadence.MONTHLY:
        assert places == [0]
    else:
        days = [place for place, name in enumerate(names) if name.period.cadence is Cadence.DAILY]
        assert places == days[:FOLDER_BATCH_DAYS_MAX]
        assert places[0] == 0


@pytest.mark.parametrize("nbytes_max", [0, INGEST_GROUP_NBYTES_MAX])
def test_a_long_archive_is_read_from_its_file_and_gives_the_same(
    tmp_path: Path, nbytes_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "INGEST_GROUP_NBYTES_MAX", nbytes_max)
    archives = []
    for day in ("2023-01-01", "2023-01-02", "2023-01-03"):
        name = ArchiveName(SERIES[0], Period.of_label(day))
        content = make_archive(name.path)
        path = tmp_path / name.file_name
        path.write_bytes(content)
        archives.append(replace(fetched(name, len(content)), path=path))
    archives[1].path.unlink()
    first, second, third = read_archives(archives)
    assert isinstance(first, ReadArchive)
    assert isinstance(second, ArchiveError)
    assert isinstance(third, ReadArchive)
    assert second.reason == "cannot be read: No such file or directory"
    assert first.table.row_count == third.table.row_count == 1440
    assert first.table.columns["volume"].tolist() == [minute + 0.5 for minute in range(1440)]
    assert not list(tmp_path.iterdir())
