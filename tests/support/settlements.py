"""Settlements of funding made by hand, as the REST interface and as archives have them, and recorded ones."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from ckvd.model.market import HOUR_MS
from ckvd.model.timespan import parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from support.loopback.rows import Row


def settlements(start: str, end: str, hours: int = 8) -> list[Row]:
    """Rows of the REST interface, one every few hours. Each has a delay, a rate and a mark price of its own."""
    due = range(parse_time(start), parse_time(end), hours * HOUR_MS)
    return [_settlement(time_ms) for time_ms in due]


def _settlement(due_ms: int) -> Row:
    seed = due_ms // HOUR_MS
    return str(due_ms + seed % 31), f"{seed % 17 - 8}.{seed % 89:05d}e-5", f"{20_000 + seed % 977}.{seed % 83:08d}"


def archived(rows: Iterable[Row], hours: int = 8) -> list[Row]:
    """The same settlements as an archive has them: with another delay, and hours in place of the mark price."""
    return [(str(int(time) // 1000 * 1000 + 3), str(hours), rate) for time, rate, _ in rows]


def recorded(path: Path) -> list[Row]:
    """The rows of a recording: a CSV of time, symbol and rate."""
    with path.open(newline="") as file:
        return [(row["timestamp"], row["funding_rate"], "") for row in csv.DictReader(file)]
