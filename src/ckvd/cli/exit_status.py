"""What the exit status of a command says. Nothing is imported: it is needed before anything is loaded."""

from __future__ import annotations

from typing import Final

EXIT_INCOMPLETE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
