"""Options that several verbs share, and the exit status of an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from ckvd.cli import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_USAGE
from ckvd.cli.printing import complain
from ckvd.errors import AddressError, CkvdError, IdentityError, TimeError
from ckvd.model.market import Interval, Kind, Market, parse_interval


def interval_of(name: str) -> Interval:
    """Parse an interval as `parse_interval` does. Raises typer.BadParameter if the name is unknown."""
    try:
        return parse_interval(name)
    except IdentityError as error:
        raise typer.BadParameter(str(error)) from None


INTERVAL_NAMES: Final = f"<{'|'.join(Interval)}>"

IntervalOption: TypeAlias = Annotated[
    Interval,
    typer.Option(
        "--interval",
        "-i",
        help="Length of a bar, as in archive names.",
        parser=interval_of,
        metavar=INTERVAL_NAMES,
    ),
]
MarketOption: TypeAlias = Annotated[Market, typer.Option("--market", "-m", help="Spot, USD-M or COIN-M futures.")]
KindOption: TypeAlias = Annotated[Kind, typer.Option("--kind", "-k", help="What the bars are made of.")]
StartOption: TypeAlias = Annotated[
    str,
    typer.Option("--start", help="First moment: an ISO date or time, such as 2024-01-31T12:00Z."),
]
EndOption: TypeAlias = Annotated[
    str, typer.Option("--end", help="First moment after the span: ISO date or time, or `now`.")
]
CacheOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        "-c",
        help="The cache folder [default: $CKVD_CACHE_DIR, else the user's cache folder].",
        show_default=False,
        file_okay=False,
    ),
]
VisionUrlOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--vision-url",
        help="A mirror of Binance Vision: address or folder [default: $CKVD_VISION_URL, else Binance Vision].",
        show_default=False,
    ),
]
RestUrlOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--rest-url",
        help="Host of the REST interface [default: $CKVD_REST_URL, else Binance's of the market].",
        show_default=False,
    ),
]


def exit_with(status: int, message: str) -> typer.Exit:
    """Complain, and return what to raise in order to end the command with a status."""
    complain(message)
    return typer.Exit(status)


@contextlib.contextmanager
def exit_status_of_errors() -> Iterator[None]:
    """Turn an error into one line on standard error and an exit status. `ckvd.cli.main` reports an interruption."""
    try:
        yield
    except (IdentityError, TimeError, AddressError) as error:
        raise exit_with(EXIT_USAGE, str(error)) from None
    except CkvdError as error:
        raise exit_with(EXIT_INCOMPLETE, str(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
