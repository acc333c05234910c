"""Arguments and options that several verbs share, and the exit status of an error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ckvd.cli import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_USAGE
from ckvd.cli.printing import complain
from ckvd.errors import AddressError, CkvdError, IdentityError, TimeError, cannot
from ckvd.model.market import Interval, Kind, Market, parse_interval
from ckvd.utils.config import DOWNLOAD_CONCURRENCY

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_Function = TypeVar("_Function", bound=Callable[..., Any])


class InOrder(click.Group):
    """A command whose help names its verbs in the order in which they were added."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """The names of the verbs."""
        return list(self.commands)


class OneOf(click.Choice[str]):
    """A choice among the values of an enumeration, not among its names. It becomes a member."""

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__([str(one) for one in kind])
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The member with a value."""
        return self._kind(super().convert(value, param, ctx))


class IntervalName(click.ParamType[Interval]):
    """An interval, as `parse_interval` takes it."""

    name = f"<{'|'.join(Interval)}>"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Interval:
        """Parse it. Fails with the sentence of `parse_interval`."""
        try:
            return parse_interval(value)
        except IdentityError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The intervals that begin with what was typed."""
        return click.Choice(list(map(str, Interval))).shell_complete(ctx, param, incomplete)


symbol_argument = click.argument("symbol", help="A symbol, such as BTCUSDT.")
_INTERVAL: Final = partial(click.option, "--interval", "-i", type=IntervalName(), metavar=IntervalName.name)
interval_option = _INTERVAL(help="Length of a bar, as in archive names. Funding rates have none.")
intervals_option = _INTERVAL(
    multiple=True, help="Length of a bar, as in archive names (repeatable). Funding rates have none."
)
market_option = click.option(
    "--market", "-m", type=OneOf(Market), default="spot", show_default=True, help="Spot, USD-M or COIN-M futures."
)
kind_option = click.option(
    "--kind", "-k", type=OneOf(Kind), default="klines", show_default=True, help="What the series holds."
)
_TIME: Final = "ISO date or time, `30d` or `12h` before now, `yesterday`, `today` or `now`"
start_option = click.option("--start", metavar="TIME", help=f"First moment: {_TIME}.")
_END: Final = f"First moment after the span: {_TIME}."
end_or_now_option = click.option("--end", default="now", show_default=True, metavar="TIME", help=_END)
cache_option = click.option(
    "--cache",
    "-c",
    type=click.Path(file_okay=False, path_type=Path),
    help="The cache folder [default: $CKVD_CACHE_DIR, else the user's cache folder].",
)
vision_url_option = click.option(
    "--vision-url",
    metavar="PLACE",
    help="A mirror of Binance Vision: address or folder [default: $CKVD_VISION_URL, else Binance Vision].",
)
rest_url_option = click.option(
    "--rest-url",
    metavar="ADDRESS",
    help="Host of the REST interface [default: $CKVD_REST_URL, else Binance's of the market].",
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Do it. Without it, only what would be done is shown.")
json_option = click.option("--json", is_flag=True, help="Print one JSON document instead of text.")

# Which series: `Selection` has the values.
_SERIES: Final = (
    click.argument(
        "symbols", nargs=-1, help="Symbols; * and ? stand for any text and one character [default: all]."
    ),
    click.option("--market", "-m", type=OneOf(Market), multiple=True, help="Only this market (repeatable)."),
    click.option("--kind", "-k", type=OneOf(Kind), multiple=True, help="Only this kind (repeatable)."),
    _INTERVAL(multiple=True, help="Only this length of a bar (repeatable)."),
)
# Which span of them: `Bounds` has the values.
_BOUNDS: Final = (
    click.option("--start", metavar="TIME", help=f"First moment: {_TIME} [default: the first]."),
    click.option("--end", metavar="TIME", help=f"First moment after the span: {_TIME} [default: the last]."),
)
# How to fetch, and how much to say: `Fetching` has the values.
_FETCHING: Final = (
    cache_option,
    vision_url_option,
    rest_url_option,
    click.option("--no-rest", is_flag=True, help="Use archives only."),
    click.option(
        "--jobs",
        "-j",
        type=click.IntRange(1, 64),
        default=DOWNLOAD_CONCURRENCY,
        show_default=True,
        help="Archives fetched at a time.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1, 64),
        help="Processes that decode and store, 1 for this one alone [default: one for each processor].",
    ),
    click.option("--require-checksum", is_flag=True, help="Refuse archives without a CHECKSUM file."),
    click.option("--dry-run", is_flag=True, help="Say what would be fetched, and write nothing."),
    click.option("--quiet", "-q", is_flag=True, help="Say only what failed or is missing."),
    click.option("--verbose", "-v", is_flag=True, help="Say a line for each archive, on standard error."),
    json_option,
)


def series_options(function: _Function) -> _Function:
    """Add the symbols and filters that choose series."""
    return _add(_SERIES, function)


def bounds_options(function: _Function) -> _Function:
    """Add --start and --end, either of which may be left out."""
    return _add(_BOUNDS, function)


def fetching_options(function: _Function) -> _Function:
    """Add the options of verbs that fetch."""
    return _add(_FETCHING, function)


def _add(options: tuple[Callable[[Any], Any], ...], function: _Function) -> _Function:
    for option in reversed(options):
        function = option(function)
    return function


def exit_with(status: int, message: str) -> click.exceptions.Exit:
    """Complain, and return what to raise in order to end the command with a status."""
    complain(message)
    return click.exceptions.Exit(status)


@contextlib.contextmanager
def exit_status_of_errors() -> Iterator[None]:
    """Turn an error into one line on standard error and an exit status.

    Ctrl-C gets here where `ckvd.cli.main` does not handle signals: in a program that calls a verb.
    """
    try:
        yield
    except (IdentityError, TimeError, AddressError) as error:
        raise exit_with(EXIT_USAGE, str(error)) from None
    except CkvdError as error:
        raise exit_with(EXIT_INCOMPLETE, str(error)) from None
    except OSError as error:
        # The library translates what it gets, so this is for what it forgot. Streams have no file name: see `main`.
        if error.filename is None:
            raise
        raise exit_with(EXIT_INCOMPLETE, str(cannot("be used", error.filename, error))) from None
    except KeyboardInterrupt:
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
