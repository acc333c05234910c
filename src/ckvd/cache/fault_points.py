"""Fault points: the named steps of every change of a cache. Between any two of them the folder must be valid.

Code that changes files calls `fault_points.reach` after each step that has an effect on disk. In production it does
nothing. A test replaces it by a function that ends the process, or fills the disk, at the step under test.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Step(StrEnum):
    """A step that has an effect on disk, named for what has just been done."""

    FOLDER_MADE = "folder made"
    ROWS_WRITTEN = "rows written"
    SEGMENT_FLUSHED = "segment flushed"
    REVISION_TAKEN = "revision taken"
    SEGMENT_NAMED = "segment named"
    SEGMENT_PUBLISHED = "segment published"
    SUPERSEDED_REMOVED = "one superseded segment removed"
    PRUNED = "one pruned segment removed"
    FOLDER_REMOVED = "one empty folder removed"
    REASON_WRITTEN = "reason of a quarantine written"
    QUARANTINED = "one segment quarantined"
    RESTORED = "one segment restored"
    LEFTOVER_REMOVED = "one leftover removed"
    EXPORTED = "export written"
    SNAPSHOT_WRITTEN = "snapshot of the universe written"


def go_on(step: Step) -> None:
    """Do nothing at a step."""


# Called at each step. Tests replace it.
reach: Callable[[Step], None] = go_on
