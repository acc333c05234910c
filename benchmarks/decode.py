"""How fast are the rows of a CSV parsed, on one thread and on two?"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.material import csv_of, make_table, minutes
from benchmarks.measure import Effort, Result, Target, Timing, take_turns
from benchmarks.peers import load
from ckvd.decode.rows import parse_rows
from ckvd.model.schema import FIELD_COUNT, INTEGER_FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckvd.model.table import Column

OURS, OURS_TWICE = "ckvd", "ckvd, two texts on two threads"
POLARS, PANDAS, PYARROW = "polars, one thread", "pandas", "pyarrow, one thread"
FIELDS = tuple(f"field_{field}" for field in range(FIELD_COUNT))
ONE_THREAD = {"POLARS_MAX_THREADS": "1", "ARROW_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def run(folder: Path, effort: Effort) -> list[Result]:  # noqa: ARG001 - nothing is written
    """Run `main` in a process of its own, because polars takes its number of threads when it is imported."""
    argv = [sys.executable, "-m", "benchmarks.decode", *(["--quick"] if effort.is_quick else [])]
    done = subprocess.run(
        argv,
        env=os.environ | ONE_THREAD,
        cwd=Path(__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    timings = {name: Timing(**values) for name, values in found["timings"].items()}
    own_s = timings[OURS].median_s
    targets = [
        Target(f"decode alone, one thread, against {peer}", wanted, timings[peer].median_s / own_s)
        for peer, wanted in ((POLARS, 0.9), (PANDAS, 3.5))
        if peer in timings
    ]
    megarows_s = found["row_count"] / own_s / 1e6
    two_threads = 2 * own_s / timings[OURS_TWICE].median_s
    return [
        Result(
            "decode",
            "How long does it take from the text of a month to twelve arrays?",
            f"{found['row_count']:,} rows of spot minutes, {found['nbytes'] / 1e6:.1f} MB",
            "warm; every cell of every peer is the same, bit for bit",
            tuple(timings.values()),
            tuple(targets),
            (
                f"ckvd: {megarows_s:.2f} million rows a second, {two_threads:.2f} times as many on two threads",
                *(f"{name} is not installed: skipped" for name in found["missing"]),
            ),
        )
    ]


def contenders_of(text: bytes) -> tuple[dict[str, Callable[[], Sequence[Column]]], list[str]]:
    """The contenders that parse a text, and the packages that are not installed."""
    modules = load("polars", "pandas", "pyarrow")
    contenders: dict[str, Callable[[], Sequence[Column]]] = {OURS: partial(_with_ckvd, text)}
    if modules["polars"]:
        contenders[POLARS] = partial(_with_polars, modules["polars"], text)
    if modules["pandas"]:
        contenders[PANDAS] = partial(_with_pandas, modules["pandas"], text)
    if modules["pyarrow"]:
        contenders[PYARROW] = partial(_with_pyarrow, modules["pyarrow"], text)
    return contenders, [name for name, module in modules.items() if module is None]


def _with_ckvd(text: bytes) -> Sequence[Column]:
    return parse_rows(text, "benchmark.csv").cells


def _with_polars(polars: Any, text: bytes) -> Sequence[Column]:
    types = {name: polars.Int64 if field in INTEGER_FIELDS else polars.Float64 for field, name in enumerate(FIELDS)}
    frame = polars.read_csv(text, has_header=False, schema=types).rechunk()
    return [frame[name].to_numpy() for name in FIELDS]


def _with_pandas(pandas: Any, text: bytes) -> Sequence[Column]:
    types = {name: np.int64 if field in INTEGER_FIELDS else np.float64 for field, name in enumerate(FIELDS)}
    # Before version 3, the default parser was not exact.
    exact = {} if int(pandas.__version__.partition(".")[0]) >= 3 else {"float_precision": "round_trip"}
    frame = pandas.read_csv(io.BytesIO(text), header=None, names=FIELDS, dtype=types, engine="c", **exact)
    return [frame[name].to_numpy() for name in FIELDS]


def _with_pyarrow(pyarrow: Any, text: bytes) -> Sequence[Column]:
    from pyarrow import csv  # noqa: PLC0415 - it may not be installed

    types = {name: pyarrow.int64() if f in INTEGER_FIELDS else pyarrow.float64() for f, name in enumerate(FIELDS)}
    table = csv.read_csv(
        pyarrow.BufferReader(text),
        csv.ReadOptions(column_names=FIELDS, use_threads=False, block_size=len(text)),
        convert_options=csv.ConvertOptions(column_types=types),
    )
    return [table[name].to_numpy() for name in FIELDS]


def main(*, is_quick: bool) -> None:
    """Time the contenders in this process, and print the timings as JSON."""
    effort = Effort(is_quick)
    series, span = minutes(1, day_count=effort.of(31, 2))
    table = make_table(series, span)
    text = csv_of(table).encode()
    contenders, missing = contenders_of(text)
    own = contenders[OURS]()
    for name, contender in contenders.items():
        for field, cells in enumerate(contender()):
            assert np.asarray(cells).tobytes() == own[field].tobytes(), (name, FIELDS[field])
    for made, read in zip(table.columns.values(), own, strict=True):
        assert made.tobytes() == read.tobytes()
    with ThreadPoolExecutor(2) as pool:

        def twice() -> None:
            list(pool.map(parse_rows, (text, text), ("one.csv", "other.csv")))

        timings = take_turns({**contenders, OURS_TWICE: twice}, round_count=effort.of(25, 1), turn_s=0.05)
    found = {name: dataclasses.asdict(timing) for name, timing in timings.items()}
    print(json.dumps({"timings": found, "missing": missing, "row_count": table.row_count, "nbytes": len(text)}))


if __name__ == "__main__":
    main(is_quick="--quick" in sys.argv)
