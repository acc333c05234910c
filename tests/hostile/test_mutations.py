"""Mutants of all that comes from outside: archives, segments, listings and answers, on the paths that users take.

Whatever the bytes are, the outcome is the right bars or an error of ckvd. No other exception comes out, nothing is
waited for, and no bar differs from what the text says. `make test` tries a sample, `make mutations` many more; the
seeds are fixed.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import random
import struct
import zipfile
import zlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

import ckvd
from ckvd.cache import CacheFolder
from ckvd.errors import CkvdError
from ckvd.maintenance.verification import Severity, verify_cache
from ckvd.model.calendar import Cadence
from ckvd.model.table import fields_of
from ckvd.model.timespan import Span
from ckvd.network.retry import RetryPolicy
from ckvd.segment.layout import COLUMN_ENTRY_NBYTES, COLUMN_STRUCT, PREAMBLE_NBYTES, Encoding
from hostile.looks import DAY, SERIES, fill, look_at, segment_of
from hostile.mutants import field, mutants, with_checksum
from support.archives import columns_of, make_archive, path_of, to_ms, zip_text
from support.loopback.mirror import LISTING_PATH, Mirror, publish
from support.venue import HOURS, Venue, hours

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from support.archives import Rows
    from support.loopback.reply import Reply

IS_WHOLE = os.environ.get("CKVD_MUTATIONS") == "whole"
TIMEOUT_S = 3600 if IS_WHOLE else 60
# How many times the sample the whole is.
FACTOR: Final = 50 if IS_WHOLE else 1
MARCH = Span.of("2023-03-01", "2023-04-01")
FIELDS = fields_of(SERIES)


# --- Archives ----------------------------------------------------------------------------------------------


def symbol_of(number: int) -> str:
    return f"M{number:05}USDT"


def original_csv(symbol: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(make_archive(path_of(symbol, "1d", "2023-03")))) as archive:
        return archive.read(archive.namelist()[0])


def rows_in(text: bytes) -> Rows:
    """The bars of March in a CSV, as `csv`, `int` and `float` read them. Of one open time, the last row counts."""
    rows: Rows = {}
    for row in csv.reader(io.StringIO(text.decode("latin-1"))):
        if row and row[0] != "open_time" and to_ms(row[0]) in MARCH:
            rows[to_ms(row[0])] = row
    return dict(sorted(rows.items()))


def mutated_archives(seed: int, count: int) -> Iterator[tuple[str, bytes, bytes]]:
    """For each symbol a mutant of its archive, and the CSV that it has if it has any."""
    for number in range(count):
        symbol = symbol_of(number)
        path = path_of(symbol, "1d", "2023-03")
        text = original_csv(symbol)
        if number % 2:
            (text,) = mutants(text, seed + number, 1)
            yield symbol, zip_text(path.rpartition("/")[2], [text.decode("latin-1")]), text
        else:
            (mutant,) = mutants(make_archive(path), seed + number, 1)
            yield symbol, mutant, text


def download(source: str | Path, cache: Path, symbols: Sequence[str], **options: Any) -> ckvd.DownloadReport:
    async def main() -> ckvd.DownloadReport:
        retry = RetryPolicy(2, backoff_first_s=0)
        async with ckvd.VisionDataClient(source, cache=cache, retry=retry, **options) as client:
            return await client.download(symbols, "1d", start="2023-03-01", end="2023-04-01")

    return asyncio.run(main())


@pytest.mark.parametrize(("is_served", "count"), [(False, 60), (True, 12)], ids=["in a folder", "served"])
def test_a_mutated_archive_is_read_as_its_text_says_or_refused_by_name(
    tmp_path: Path, is_served: bool, count: int
) -> None:
    made = list(mutated_archives(1000 * is_served, count * FACTOR))
    for symbol, content, _ in made:
        publish(tmp_path / "mirror", path_of(symbol, "1d", "2023-03"), content)
    symbols = [symbol for symbol, _, _ in made]
    if is_served:
        with Mirror(tmp_path / "mirror") as mirror:
            report = download(mirror.base_url, tmp_path / "cache", symbols, listing_url=mirror.listing_url)
    else:
        report = download(tmp_path / "mirror", tmp_path / "cache", symbols)
    errors = {archive.series.symbol: archive.error for archive in report.archives if archive.error is not None}
    outcomes = {"read": 0, "refused": 0}
    with ckvd.open_cache(tmp_path / "cache") as cache:
        for symbol, _, text in made:
            if symbol in errors:
                assert symbol in str(errors[symbol])
                outcomes["refused"] += 1
                continue
            klines = cache.read(symbol, "1d", start="2023-03-01", end="2023-04-01", missing="ignore")
            assert_bars(klines, rows_in(text))
            outcomes["read"] += 1
    assert min(outcomes.values()) > 0, outcomes


def assert_bars(klines: Any, rows: Rows) -> None:
    assert len(klines) == len(rows)
    for name, expected in columns_of({key: list(row) for key, row in rows.items()}, FIELDS).items():
        assert klines[name].tobytes() == np.array(expected, klines[name].dtype).tobytes(), name


# --- Segments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_bars", [True, False])
def test_a_mutated_segment_is_found_by_verification_or_has_the_right_bars(tmp_path: Path, has_bars: bool) -> None:
    folder = fill(CacheFolder(tmp_path), has_bars=has_bars)
    path = segment_of(folder)
    whole = path.read_bytes()
    right = bars_of(folder)
    for mutant in mutants(whole, 2000, 30 * FACTOR):
        path.write_bytes(mutant)
        if not any(finding.severity is Severity.ERROR for finding in verify_cache(folder)):
            assert bars_of(folder) == right
        elif isinstance(found := outcome_of(folder), CkvdError):
            assert str(path) in str(found)


def bars_of(folder: CacheFolder) -> dict[str, bytes]:
    with ckvd.open_cache(folder.root) as cache:
        klines = cache.read_series(SERIES, DAY, missing="ignore")
        return {name: klines[name].tobytes() for name in FIELDS} | {"gaps": str(klines.gaps).encode()}


def outcome_of(folder: CacheFolder) -> object:
    try:
        return bars_of(folder)
    except CkvdError as error:
        return error


@pytest.mark.parametrize("has_bars", [True, False])
def test_a_mutated_header_with_the_right_checksum_is_read_or_refused_by_all_alike(
    tmp_path: Path, has_bars: bool
) -> None:
    folder = fill(CacheFolder(tmp_path), has_bars=has_bars)
    path = segment_of(folder)
    whole = path.read_bytes()
    header_nbytes = field(whole, "header_nbytes")
    for mutant in mutants(whole[16:header_nbytes], 3000, 12 * FACTOR):
        # Of the same length: what is cut or longer is refused before its checksum is looked at.
        header = whole[:16] + mutant[: header_nbytes - 16].ljust(header_nbytes - 16, b"\0")
        path.write_bytes(with_checksum(header + whole[header_nbytes:], header_nbytes))
        look_at(folder, path)


TIMES: Final = (0, -1, 2**63 - 1, -(2**63), 10**15, 253_402_300_800_000, DAY.start_ms, DAY.end_ms)
NUMBERS: Final = (float("nan"), float("inf"), float("-inf"), 1e308, -0.0, 5e-324)


def with_odd_columns(content: bytes, seed: int) -> bytes:
    """A segment of which some cells are odd, or how they are written, with the right checksums of all."""
    source = random.Random(seed)
    changed = bytearray(content)
    rows = field(content, "row_count")
    for _ in range(source.choice((1, 1, 2))):
        entry = PREAMBLE_NBYTES + COLUMN_ENTRY_NBYTES * source.randrange(field(content, "column_count"))
        name, _, encoding, _, _, _, offset, _ = COLUMN_STRUCT.unpack_from(changed, entry)
        is_whole = name.rstrip(b"\0").endswith((b"_time", b"count"))
        values = (
            [struct.pack("<q", time) for time in TIMES] if is_whole else [struct.pack("<d", x) for x in NUMBERS]
        )
        if encoding == Encoding.STORED:
            for row in source.sample(range(rows), source.choice((1, 3, rows))):
                struct.pack_into("8s", changed, offset + 8 * row, source.choice(values))
            struct.pack_into("<I", changed, entry + 40, zlib.crc32(changed[offset : offset + 8 * rows]))
        else:
            struct.pack_into("8s", changed, entry + 56, source.choice(values))
        struct.pack_into("BB", changed, entry + 37, source.randrange(256), source.randrange(256))  # decimals
    return with_checksum(bytes(changed))


def test_odd_cells_with_the_right_checksums_are_read_or_refused_by_all_alike(tmp_path: Path) -> None:
    folder = fill(CacheFolder(tmp_path), has_bars=True)
    path = segment_of(folder)
    whole = path.read_bytes()
    with np.errstate(all="ignore"):  # the sum of the odd numbers, which the test makes
        for seed in range(12 * FACTOR):
            path.write_bytes(with_odd_columns(whole, 7000 + seed))
            look_at(folder, path)


# --- Listings ----------------------------------------------------------------------------------------------


def test_a_mutated_listing_is_one_of_the_series_or_refused(tmp_path: Path) -> None:
    labels = ["2023-01", "2023-02", "2023-03"]
    for label in labels:
        path = path_of("BTCUSDT", "1d", label)
        publish(tmp_path / "mirror", path, make_archive(path))
    series = ckvd.SeriesKey.of("BTCUSDT", "1d")
    refusals: list[str] = []
    listed_count: list[int] = []

    async def look_up(mirror: Mirror) -> None:
        retry = RetryPolicy(2, backoff_first_s=0)
        options: dict[str, Any] = {"cache": tmp_path / "cache", "listing_url": mirror.listing_url, "retry": retry}
        async with ckvd.VisionDataClient(mirror.base_url, **options) as client:
            for seed in range(40 * FACTOR):
                mirror.script(LISTING_PATH, partial(with_mutated_body, seed=4000 + seed))
                try:
                    listed = await client.archives.list_archives(series, Cadence.MONTHLY)
                except CkvdError as error:
                    refusals.append(str(error))
                else:
                    assert all(archive.name.series == series for archive in listed)
                    assert all(archive.name.path.startswith("data/") for archive in listed)
                    listed_count.append(len(listed))

    with Mirror(tmp_path / "mirror", page_size=4) as mirror:
        asyncio.run(look_up(mirror))
    assert all(map(str.isprintable, refusals))
    assert refusals
    assert listed_count


def with_mutated_body(reply: Reply, seed: int) -> Reply:
    (body,) = mutants(reply.body, seed, 1)
    return replace(reply, body=body)


# --- Answers of the exchange -------------------------------------------------------------------------------

GENUINE = hours("2024-03-01", "2024-03-02")
ANSWERED = Span.of("2024-03-01", "2024-03-02")


def ask(venue: Venue) -> dict[int, list[float]] | CkvdError:
    async def main() -> dict[int, list[float]] | CkvdError:
        async with venue.rest_client() as client:
            try:
                answer = await client.fetch(HOURS, ANSWERED)
            except CkvdError as error:
                return error
        columns = [answer.table.columns[name].tolist() for name in FIELDS]
        return {int(row[0]): list(map(float, row)) for row in zip(*columns, strict=True)}

    return asyncio.run(main())


def rows_of(body: bytes) -> dict[int, list[float]]:
    """The rows of an answer, as `json` and `float` read them; none if it is no JSON."""
    try:
        rows = {number: list(map(str, row)) for number, row in enumerate(json.loads(body))}
        cells = zip(*columns_of(rows, FIELDS).values(), strict=True)
        return {int(row[0]): list(map(float, row)) for row in cells}
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError):
        return {}


def assert_right(found: Mapping[int, list[float]] | CkvdError, said: Mapping[int, list[float]]) -> None:
    """Each bar is one that the server sent: in a mutated answer, or in a genuine one that was asked for next."""
    assert not isinstance(found, CkvdError) or str(found).isprintable()
    genuine = rows_of(json.dumps(GENUINE).encode())
    for open_ms, row in () if isinstance(found, CkvdError) else found.items():
        assert row in (said.get(open_ms), genuine.get(open_ms))


def test_a_mutated_answer_is_read_as_its_text_says_or_refused(tmp_path: Path) -> None:
    outcomes = {"read": 0, "refused": 0}
    bodies: list[bytes] = []

    def mutated(reply: Reply, seed: int) -> Reply:
        changed = with_mutated_body(reply, seed)
        bodies.append(changed.body)
        return changed

    with Venue(tmp_path, "2024-04-01") as venue:
        venue.exchange.publish(HOURS, GENUINE)
        for seed in range(40 * FACTOR):
            venue.time.advance(60_000)
            venue.exchange.script(partial(mutated, seed=5000 + seed))
            found = ask(venue)
            assert_right(found, rows_of(bodies[-1]))
            outcomes["refused" if isinstance(found, CkvdError) else "read"] += 1
    assert len(bodies) == 40 * FACTOR
    assert min(outcomes.values()) > 0, outcomes


HEADERS = (
    "Date",
    "Content-Type",
    "Retry-After",
    "X-MBX-USED-WEIGHT-1M",
    "X-MBX-USED-WEIGHT",
    "Content-Encoding",
    "Server",
)
VALUES = (
    "",
    "-1",
    "0",
    "1e400",
    "9" * 400,
    "9" * 5000,
    "nan",
    "\x1b[31m",
    "Fri, 31 Feb 2099 25:61:61 GMT",
    "gzip",
    "ü",
)


def with_mutated_headers(reply: Reply, seed: int) -> Reply:
    source = random.Random(seed)
    headers = dict(reply.headers) | {source.choice(HEADERS): source.choice(VALUES) for _ in range(3)}
    status = source.choice((200, 200, 200, 201, 204, 206, 301, 403, 418, 429, 451, 500, 503, 599))
    body = (
        reply.body if status < 300 else source.choice((b"", b'{"code":-1003,"msg":"\\u001b[2J until 9"}', b"<a>"))
    )
    return replace(reply, status=status, headers=headers, body=body)


@pytest.mark.parametrize("seed", range(3 * FACTOR))
def test_mutated_headers_lead_to_the_right_bars_or_to_an_error_on_one_line(tmp_path: Path, seed: int) -> None:
    # A host that bans is not asked again: each answer comes from a new one.
    for number in range(6):
        place = tmp_path / str(number)
        place.mkdir()
        with Venue(place, "2024-04-01") as venue:
            venue.exchange.publish(HOURS, GENUINE)
            venue.exchange.script(partial(with_mutated_headers, seed=6000 + 6 * seed + number))
            assert_right(ask(venue), {})
