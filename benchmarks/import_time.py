"""How long does `import ckvd` take, compared with `import numpy`?"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.measure import Result, Target, timing_of

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Effort

FORBIDDEN = ("curl_cffi", "click", "tqdm", "zipfile", "platformdirs")


def run(folder: Path, effort: Effort) -> list[Result]:  # noqa: ARG001 - nothing is written
    """Time whole processes in turns. Both include the start of the interpreter."""
    statements = {
        "python alone": "pass",
        "import numpy": "import numpy",
        "import ckvd": "import ckvd; ckvd.open_cache",
    }
    runs: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(effort.of(25, 1)):
        for name, statement in statements.items():
            start_s = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            runs[name].append(time.perf_counter() - start_s)
    check = f"import sys, ckvd; ckvd.open_cache; print([name for name in {FORBIDDEN} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", check], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert loaded == "[]", f"`import ckvd` loads {loaded}"
    timings = {name: timing_of(name, values) for name, values in runs.items()}
    ratio = timings["import ckvd"].median_s / timings["import numpy"].median_s
    profile = _profile()
    return [
        Result(
            "import",
            "How long does a process take that only imports it?",
            "",
            "warm: bytecode compiled before",
            tuple(timings.values()),
            (Target("`import ckvd` against `import numpy`, whole processes", 1.5, ratio, is_at_least=False),),
            (f"what it adds to numpy, with what each brings along: {profile}",),
        )
    ]


def _profile() -> str:
    argv = [sys.executable, "-X", "importtime", "-c", "import numpy, ckvd; ckvd.open_cache"]
    lines = subprocess.run(argv, check=True, capture_output=True, text=True).stderr.splitlines()
    after = lines[next(number for number, line in enumerate(lines) if line.endswith("| numpy")) + 1 :]
    rows = [line.removeprefix("import time:").split("|") for line in after]
    slowest = sorted(rows, key=lambda row: int(row[1]), reverse=True)
    shown = [
        (row[2].strip(), int(row[1]) / 1000)
        for row in slowest
        if row[2].strip()
        in {
            "asyncio",
            "json",
            "logging",
            "pathlib",
            "secrets",
            "ckvd.utils.async_cleanup",
            "ckvd.segment.header",
            "ckvd.model.provenance",
            "ckvd",
        }
    ]
    return ", ".join(f"{name} {spent_ms:.1f} ms" for name, spent_ms in shown)
