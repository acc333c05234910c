"""What the release of resources logs: errors as warnings, and each step at DEBUG.

All of it goes to the logger `ckvd.utils.async_cleanup`. Where nobody listens at DEBUG, a step costs a tenth of a
microsecond more. The `logging` module takes a tenth of the package's import time without numpy, so it is imported
only to report an error, or once somebody else has imported it. Imports nothing of the project.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import logging

LOGGER_NAME: Final = "ckvd.utils.async_cleanup"
_DEBUG: Final = 10


@functools.cache
def _logger() -> logging.Logger:
    import logging  # noqa: PLC0415  (see the module's docstring)

    return logging.getLogger(LOGGER_NAME)


def listener() -> logging.Logger | None:
    """The logger if somebody listens at DEBUG, else None. Ask before a step is described or timed."""
    if "logging" not in sys.modules:
        return None  # Nobody can have asked for anything.
    logger = _logger()
    return logger if logger.isEnabledFor(_DEBUG) else None


def warn(message: str, *arguments: object) -> None:
    """Log an error that goes no further."""
    _logger().warning(message, *arguments, stacklevel=2)
