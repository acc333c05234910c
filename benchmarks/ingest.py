"""How long does it take from a year of ZIPs on the disk to bars that can be read?"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

import ckvd
from benchmarks.breakdown import Steps
from benchmarks.material import SYMBOL, make_table, minutes, write_archives
from benchmarks.measure import Result, Target, files_under, heat, take_turns
from benchmarks.peers import load
from ckvd.acquisition.ingest import expected_of
from ckvd.cache import CacheFolder, SeriesStore
from ckvd.decode.decode import Expected, decode_rows
from ckvd.decode.rows import RowParser
from ckvd.decode.unzip import find_csv
from ckvd.decode.workspace import Workspace
from ckvd.model.calendar import Cadence
from ckvd.model.table import fields_of
from ckvd.model.timespan import Span
from ckvd.vision.name import ArchiveName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.measure import Effort

OURS, OURS_DAILY, INFLATE = "ckvd, 12 monthly archives", "ckvd, 365 daily archives", "inflate alone, two threads"
OURS_PACKED = "ckvd, 12 monthly archives, packed into one segment as well"
POLARS, PANDAS = "zipfile + polars to Arrow IPC", "pandas to Parquet"


def run(folder: Path, effort: Effort) -> list[Result]:
    """Ingest the same ZIPs with all contenders. Only `ckvd` verifies checksums and flushes to disk."""
    series, span = minutes(1, day_count=effort.of(0, 31))
    table = make_table(series, span)
    months = write_archives(folder / "monthly", table, span, Cadence.MONTHLY)
    days = write_archives(folder / "daily", table, span, Cadence.DAILY)
    target = folder / "target"
    modules = load("polars", "pandas", "pyarrow")
    names = fields_of(series)
    contenders: dict[str, Callable[[], object]] = {
        OURS: partial(_download, folder / "monthly", target, span),
        OURS_DAILY: partial(_download, folder / "daily", target, span),
        OURS_PACKED: partial(_download, folder / "monthly", target, span, is_packed=True),
        INFLATE: partial(_inflate, folder / "monthly", months),
    }
    if modules["polars"]:
        contenders[POLARS] = partial(_with_polars, modules["polars"], months, names, target)
    if modules["pandas"] and modules["pyarrow"]:
        contenders[PANDAS] = partial(_with_pandas, modules["pandas"], months, names, target)
    tidy = partial(_empty, target)
    for name, call in contenders.items():
        tidy()
        closes = call()
        assert name == INFLATE or np.array_equal(closes, table.columns["close"]), name
    warm = partial(heat, files_under(folder / "monthly", folder / "daily"))
    timings = take_turns(contenders, round_count=effort.of(7, 1), prepare=warm, tidy=tidy, turn_s=0, calls_max=1)
    own_s = timings[OURS].median_s
    targets = [
        Target(
            f"ZIPs to published segments, 12 months of 1m, against {peer}", times, timings[peer].median_s / own_s
        )
        for peer, times in ((POLARS, 1.8), (PANDAS, 4))
        if peer in timings
    ]
    inflate_s, daily_s = timings[INFLATE].median_s, timings[OURS_DAILY].median_s
    targets.append(Target("the same, against inflating alone", 4, own_s / inflate_s, is_at_least=False))
    targets.append(
        Target("365 daily archives, against the same rows as 12 months", 2, daily_s / own_s, is_at_least=False)
    )
    megarows_s = table.row_count / own_s / 1e6
    by_month = [[path] for path in months]
    of_days = [[day for day in days if day.stem.startswith(path.stem)] for path in months]
    profiles = {
        OURS: _profile(folder / "monthly", by_month, target, effort),
        OURS_DAILY: _profile(folder / "daily", of_days, target, effort),
    }
    return [
        Result(
            "ingest",
            "How long does it take from ZIPs on the disk to bars that can be read?",
            f"{table.row_count:,} bars of {span}: {len(months)} monthly, {len(days)} daily archives",
            "warm; into an empty folder each time",
            tuple(timings.values()),
            tuple(targets),
            (
                f"ckvd, monthly archives: {megarows_s:.2f} million rows a second",
                *(
                    f"where it goes, {name}: on one thread, one after the other, {steps}; the download with its "
                    f"threads takes {timings[name].median_s / steps.whole_s:.2f} of that"
                    for name, steps in profiles.items()
                ),
                *(
                    f"{name} is not installed: skipped"
                    for name in ("polars", "pandas", "pyarrow")
                    if not modules[name]
                ),
            ),
        )
    ]


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _download(mirror: Path, target: Path, span: Span, *, is_packed: bool = False) -> Any:
    asyncio.run(_fetch(mirror, target, span, is_packed=is_packed))
    with ckvd.open_cache(target) as cache:
        return cache.read(SYMBOL, "1m", start=span.start_ms, end=span.end_ms).close


async def _fetch(mirror: Path, root: Path, span: Span, *, is_packed: bool) -> None:
    series = [ckvd.SeriesKey.of(SYMBOL, "1m")]
    async with ckvd.VisionDataClient(mirror, cache=root, is_checksum_required=True) as client:
        bring = client.download_series if is_packed else client.fetch_archives
        report = await bring(series, span)
    assert not any(report.missing.values()), report


def _profile(mirror: Path, groups: Sequence[Sequence[Path]], target: Path, effort: Effort) -> Steps:
    """Time the steps that a download takes after fetching. The archives of a group are stored as one."""
    steps, workspace = Steps(), Workspace()
    for _ in range(effort.of(5, 1)):
        _empty(target)
        with steps.walk():
            for paths in groups:
                _ingest_by_step(mirror, paths, CacheFolder.at(target), steps, workspace)
    return steps


def _ingest_by_step(
    mirror: Path, paths: Sequence[Path], target: CacheFolder, steps: Steps, workspace: Workspace
) -> None:
    names = [_name_of(mirror, path) for path in paths]
    with steps.step("reading and hashing"):
        contents = [path.read_bytes() for path in paths]
        _ = [hashlib.sha256(content).hexdigest() for content in contents]
    parser = RowParser(
        "benchmark.csv", row_count=sum(expected_of(name).usual_row_count for name in names), workspace=workspace
    )
    for content, name in zip(contents, names, strict=True):
        with steps.step("inflating"):
            pieces = list(_pieces(content, name))
        with steps.step("parsing"):
            for piece in pieces:
                parser.feed(piece)
            parser.end_text()
    with steps.step("parsing"):
        rows = parser.finish().whole
    series, span = names[0].series, Span(names[0].period.start_ms, names[-1].period.span.end_ms)
    with steps.step("checking rows"):
        decoded = decode_rows(rows, Expected(series, span, "benchmark.csv"))
    with steps.step("writing and flushing"):
        SeriesStore(target, series).put(decoded.table, span)


def _name_of(mirror: Path, path: Path) -> ArchiveName:
    name = ArchiveName.of_path(path.relative_to(mirror).as_posix())
    assert name is not None, path
    return name


def _inflate(mirror: Path, paths: Sequence[Path]) -> int:
    left = SimpleQueue[Path]()
    for path in paths:
        left.put(path)
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(partial(_inflate_some, mirror), (left, left)))


def _inflate_some(mirror: Path, left: SimpleQueue[Path]) -> int:
    nbytes = 0
    with contextlib.suppress(Empty):
        while True:
            path = left.get_nowait()
            nbytes += sum(map(len, _pieces(path.read_bytes(), _name_of(mirror, path))))
    return nbytes


def _pieces(content: bytes, name: ArchiveName) -> Iterator[bytes]:
    nbytes_max = expected_of(name).csv_nbytes_max
    return find_csv(content, name.series, name.file_name, nbytes_max=nbytes_max).pieces()


def _with_polars(polars: Any, paths: Sequence[Path], names: Sequence[str], target: Path) -> Any:
    parts = []
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(archive.namelist()[0])
        parts.append(polars.read_csv(text, has_header=False, new_columns=list(names)))
    file = target / "polars.arrow"
    polars.concat(parts).write_ipc(file)
    return polars.scan_ipc(file).select("close").collect()["close"].to_numpy()


def _with_pandas(pandas: Any, paths: Sequence[Path], names: Sequence[str], target: Path) -> Any:
    parts = []
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            text = io.BytesIO(archive.read(archive.namelist()[0]))
        parts.append(pandas.read_csv(text, header=None, names=list(names), float_precision="round_trip"))
    file = target / "pandas.parquet"
    pandas.concat(parts).to_parquet(file)
    return pandas.read_parquet(file, columns=["close"])["close"].to_numpy()
