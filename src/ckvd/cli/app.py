"""The command `ckvd`: what its verbs take, and their help. It loads a verb's module when the verb is run.

So help and completion take no longer than Python itself: neither numpy nor what a verb needs is loaded for them.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckvd.cli.cache.app import cache
from ckvd.cli.options import (
    InOrder,
    bounds_options,
    cache_option,
    end_or_now_option,
    exit_status_of_errors,
    fetching_options,
    interval_option,
    intervals_option,
    kind_option,
    market_option,
    series_options,
    start_option,
    symbol_argument,
)
from ckvd.cli.universe.app import universe
from ckvd.version import __version__


@click.group(
    name="ckvd",
    cls=InOrder,
    epilog="Exit status: 0 what was asked for is in the cache, 1 something failed or is missing, 2 usage.",
)
@click.version_option(
    __version__, prog_name="ckvd", message="%(prog)s %(version)s", help="Print the version and exit."
)
def app() -> None:
    """A memory-mapped local cache of Binance klines."""


@app.command()
@click.argument("symbols", nargs=-1, help="Symbols; a pattern such as 'BTC*' means those of the universe.")
@click.option(
    "--symbols-file",
    "-f",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="A file with one symbol a line, and # before comments; - for standard input.",
)
@click.option(
    "--quote", multiple=True, help="Only symbols of the universe with this quote, such as USDT (repeatable)."
)
@intervals_option
@start_option
@click.option("--days", type=click.IntRange(min=1), metavar="N", help="Begin so many days before now.")
@end_or_now_option
@market_option
@kind_option
@fetching_options
@click.option("--offline", is_flag=True, help="Open no connection: say what the cache lacks.")
@click.option("--refresh", is_flag=True, help="Ask again at once for what was unavailable before.")
@exit_status_of_errors()
def download(**given: Any) -> None:
    """Download klines into the cache; what is there already is not fetched again.

    Begin at --start, or some --days ago. Every symbol is downloaded at every --interval. Patterns and --quote
    choose among the symbols that were listed in the span: ckvd universe refresh finds out who was.
    """
    from ckvd.cli.download import download

    download(**given)


@app.command()
@series_options
@click.option(
    "--new-listings", is_flag=True, help="Also begin with symbols that were listed since, at what the cache holds."
)
@fetching_options
@exit_status_of_errors()
def update(**given: Any) -> None:
    """Bring every series that the cache holds up to now, each from where it ends: for cron.

    What is provisional or was unavailable is asked for again where its time has come. Nothing is asked for twice,
    and nothing that was never downloaded. Status 1: something failed or is missing, such as a series that another
    process has locked; the others are up to date.
    """
    from ckvd.cli.update import update

    update(**given)


@app.command()
@symbol_argument
@interval_option
@bounds_options
@market_option
@kind_option
@cache_option
@click.option(
    "--rows",
    "-n",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Bars to print, half from each end; 0 prints all.",
)
@exit_status_of_errors()
def show(**given: Any) -> None:
    """Show bars of the cache with their gaps, flags and sources, by default all. It opens no connection."""
    from ckvd.cli.show import show

    show(**given)


app.add_command(cache)
app.add_command(universe)
