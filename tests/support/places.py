"""Where files lie that tests read: this repository, its samples, and the real data beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

REPOSITORY: Final = Path(__file__).resolve().parents[2]
SOURCES: Final = REPOSITORY / "src"
TESTS: Final = REPOSITORY / "tests"
DATA: Final = REPOSITORY / "data"
SAMPLES: Final = DATA / "vision"
SHARED_DATA: Final = REPOSITORY.parent / "shared" / "data"

# Whether to take all real data where it takes long, or a sample.
IS_WHOLE: Final = os.environ.get("CKVD_ACCEPTANCE") == "whole"
_SAMPLED_OF: Final = 5

_T = TypeVar("_T")


def sample_of(items: Sequence[_T]) -> Sequence[_T]:
    """Every fifth of many, such as real archives; all of them in `make acceptance`."""
    return items if IS_WHOLE else items[::_SAMPLED_OF]
