"""Where a change of the cache can be cut short: the named steps between which a folder must always be valid.

Whoever changes files calls `reach` after each step that has an effect on disk. In production it does nothing. A
test puts a function in its place that ends the process, or fills the disk, at the step under test.
"""

from __future__ import annotations

from enum import StrEnum


class Step(StrEnum):
    """A step that has an effect on disk, named for what was done last."""

    FOLDER_MADE = "folder made"
    ROWS_WRITTEN = "rows written"
    SEGMENT_FLUSHED = "segment flushed"
    REVISION_TAKEN = "revision taken"
    SEGMENT_NAMED = "segment named"
    SEGMENT_PUBLISHED = "segment published"
    SUPERSEDED_REMOVED = "one superseded segment removed"
    PRUNED = "one pruned segment removed"
    REASON_WRITTEN = "reason of a quarantine written"
    QUARANTINED = "one segment quarantined"
    RESTORED = "one segment restored"
    LEFTOVER_REMOVED = "one leftover removed"
    EXPORTED = "export written"


def reach(step: Step) -> None:
    """Come to a step."""
