"""The sub-command `ckvd universe`: what its verbs take, and their help.

It loads the module of the verbs when one is run; see `ckvd.cli.app`.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ckvd.cli.cache.verb import verb
from ckvd.cli.options import InOrder, OneOf, bounds_options, market_option, rest_url_option, vision_url_option
from ckvd.model.market import ContractType

if TYPE_CHECKING:
    from ckvd.cli.cache.verb import Result


@click.group(
    cls=InOrder,
    short_help="Who was listed when.",
    epilog="Exit status: 0 all is well, 1 something failed or there is no snapshot, 2 usage.",
)
def universe() -> None:
    """Who was listed when, so that a backtest does not choose among survivors only."""


@universe.command()
@market_option
@vision_url_option
@rest_url_option
@click.option("--no-rest", is_flag=True, help="Use archives and the earlier snapshot only.")
@verb
def refresh(**given: Any) -> Result:
    """List the archives, ask the exchange for its symbols, and store a dated snapshot in the cache."""
    from ckvd.cli.universe import verbs

    return verbs.refresh(**given)


@universe.command("list")
@click.argument("names", nargs=-1, help="Tickers or keys; * and ? stand for any text and one character.")
@market_option
@click.option("--on", metavar="TIME", help="Alive on this day, or at this moment if it is no midnight.")
@bounds_options
@click.option("--as-of", metavar="TIME", help="Take the newest snapshot made at or before this [default: now].")
@click.option("--quote", multiple=True, help="Only this quote, such as USDT (repeatable).")
@click.option("--base", multiple=True, help="Only this base, such as BTC (repeatable).")
@click.option("--contract", type=OneOf(ContractType), multiple=True, help="Only this type (repeatable).")
@click.option(
    "--leveraged",
    type=click.Choice(["include", "exclude", "only"]),
    default="include",
    show_default=True,
    help="Leveraged tokens of spot, such as BTCUPUSDT.",
)
@click.option("--listed-days-min", type=click.IntRange(min=0), metavar="DAYS", help="Listed for so many days.")
@verb
def list_(**given: Any) -> Result:
    """List lives: symbols from their listing to their end. A ticker that was used twice has two."""
    from ckvd.cli.universe import verbs

    return verbs.list_command(**given)


@universe.command()
@click.argument("before", metavar="A", help="A time or the name of a snapshot: the newest made by then.")
@click.argument("after", metavar="B", help="Likewise.")
@market_option
@verb
def diff(**given: Any) -> Result:
    """Show what snapshot B has different from A: new lives, ended and gone ones, and changes of status or dates."""
    from ckvd.cli.universe import verbs

    return verbs.diff(**given)
