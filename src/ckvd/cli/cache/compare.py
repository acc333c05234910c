"""What `audit --against` and `repair --prefer` do and print: bars that differ from those of another source."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ckvd.cli import EXIT_USAGE
from ckvd.cli.cache.verb import Result, Selection
from ckvd.cli.options import exit_with
from ckvd.cli.printing import complain, count, progress_bar, propose, say
from ckvd.cli.stop_signals import stop_signals
from ckvd.maintenance.comparison import Against, Agreement, Comparison, compare_cache, is_well
from ckvd.maintenance.preference import Preferred, prefer_source
from ckvd.model.timespan import Span, format_time

if TYPE_CHECKING:
    from ckvd.api.vision_data_client import VisionDataClient
    from ckvd.cache.folder import CacheFolder
    from ckvd.maintenance.bar_difference import BarDifference

_EXAMPLES_MAX = 20


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where other sources are, as the options say."""

    vision_url: str | None
    rest_url: str | None


def vision_client(vision_url: str | None, folder: CacheFolder) -> VisionDataClient:
    """A client for archives, which the caller closes."""
    # Loads HTTP, which --help and the other verbs do not need.
    from ckvd.api.vision_data_client import VisionDataClient  # noqa: PLC0415

    return VisionDataClient(vision_url, cache=folder.root)


def compare(selection: Selection, against: Against, span: Span | None, addresses: Addresses) -> Result:
    """`ckvd cache audit --against`."""
    found = stop_signals.run(_compare(selection, against, span, addresses, is_stored=False))
    return Result(found, partial(_show_comparisons, found), is_well(found))


def prefer_bars(
    selection: Selection, preferred: Preferred, span: Span | None, addresses: Addresses, *, is_done: bool
) -> Result:
    """`ckvd cache repair --prefer`."""
    selection.series()
    found = stop_signals.run(_compare(selection, preferred.against, span, addresses, is_stored=is_done))
    return Result(found, partial(_show_preference, found, is_done=is_done), is_well(found))


async def _compare(
    selection: Selection, against: Against, span: Span | None, addresses: Addresses, *, is_stored: bool
) -> list[Comparison]:
    """Compare. A series that is locked or cannot be read is refused, and does not keep the others."""
    folder, chosen = selection.folder, selection.filter
    if span is not None and (span.start_ms % 1000 or span.end_ms % 1000):
        raise exit_with(EXIT_USAGE, f"give --start and --end in whole seconds, not {span}")
    async with AsyncExitStack() as stack:
        archives = rest = None
        if against is Against.DAYS:
            archives = (await stack.enter_async_context(vision_client(addresses.vision_url, folder))).archives
        elif against is Against.REST:
            from ckvd.rest.rest_data_client import RestDataClient  # noqa: PLC0415  (loads HTTP)

            rest = await stack.enter_async_context(RestDataClient(base_url=addresses.rest_url))
        if is_stored:
            comparisons = prefer_source(
                folder, Preferred(against), chosen, span, archives=archives, rest=rest, refuse=selection.refuse
            )
        else:
            comparisons = compare_cache(
                folder, against, chosen, span, archives=archives, rest=rest, refuse=selection.refuse
            )
        found = []
        with progress_bar("comparing") as update:
            async for one in comparisons:
                found.append(one)
                update(description=f"{one.series} {format_time(one.span.end_ms)}")
        return found


def _show_comparisons(found: list[Comparison]) -> None:
    for one in found:
        _show_comparison(one)
    numbers = {agreement: sum(one.agreement is agreement for one in found) for agreement in Agreement}
    bar_count = sum(one.bar_count for one in found)
    counts = [f"{number} {agreement}" for agreement, number in numbers.items() if number]
    say(", ".join([f"{count(bar_count, 'bar')} compared", *counts]))


def _show_preference(found: list[Comparison], *, is_done: bool) -> None:
    _show_comparisons(found)
    different = [one for one in found if one.agreement is Agreement.DIFFERS]
    bar_count = sum(one.difference.changed_count + one.difference.added_count for one in different)
    if is_done:
        say(f"{count(bar_count, 'bar')} replaced or added")
    else:
        propose(f"would replace or add {count(bar_count, 'bar')}", is_work_left=bool(bar_count))


def _show_comparison(one: Comparison) -> None:
    place = f"{one.series} {one.span}"
    if one.agreement is Agreement.FAILED:
        complain(f"{place}: {one.other or one.against}: {one.message}")
    elif one.agreement is Agreement.ABSENT:
        say(f"{place}: not compared: {one.message}")
    elif one.difference:
        stored = ", stored" if one.is_stored else ""
        difference = one.difference
        say(
            f"{place}: {one.agreement}{stored}: {difference.changed_count} bars differ, {difference.added_count} "
            f"only in {one.other}, {difference.removed_count} only in the cache, from {', '.join(one.cached_from)}"
        )
        show_difference(difference, added=f"only in {one.other}", removed="only in the cache")


def show_difference(difference: BarDifference, *, added: str, removed: str) -> None:
    """Print the first bars that differ, with their cells: the cached one, and that of the other source."""
    shown = difference.changed[:_EXAMPLES_MAX]
    for open_ms in shown:
        cells = [cell for cell in difference.cells if cell.open_ms == open_ms]
        values = ", ".join(f"{cell.column} {cell.before!r} -> {cell.after!r}" for cell in cells)
        say(f"  {format_time(open_ms)} {values or 'differs'}")
    for what, opens in (("differ", difference.changed), (added, difference.added), (removed, difference.removed)):
        for open_ms in opens[:_EXAMPLES_MAX] if opens is not difference.changed else ():
            say(f"  {format_time(open_ms)} {what}")
        if len(opens) > _EXAMPLES_MAX:
            say(f"  and more that {what}: see --json")
