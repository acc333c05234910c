"""All real data, through everything that a user does: download, read, verify, lock, export, import, and lock again.

Every cell is compared with `float(text)` and `int(text)` of the source, every missing bar with the holes of the
source, and every hash with one that is computed from the text as the documentation of the lock says. The sources
are read by `acceptance.material`, which knows nothing of ckvd. `make test` tries a sample, `make acceptance` all.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import numpy as np
import pytest

import ckvd
from acceptance.material import (
    FIELDS,
    INTEGERS,
    Material,
    catalogue,
    close_of,
    length_ms,
    rows_of,
    slot_of,
    span_of,
    to_ms,
    us_of,
    write_zip,
)
from ckvd.cache import CacheFolder
from ckvd.maintenance.data_lock import Verdict, check_lock, hash_span, lock_data
from ckvd.maintenance.export import ExportCut, ExportFormat, export_series
from ckvd.maintenance.gap_report import report_gaps
from ckvd.maintenance.verification import Severity, verify_cache
from support.loopback.exchange import Exchange
from support.loopback.mirror import Mirror
from support.loopback.rows import make_rows
from support.places import IS_WHOLE, SHARED_DATA

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from acceptance.material import Row

NOW_MS = span_of("2027-01-01")[0]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="real data not present: ../shared/data"),
]

CATALOGUE = catalogue(SHARED_DATA) if SHARED_DATA.is_dir() else {}
# Days and months in which something is special; beside them a sample has the first and the last archive.
SPECIAL = {
    "vision spot klines BTCUSDT 1m": ("2023-03-24",),
    "vision spot klines BTCUSDT 1h": ("2017-12", "2018-02", "2020-12", "2023-03-24", "2024-12", "2025-01"),
    "vision spot klines SOLUSDT 1m": ("2023-02-14",),
    "vision um klines BTCUSDT 5m": ("2025-08",),
}
SAMPLE_SYMBOLS = 6

# What is known not to be right yet: by the name of a source, why.
KNOWN_FAULTS: dict[str, str] = {}


def sources() -> list[Any]:
    return [
        pytest.param(
            name,
            marks=[pytest.mark.xfail(reason=KNOWN_FAULTS[name], strict=True)] if name in KNOWN_FAULTS else [],
            id=name,
        )
        for name in CATALOGUE
    ]


@pytest.mark.parametrize("name", sources())
def test_archives_keep_every_cell_and_every_reason(name: str, tmp_path: Path) -> None:
    materials = CATALOGUE[name]()
    if not IS_WHOLE:
        materials = [sample(one, SPECIAL.get(name, ())) for one in materials[:SAMPLE_SYMBOLS]]
    mirror = tmp_path / "mirror"
    for one in materials:
        for label, text in one.texts.items():
            if label in one.paths:
                link(one.paths[label], mirror / one.path_of(label))
            else:
                write_zip(mirror, one.path_of(label), text())
    first, second = CacheFolder(tmp_path / "first"), CacheFolder(tmp_path / "second")
    with Mirror(mirror) as served:
        download(first, served.base_url, served.listing_url, materials)
    checked = [check_series(first, one, tmp_path / "export") for one in materials]
    check_verified(first)
    # What was exported, as a mirror of its own.
    download(second, tmp_path / "export" / "mirror", None, materials)
    check_verified(second)
    for one, spans in zip(materials, checked, strict=True):
        key = key_of(one)
        for span in spans:
            assert hash_span(second, key, span) == hash_span(first, key, span)
            assert report_gaps(second, key, span) == report_gaps(first, key, span)
    locked = list(lock_data(first))
    assert {hashed.series for hashed in locked} == {key_of(one) for one in materials}
    assert [check.verdict for check in check_lock(second, locked)] == [Verdict.SAME] * len(locked)


THREE_DAYS = [name for name in CATALOGUE if name.endswith(" 3d")]


@pytest.mark.parametrize("name", THREE_DAYS)
def test_bars_of_three_days_have_no_flag_but_that_of_the_overlap(name: str, tmp_path: Path) -> None:
    (one,) = CATALOGUE[name]()
    for label, text in one.texts.items():
        write_zip(tmp_path / "mirror", one.path_of(label), text())
    folder = CacheFolder(tmp_path / "cache")
    download(folder, tmp_path / "mirror", None, [one])
    opens = [open_ms for text in one.texts.values() for open_ms in rows_of(text())]
    span = ckvd.Span(min(opens), max(opens) + length_ms("3d"))
    with ckvd.open_cache(folder.root) as cache:
        klines = cache.read_series(key_of(one), span)
    assert klines.gaps == ()
    overlaps = klines.open_time[klines.flags != 0].tolist()
    assert overlaps == ([span_of("2023-08-14")[0]] if one.market == "um" else [])
    assert set(klines.flag_counts) <= {ckvd.BarFlag.OVERLAPS_NEXT}


# --- Recorded answers --------------------------------------------------------------------------------------


@cache
def recorded() -> dict[str, dict[str, Any]]:
    if not SHARED_DATA.is_dir():
        return {}
    index = json.loads((SHARED_DATA / "rest" / "INDEX.json").read_bytes())
    # Others are refusals, and a kind of bars that ckvd does not have.
    return {entry["file"]: entry for entry in index if "rows" in entry and "continuous" not in entry["path"]}


@pytest.mark.parametrize("name", recorded())
def test_recorded_answers_keep_every_cell_and_every_reason(name: str, tmp_path: Path) -> None:
    entry = recorded()[name]
    query = {key: values[0] for key, values in parse_qs(entry["query"]).items()}
    _, root, _, kind = entry["path"].split("/")
    market = {"api": "spot", "fapi": "um", "dapi": "cm"}[root]
    interval = {"1M": "1mo"}.get(query["interval"], query["interval"])
    one = Material(market, kind, query.get("symbol") or query["pair"], interval)
    body = json.loads((SHARED_DATA / "rest" / name).read_bytes())
    rows = {int(row[0]): [str(cell) for cell in row] for row in body}
    key = key_of(one)
    span = ckvd.Span(min(rows), close_of(max(rows), interval) + 1)
    first, second = CacheFolder(tmp_path / "first"), CacheFolder(tmp_path / "second")

    async def fetch(mirror: Mirror, exchange: Exchange) -> ckvd.Klines:
        async with ckvd.CryptoKlineVisionData(
            cache=first.root,
            vision_url=mirror.base_url,
            listing_url=mirror.listing_url,
            rest_url=exchange.url,
            clock=lambda: NOW_MS,
        ) as data:
            return await data.get_klines(
                one.symbol, interval, start=span.start_ms, end=span.end_ms, market=market, kind=kind
            )

    (tmp_path / "mirror" / "data").mkdir(parents=True)
    # A client looks for the first day of a coin-margined contract.
    days = {open_ms - open_ms % length_ms("1d") for open_ms in rows}
    exchange = Exchange(
        {
            ckvd.SeriesKey.of(one.symbol, "1d", market=market, kind=kind): make_rows(sorted(days), length_ms("1d")),
            key: [tuple(row) for row in rows.values()],
        },
        clock=lambda: NOW_MS,
    )
    with Mirror(tmp_path / "mirror") as mirror, exchange:
        klines = asyncio.run(fetch(mirror, exchange))
    assert_cells(klines, list(rows.values()))
    assert_gaps(klines, rows, one, {ckvd.Reason.HALTED})
    check_verified(first)
    assert hash_span(first, key, span).sha256 == expected_hash(key, list(rows.values()))
    labels = export_as_mirror(first, one, span, tmp_path / "export")
    one.texts = dict.fromkeys(labels, str)
    download(second, tmp_path / "export" / "mirror", None, [one])
    check_verified(second)
    assert hash_span(second, key, span) == hash_span(first, key, span)


# --- One series --------------------------------------------------------------------------------------------


def key_of(one: Material) -> ckvd.SeriesKey:
    return ckvd.SeriesKey.of(one.symbol, one.interval, market=one.market, kind=one.kind)


def sample(one: Material, special: Sequence[str]) -> Material:
    labels = sorted(one.texts)
    one.texts = {label: one.texts[label] for label in sorted({labels[0], *special, labels[-1]})}
    return one


def link(source: Path, target: Path) -> None:
    """Serve a published archive as it is, with its CHECKSUM."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)
    target.with_name(target.name + ".CHECKSUM").symlink_to(source.with_name(source.name + ".CHECKSUM"))


def runs_of(labels: Sequence[str]) -> Iterator[list[str]]:
    """Labels of one kind that follow on each other without a hole."""
    ordered = sorted(labels, key=lambda label: (span_of(label), label))
    run = ordered[:1]
    for before, label in pairwise(ordered):
        if span_of(before)[1] != span_of(label)[0] or before.count("-") != label.count("-"):
            yield run
            run = []
        run.append(label)
    yield run


def span_of_run(run: Sequence[str]) -> ckvd.Span:
    return ckvd.Span(span_of(run[0])[0], span_of(run[-1])[1])


def download(folder: CacheFolder, url: Path | str, listing_url: str | None, materials: Sequence[Material]) -> None:
    async def work() -> None:
        async with ckvd.VisionDataClient(
            url, listing_url=listing_url, cache=folder.root, is_checksum_required=True, clock=lambda: NOW_MS
        ) as client:
            for one in materials:
                for run in runs_of(list(one.texts)):
                    report = await client.download_series([key_of(one)], span_of_run(run))
                    assert report.is_complete, (str(one), run[0], report.missing)
                    assert not report.failed

    asyncio.run(work())


def check_series(folder: CacheFolder, one: Material, target: Path) -> list[ckvd.Span]:
    """Compare all of a series in a cache with its source, and export it. Return the spans that were compared."""
    key, spans = key_of(one), []
    is_first, runs = True, list(runs_of(list(one.texts)))
    for run in runs:
        span = span_of_run(run)
        texts = {label: one.texts[label]() for label in run}
        rows = {open_ms: row for text in texts.values() for open_ms, row in rows_of(text).items()}
        with ckvd.open_cache(folder.root) as cache:
            klines = cache.read_series(key, span)
        assert_cells(klines, list(rows.values()))
        allowed = {ckvd.Reason.NOT_IN_ARCHIVE}
        assert_gaps(klines, rows, one, allowed, is_first=is_first, is_last=run is runs[-1])
        hashed = hash_span(folder, key, span)
        assert (hashed.bar_count, hashed.sha256) == (len(rows), expected_hash(key, list(rows.values())))
        for label, (exported, inexact_count) in export_as_mirror(folder, one, span, target).items():
            check_text(one, label, texts[label], exported, inexact_count)
        check_columnar(folder, key, span, list(rows.values()), target)
        spans.append(span)
        is_first = False
    return spans


# --- Cells -------------------------------------------------------------------------------------------------


def names_of(key: ckvd.SeriesKey) -> tuple[str, ...]:
    """The names of the columns: coin-margined klines have base volumes where others have quote volumes."""
    is_coin = key.market == "cm" and key.kind == "klines"
    return tuple(name.replace("quote", "base") if is_coin else name for name in FIELDS)


def expected_columns(key: ckvd.SeriesKey, rows: Sequence[Row]) -> dict[str, np.ndarray[Any, Any]]:
    """What the text says, column by column, with the microseconds within the milliseconds of times."""
    columns: dict[str, np.ndarray[Any, Any]] = {}
    for position, name in enumerate(names_of(key)):
        texts = [row[position] for row in rows]
        if position in (0, 6):
            columns[name] = np.array([to_ms(text) for text in texts], np.int64)
        elif position in INTEGERS:
            columns[name] = np.array([int(text) for text in texts], np.int64)
        else:
            columns[name] = np.array([float(text) for text in texts], np.float64)
    columns["open_time_us"] = np.array([us_of(row[0], 0) for row in rows], np.int16)
    columns["close_time_us"] = np.array([us_of(row[6], 999) for row in rows], np.int16)
    return columns


def assert_cells(klines: ckvd.Klines, rows: Sequence[Row]) -> None:
    expected = expected_columns(klines.series, rows)
    assert tuple(klines.column_names) == names_of(klines.series)
    for name, column in expected.items():
        found = klines[name]
        assert (found.dtype, len(found)) == (column.dtype, len(column)), name
        if found.tobytes() != column.tobytes():
            (rows_that_differ,) = np.nonzero(
                found.view(f"u{column.itemsize}") != column.view(f"u{column.itemsize}")
            )
            row = int(rows_that_differ[0])
            raise AssertionError(f"{klines.series} {name} row {row}: {found[row]!r}, expected {column[row]!r}")


def expected_hash(key: ckvd.SeriesKey, rows: Sequence[Row]) -> str:
    """The hash of a lock: SHA-256 of the names of all columns, each followed by the SHA-256 of its values."""
    whole = hashlib.sha256()
    for name, column in expected_columns(key, rows).items():
        whole.update(f"{name} {hashlib.sha256(column.tobytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


# --- Reasons -----------------------------------------------------------------------------------------------


def assert_gaps(
    klines: ckvd.Klines,
    rows: dict[int, Row],
    one: Material,
    allowed: set[ckvd.Reason],
    *,
    is_first: bool = False,
    is_last: bool = False,
) -> None:
    """Every missing bar is in a gap with the right reason, and no other bar is.

    What is missing before the first bar of all, or after the last, may be said to be that.
    """
    span = klines.span
    assert klines.missing == ()
    opens = sorted(rows)
    for gap in klines.gaps:
        reasons = set(allowed)
        if is_first and gap.end_ms <= opens[0]:
            reasons.add(ckvd.Reason.BEFORE_LISTING)
        if is_last and gap.start_ms > opens[-1]:
            reasons.add(ckvd.Reason.AFTER_DELISTING)
        assert gap.reason in reasons, str(gap)
    if one.interval == "3d":
        # The grid is that of the bars. They follow on each other without a hole.
        assert not [gap for gap in klines.gaps if opens[0] < gap.start_ms < opens[-1]]
        return
    held = {slot_of(open_ms, one.interval) for open_ms in opens}
    expected = [open_ms for open_ms in grid(span, one.interval) if slot_of(open_ms, one.interval) not in held]
    found = [open_ms for gap in klines.gaps for open_ms in grid(ckvd.Span(gap.start_ms, gap.end_ms), one.interval)]
    assert found == expected
    assert sum(gap.bar_count for gap in klines.gaps) == len(expected)


def grid(span: ckvd.Span, interval: str) -> list[int]:
    """The open times of a grid in a span."""
    if interval == "1mo":
        months = [f"{year}-{month:02}" for year in range(2017, 2028) for month in range(1, 13)]
        return [start_ms for start_ms in (span_of(month)[0] for month in months) if start_ms in span]
    step_ms = length_ms(interval)
    origin_ms = 4 * length_ms("1d") if interval == "1w" else 0
    start_ms = span.start_ms + (origin_ms - span.start_ms) % step_ms
    return list(range(start_ms, span.end_ms, step_ms))


# --- Verifying and exporting -------------------------------------------------------------------------------


def check_verified(folder: CacheFolder) -> None:
    wrong = [finding for finding in verify_cache(folder) if finding.severity is Severity.ERROR]
    assert wrong == []


def export_as_mirror(
    folder: CacheFolder, one: Material, span: ckvd.Span, target: Path
) -> dict[str, tuple[str, int]]:
    """Export a span in pieces of archives, and put them into a mirror. Return each text with its inexact cells."""
    labels = {label for label in one.texts if ckvd.Span(*span_of(label)).overlaps(span)}
    is_daily = any(label.count("-") == 2 for label in labels)
    found = {}
    cut = ExportCut.DAY if is_daily else ExportCut.MONTH
    for file in export_series(folder, key_of(one), target / "csv", cut=cut, span=span, is_overwriting=True):
        label = file.path.stem.removeprefix(f"{one.symbol}-{one.interval}-")
        text = file.path.read_text()
        write_zip(target / "mirror", one.path_of(label), text)
        found[label] = text, file.inexact_cell_count
    return found


def check_text(one: Material, label: str, text: str, exported: str, inexact_count: int) -> None:
    """An export of a published archive is its text, digit for digit; any other has the same cells.

    Where futures have cells with a fraction and cells without one, whole numbers may have either.
    """
    if one.is_published and text != exported:
        ours, theirs = (csv.reader(io.StringIO(part)) for part in (exported, text))
        rows = zip(ours, theirs, strict=True)
        wrong = [cells for mine, its in rows for cells in zip(mine, its, strict=True) if cells[0] != cells[1]]
        if one.market != "spot":
            wrong = [cells for cells in wrong if not float(cells[1]).is_integer()]
        assert len(wrong) <= inexact_count, (str(one), label, wrong[:4])
    key = key_of(one)
    found, expected = (expected_columns(key, list(rows_of(part).values())) for part in (exported, text))
    for name, column in expected.items():
        assert found[name].tobytes() == column.tobytes(), (label, name)


def check_columnar(
    folder: CacheFolder, key: ckvd.SeriesKey, span: ckvd.Span, rows: Sequence[Row], target: Path
) -> None:
    expected = expected_columns(key, rows)
    for file_format in (ExportFormat.NPZ, ExportFormat.ARROW, ExportFormat.PARQUET):
        if file_format is not ExportFormat.NPZ:
            pytest.importorskip("pyarrow")
        (file,) = export_series(folder, key, target / "columns", file_format=file_format, span=span)
        columns = read_columns(file.path, file_format)
        for name in names_of(key):
            assert columns[name].tobytes() == expected[name].tobytes(), (file_format, name)


def read_columns(path: Path, file_format: ExportFormat) -> dict[str, np.ndarray[Any, Any]]:
    if file_format is ExportFormat.NPZ:
        with np.load(path) as arrays:
            return dict(arrays)
    from pyarrow import feather, parquet  # noqa: PLC0415  (an extra)

    table = (feather if file_format is ExportFormat.ARROW else parquet).read_table(path)
    return {
        name: table[name].combine_chunks().to_numpy(zero_copy_only=False).astype("<i8")
        if name.endswith("_time")
        else table[name].combine_chunks().to_numpy(zero_copy_only=False)
        for name in table.column_names
    }
