"""Options that the verbs of `ckvd cache` share: which cache, which series, and what to print."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias, TypeVar

import typer

from ckvd.cache.folder import CacheFolder
from ckvd.cli.exit_status import EXIT_INCOMPLETE, EXIT_USAGE
from ckvd.cli.options import INTERVAL_NAMES, interval_of
from ckvd.cli.terminal import complain
from ckvd.maintenance.pruning import ALL_TIME
from ckvd.maintenance.selection import EVERYTHING, SeriesFilter
from ckvd.model.market import Interval, Kind, Market, SeriesKey
from ckvd.model.timespan import Span, parse_time

_T = TypeVar("_T")

SymbolsArgument: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        help="Symbols; * and ? stand for any text and one character [default: all].", show_default=False
    ),
]
MarketsOption: TypeAlias = Annotated[
    list[Market] | None, typer.Option("--market", "-m", help="Only this market (repeatable).", show_default=False)
]
KindsOption: TypeAlias = Annotated[
    list[Kind] | None, typer.Option("--kind", "-k", help="Only this kind (repeatable).", show_default=False)
]
IntervalsOption: TypeAlias = Annotated[
    list[Interval] | None,
    typer.Option(
        "--interval",
        "-i",
        help="Only this length of a bar (repeatable).",
        parser=interval_of,
        metavar=INTERVAL_NAMES,
        show_default=False,
    ),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
YesOption: TypeAlias = Annotated[
    bool, typer.Option("--yes", "-y", help="Do it. Without it, only what would be done is shown.")
]
OptionalStartOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--start", help="First moment: an ISO date or time [default: the first].", show_default=False),
]
OptionalEndOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--end",
        help="First moment after the span: ISO date or time, or `now` [default: the last].",
        show_default=False,
    ),
]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def filter_of(
    symbols: list[str] | None,
    markets: list[Market] | None,
    kinds: list[Kind] | None,
    intervals: list[Interval] | None,
) -> SeriesFilter:
    """The filter that the options name."""
    return SeriesFilter(tuple(markets or ()), tuple(kinds or ()), tuple(symbols or ()), tuple(intervals or ()))


def choose(folder: CacheFolder, chosen: SeriesFilter) -> list[SeriesKey]:
    """The series of a cache that are meant: `expect_some` of them."""
    return expect_some(chosen.choose(folder), folder, chosen)


def expect_some(found: list[_T], folder: CacheFolder, chosen: SeriesFilter) -> list[_T]:
    """What was found in a cache, as it is: to find nothing wrong with nothing is no success.

    Raises
    ------
    typer.Exit
        It is nothing. All of a cache that is there may be.
    """
    if not found and not (chosen == EVERYTHING and folder.root.is_dir()):
        raise nothing_in(folder)
    return found


def nothing_in(folder: CacheFolder) -> typer.Exit:
    """Complain that a cache has nothing of what is meant; what is returned is to be raised."""
    complain(f"nothing of that is in the cache {folder.root}")
    return typer.Exit(EXIT_INCOMPLETE)


def span_of(start: str | None, end: str | None) -> Span | None:
    """The span that the options name; None where neither is given. An end that is not given is far away.

    Raises
    ------
    TimeError
        They are no times.
    """
    if start is None and end is None:
        return None
    return Span(
        ALL_TIME.start_ms if start is None else parse_time(start),
        ALL_TIME.end_ms if end is None else parse_time(end),
    )


def parse_nbytes(text: str) -> int:
    """A number of bytes such as `500MB` or `1.5 GB`, in powers of a thousand.

    Raises
    ------
    typer.Exit
        It is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)b?\s*", text, re.IGNORECASE)
    if match is None:
        complain(f"{text!r} is no size: expected a number with B, kB, MB, GB or TB")
        raise typer.Exit(EXIT_USAGE)
    return int(float(match[1]) * _UNITS[match[2].lower()])
