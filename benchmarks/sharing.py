"""How much memory do eight processes need that read one cache?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.material import make_table, minutes, store
from benchmarks.measure import Result, Target

if TYPE_CHECKING:
    from benchmarks.measure import Effort

PROCESS_COUNT = 8
# Reads everything, sums six columns, and prints the sum. When told, it measures its share of the memory.
_WORKER = """
import sys
from pathlib import Path
import ckvd
root, start, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with ckvd.open_cache(root) as cache:
    klines = cache.read("BTCUSDT", "1m", start=start, end=end)
    columns = [klines[name] for name in ("open_time", "open", "high", "low", "close", "volume")]
    print(repr(float(sum(column.sum() for column in columns))), flush=True)
    sys.stdin.readline()
    mapped = private = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0]:
            is_data = root in line
        elif fields[0] == "Pss:":
            mapped += int(fields[1]) * is_data
            private += int(fields[1]) * (not is_data)
    print(mapped, private, flush=True)
    sys.stdin.readline()
"""


def run(folder: Path, effort: Effort) -> list[Result]:
    """Compare proportional set sizes: each of eight processes counts an eighth of a shared page. Linux only."""
    if not Path("/proc/self/smaps_rollup").exists():
        return []
    series, span = minutes(5, day_count=effort.of(0, 30))
    root = folder / "cache"
    store(root, make_table(series, span), span)
    argv = [sys.executable, "-c", _WORKER, str(root), str(span.start_ms), str(span.end_ms)]
    one_data, one_rest = _measure(argv, 1)
    all_data, all_rest = _measure(argv, PROCESS_COUNT)
    notes = (
        f"data mapped: {one_data / 1024:.1f} MB by one process, {all_data / 1024:.1f} MB by all together",
        f"the rest, which no cache can share: {one_rest / 1024:.1f} MB by one, {all_rest / 1024:.1f} MB by all",
    )
    target = Target(
        f"{PROCESS_COUNT} processes on one cache, memory of the data against one",
        1.2,
        all_data / one_data,
        is_at_least=False,
    )
    return [
        Result(
            "sharing",
            f"How much more memory do {PROCESS_COUNT} processes need than one, that all use six columns?",
            f"1m bars of {span}",
            "proportional set size, from /proc/self/smaps",
            (),
            (target,),
            notes,
        )
    ]


def _measure(argv: list[str], process_count: int) -> tuple[int, int]:
    workers = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(process_count)
    ]
    try:
        sums = {_ask(worker, tell=False) for worker in workers}
        assert len(sums) == 1, sums
        shares = [tuple(map(int, _ask(worker).split())) for worker in workers]
    finally:
        for worker in workers:
            worker.communicate("\n")
    return sum(share[0] for share in shares), sum(share[1] for share in shares)


def _ask(worker: subprocess.Popen[str], *, tell: bool = True) -> str:
    assert worker.stdin is not None
    assert worker.stdout is not None
    if tell:
        worker.stdin.write("\n")
        worker.stdin.flush()
    return worker.stdout.readline()
