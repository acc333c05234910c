"""Memory is reused for one archive after another, and no cell ever shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from ckvd.acquisition.ingest import expected_of
from ckvd.decode.batch import decode_archives
from ckvd.decode.decode import DecodedRows, decode_archive
from ckvd.decode.workspace import Workspace
from ckvd.model.calendar import Period
from ckvd.model.market import SeriesKey
from ckvd.vision.name import ArchiveName
from support.archives import zip_text

if TYPE_CHECKING:
    from ckvd.errors import ArchiveError

DAYS = [ArchiveName(SeriesKey.of("BTCUSDT", "1m"), Period.of_label(f"1970-01-0{day}")) for day in range(1, 10)]
HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"
    "taker_buy_quote_volume,ignore\n"
)


def test_memory_is_reused() -> None:
    workspace = Workspace()
    first = workspace.take(1000)
    workspace.take(500)[:] = 7
    assert first[:500].tolist() == [7] * 500
    assert len(workspace.take(2000)) == 2000


def row(minute: int) -> str:
    opens_ms = 60_000 * minute
    return f"{opens_ms},{minute}.5,{minute}.75,{minute}.25,{minute}.5,3,{opens_ms + 59_999},4.5,7,1,1.5,0\n"


def cells_of(decoded: DecodedRows | ArchiveError) -> object:
    if not isinstance(decoded, DecodedRows):
        return str(decoded)
    return {name: column.tobytes() for name, column in decoded.table.columns.items()}, decoded.has_header


def archive_of(day: int, row_count: int, *, has_header: bool, has_last_newline: bool) -> bytes:
    text = "".join(row(1440 * day + minute) for minute in range(row_count))
    text = text if has_last_newline else text.rstrip("\n")
    return zip_text(DAYS[day].file_name, HEADER + text if has_header else text)


GROUPS = st.lists(st.tuples(st.integers(0, 200), st.booleans(), st.booleans()), min_size=1, max_size=len(DAYS))


@given(st.lists(GROUPS, min_size=1, max_size=4))
def test_earlier_content_of_a_workspace_never_shows_in_a_table(groups: list[list[tuple[int, bool, bool]]]) -> None:
    workspace = Workspace()
    kept: list[tuple[object, DecodedRows | ArchiveError]] = []
    for group in groups:
        contents = [
            archive_of(day, count, has_header=has_header, has_last_newline=has_last_newline)
            for day, (count, has_header, has_last_newline) in enumerate(group)
        ]
        names = DAYS[: len(contents)]
        alone = [
            cells_of(decode_archive(content, expected_of(name)))
            for content, name in zip(contents, names, strict=True)
        ]
        together = decode_archives(contents, [expected_of(name) for name in names], workspace)
        assert [cells_of(decoded) for decoded in together] == alone
        kept += zip(alone, together, strict=True)
    assert all(cells_of(decoded) == cells for cells, decoded in kept)
