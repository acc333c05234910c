"""Where files lie that tests read: this repository, its samples, and the real data beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
SOURCES: Final = REPOSITORY / "src"
TESTS: Final = REPOSITORY / "tests"
DATA: Final = REPOSITORY / "data"
SAMPLES: Final = DATA / "vision"
SHARED_DATA: Final = REPOSITORY.parent / "shared" / "data"
