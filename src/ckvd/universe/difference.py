"""What two snapshots have different: `UniverseDifference`. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from ckvd.model.record import Record
from ckvd.utils.config import SAME_LISTING_MS

if TYPE_CHECKING:
    from ckvd.model.life import Life
    from ckvd.universe.snapshot import Snapshot

# What changes with every day that is published, and says nothing about a life.
_MOVING: Final = frozenset(("last_archive_ms", "last_traded_ms", "previous_end_ms"))


@dataclass(frozen=True, slots=True)
class LifeChange(Record):
    """A life that both snapshots have, with other facts.

    Attributes
    ----------
    before, after : Life
    changed : tuple of str
        The attributes that differ, such as `status` and `end_ms`.
    """

    before: Life
    after: Life
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UniverseDifference(Record):
    """What a snapshot has different from an older one.

    Attributes
    ----------
    before_ms, after_ms : int
        When they were made.
    new : tuple of Life
        Lives of tickers that the older one does not have.
    again : tuple of Life
        Further lives of tickers that it has.
    gone : tuple of Life
        Lives that the newer one does not have.
    ended : tuple of Life
        Lives that were alive in the older one, and had ended in the newer, as the newer one has them.
    changed : tuple of LifeChange
        All other changes, and those of the ended lives.
    """

    before_ms: int
    after_ms: int
    new: tuple[Life, ...]
    again: tuple[Life, ...]
    gone: tuple[Life, ...]
    ended: tuple[Life, ...]
    changed: tuple[LifeChange, ...]


def compare_snapshots(before: Snapshot, after: Snapshot) -> UniverseDifference:
    """Compare two snapshots of a market. A life is the same if its ticker is, and it began within two days."""
    left = list(before.lives)
    new: list[Life] = []
    again: list[Life] = []
    ended: list[Life] = []
    changed: list[LifeChange] = []
    tickers = {life.ticker for life in left}
    by_ticker: dict[str, list[Life]] = {}
    for life in left:
        by_ticker.setdefault(life.ticker, []).append(life)
    for life in after.lives:
        known = by_ticker.get(life.ticker, [])
        old = next((one for one in known if abs(one.first_ms - life.first_ms) <= SAME_LISTING_MS), None)
        if old is None:
            (again if life.ticker in tickers else new).append(life)
            continue
        known.remove(old)
        names = tuple(
            field.name
            for field in fields(life)
            if field.name not in _MOVING and getattr(old, field.name) != getattr(life, field.name)
        )
        if names == ("end_ms",) and old.end_is_bound and life.end_is_bound:
            names = ()  # archives go on after the end
        if _has_ended(life, after.made_ms) and not _has_ended(old, before.made_ms):
            ended.append(life)
        if names:
            changed.append(LifeChange(old, life, names))
    gone = [life for lives in by_ticker.values() for life in lives]
    return UniverseDifference(
        before.made_ms, after.made_ms, tuple(new), tuple(again), tuple(sorted(gone)), tuple(ended), tuple(changed)
    )


def _has_ended(life: Life, at_ms: int) -> bool:
    return life.end_ms is not None and life.end_ms <= at_ms
