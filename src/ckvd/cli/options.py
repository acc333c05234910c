"""Options that several verbs share, and what errors mean for the exit status."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from ckvd.cli.exit_status import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_USAGE
from ckvd.cli.terminal import complain
from ckvd.errors import AddressError, CkvdError, IdentityError, TimeError
from ckvd.model.market import Interval, Kind, Market, parse_interval


def interval_of(name: str) -> Interval:
    """The interval of that name, also the exchange's `1M`.

    Raises
    ------
    typer.BadParameter
        There is none.
    """
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


@contextlib.contextmanager
def exit_status_of_errors() -> Iterator[None]:
    """Turn errors into one line on standard error and an exit status; `ckvd.cli.main` says what was interrupted."""
    try:
        yield
    except (IdentityError, TimeError, AddressError) as error:
        complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    except CkvdError as error:
        complain(str(error))
        raise typer.Exit(EXIT_INCOMPLETE) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
