"""Run all benchmarks, print the table of targets, and write it to benchmarks/RESULTS.md.

`python -m benchmarks` takes some minutes. `--quick` takes some seconds, and its figures mean nothing. Names select
benchmarks.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import report
from benchmarks.measure import Effort

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measure import Result

NAMES = (
    *("decode", "ingest", "read", "scan", "panel", "growth", "universe", "funding", "resample", "append"),
    *("update", "sharing", "release", "import_time", "command"),
)


def run(names: Sequence[str], effort: Effort) -> list[Result]:
    results: list[Result] = []
    for name in names:
        start_s = time.perf_counter()
        print(f"{name} ...", end=" ", flush=True, file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="ckvd-benchmark-") as folder:
            results += importlib.import_module(f"benchmarks.{name}").run(Path(folder), effort)
        print(f"{time.perf_counter() - start_s:.1f} s", file=sys.stderr)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(NAMES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="little data, one round: shows that everything works")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: expected any of {', '.join(NAMES)}")
    where = report.machine()
    results = run(options.names or NAMES, Effort(options.quick))
    print(report.to_markdown(results, where))
    if not options.quick and not options.names:
        for path in report.write(results, where, Path(__file__).parent):
            print(f"written: {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
