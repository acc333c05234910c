"""Where output goes: results to standard output, complaints and progress to standard error."""

from __future__ import annotations

import typer
from rich.console import Console

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def complain(message: str) -> None:
    """Print an error as one line on standard error."""
    err.print(f"ckvd: {message}", markup=False)


def print_row(cells: list[str]) -> None:
    """Print cells with tabs between them; rich would make blanks of these, and `cut` could not tell cells apart."""
    typer.echo("\t".join(cells))


def format_nbytes(nbytes: int) -> str:
    """A number of bytes for people: `3.4 MB`."""
    size = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
