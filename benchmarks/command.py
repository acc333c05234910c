"""How long does the whole command take from archives to a cache, against what a user would write himself?

Whole processes, with the start of the interpreter and all imports: `ckvd download` from a mirror in a folder, which
verifies each archive, flushes to disk, looks for gaps and packs; and scripts that inflate with zipfile, parse with
polars and write Arrow IPC, in three arrangements: one archive after the other, in as many threads as processors,
and in threads with one file for each series. Scripts verify nothing and flush nothing.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.material import csv_of, make_table
from benchmarks.measure import Result, Target, files_under, heat, timing_of
from benchmarks.peers import load
from ckvd.model.calendar import Cadence, days_of, months_of
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span, format_time

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Effort

PEER: Final = """
import io, sys, zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import polars

names = ["open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count",
         "taker_buy_volume", "taker_buy_quote_volume", "ignore"]
mirror, target, arrangement, threads = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])

def read(path):
    with zipfile.ZipFile(path) as archive:
        return polars.read_csv(archive.read(archive.namelist()[0]), has_header=False, new_columns=names)

def write_archive(path):
    read(path).write_ipc(target / f"{path.stem}.arrow")

def write_series(folder):
    paths = sorted(folder.rglob("*.zip"))
    polars.concat(map(read, paths)).write_ipc(target / f"{folder.name}.arrow")

target.mkdir()
if arrangement == "series":
    work, items = write_series, sorted(mirror.glob("data/spot/*/klines/*"))
else:
    work, items = write_archive, sorted(mirror.rglob("*.zip"))
if threads == 1:
    for item in items:
        work(item)
else:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, items))
"""
# A process begins with the peak of the one that made it. This one has made archives, so a small one comes between.
LAUNCHER: Final = """
import resource, subprocess, sys, time
start_s = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
wall_s = time.perf_counter() - start_s
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
CORES: Final = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Load:
    """What is ingested.

    Attributes
    ----------
    name : str
    interval : str
    symbol_count : int
    span : Span
    cadence : Cadence
    times : float
        How many times as fast as the best peer the command should be.
    """

    name: str
    interval: str
    symbol_count: int
    span: Span
    cadence: Cadence
    times: float


LOADS: Final = (
    Load("8 symbols x 12 months of 1m", "1m", 8, Span.of("2022-01-01", "2023-01-01"), Cadence.MONTHLY, 2),
    Load("100 symbols x 24 months of 1h", "1h", 100, Span.of("2021-01-01", "2023-01-01"), Cadence.MONTHLY, 2),
    Load("726 days of 1m", "1m", 1, Span.of("2021-01-01", "2022-12-28"), Cadence.DAILY, 2),
    Load("a month of 1s", "1s", 1, Span.of("2022-01-01", "2022-02-01"), Cadence.MONTHLY, 1.5),
)
QUICK: Final = (
    Load("2 symbols x 1 month of 1h", "1h", 2, Span.of("2022-01-01", "2022-02-01"), Cadence.MONTHLY, 2),
)


def run(folder: Path, effort: Effort) -> list[Result]:
    """Each load by itself: its archives are made, ingested by all contenders in turn, and removed."""
    results = []
    for load_ in QUICK if effort.is_quick else LOADS:
        place = folder / "command"
        place.mkdir()
        results.append(_measure(place, load_, effort))
        shutil.rmtree(place)
    return results


def _measure(folder: Path, wanted: Load, effort: Effort) -> Result:
    mirror, target = folder / "mirror", folder / "target"
    row_count, nbytes = _make_mirror(mirror, wanted)
    commands = {"ckvd download": _command_of(mirror, target, wanted)}
    if load("polars")["polars"]:
        for name, arrangement, threads in (
            ("zipfile + polars, a loop", "archives", 1),
            (f"the same in {CORES} threads", "archives", CORES),
            (f"in {CORES} threads, one file a series", "series", CORES),
        ):
            argv = [sys.executable, "-c", PEER, str(mirror), str(target), arrangement, str(threads)]
            commands[name] = argv
    walls: dict[str, list[float]] = {name: [] for name in commands}
    processor_s: dict[str, list[float]] = {name: [] for name in commands}
    peaks: dict[str, int] = dict.fromkeys(commands, 0)
    for _ in range(effort.of(5, 1)):
        for name, argv in commands.items():
            heat(files_under(mirror))
            wall_s, spent_s, peak_nbytes = _run(argv)
            walls[name].append(wall_s)
            processor_s[name].append(spent_s)
            peaks[name] = max(peaks[name], peak_nbytes)
            shutil.rmtree(target)
    timings = {name: timing_of(name, values) for name, values in walls.items()}
    own_s, *others_s = (timing.median_s for timing in timings.values())
    targets: tuple[Target, ...] = ()
    if others_s:
        name = f"the command, {wanted.name}, against the best of zipfile + polars"
        targets = (Target(name, wanted.times, min(others_s) / own_s),)
    notes = [
        f"{name}: {sorted(processor_s[name])[len(walls[name]) // 2]:.2f} s of processor time, "
        f"{peaks[name] / 1e6:.0f} MB at its peak"
        for name in commands
    ]
    return Result(
        f"command, {wanted.name}",
        "How long does the whole command take from archives on the disk to a cache?",
        f"{row_count:,} bars in archives of {nbytes / 1e6:.0f} MB",
        "warm; whole processes, in turn; into an empty folder each time",
        tuple(timings.values()),
        targets,
        tuple(notes),
    )


def _command_of(mirror: Path, target: Path, wanted: Load) -> list[str]:
    symbols = [_symbol(number) for number in range(wanted.symbol_count)]
    start, end = format_time(wanted.span.start_ms), format_time(wanted.span.end_ms)
    return [
        *(
            sys.executable,
            "-m",
            "ckvd",
            "download",
            *symbols,
            "-i",
            wanted.interval,
            "--start",
            start,
            "--end",
            end,
        ),
        *("--cache", str(target), "--vision-url", str(mirror), "--no-rest", "--quiet"),
    ]


def _symbol(number: int) -> str:
    return f"COIN{number:03}USDT"


def _make_mirror(mirror: Path, wanted: Load) -> tuple[int, int]:
    """Write the archives of all symbols, which have the same bars; return how many bars and bytes."""
    series = SeriesKey.of(_symbol(0), wanted.interval)
    table = make_table(series, wanted.span)
    nbytes = 0
    for period in (months_of if wanted.cadence is Cadence.MONTHLY else days_of)(wanted.span):
        start, stop = table.open_time.searchsorted([period.span.start_ms, period.span.end_ms])
        text = csv_of(table.rows(int(start), int(stop)))
        for number in range(wanted.symbol_count):
            symbol = _symbol(number)
            stem = f"{symbol}-{wanted.interval}-{period.label}"
            folder = mirror / f"data/spot/{wanted.cadence}/klines/{symbol}/{wanted.interval}"
            folder.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(f"{stem}.csv", text)
            content = buffer.getvalue()
            nbytes += len(content)
            (folder / f"{stem}.zip").write_bytes(content)
            checksum = f"{hashlib.sha256(content).hexdigest()}  {stem}.zip"
            (folder / f"{stem}.zip.CHECKSUM").write_text(checksum, encoding="utf-8")
    return table.row_count * wanted.symbol_count, nbytes


def _run(argv: list[str]) -> tuple[float, float, int]:
    """Run a process; return its time, its processor time, and the most memory that it or a child of it had."""
    finished = subprocess.run([sys.executable, "-c", LAUNCHER, *argv], check=True, capture_output=True, text=True)
    wall_s, processor_s, peak_kb = map(float, finished.stdout.split())
    return wall_s, processor_s, int(peak_kb) * 1024
