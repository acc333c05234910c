"""The command `ckvd`: what its verbs take, and their help. It loads a verb's module when the verb is run.

So help and completion take no longer than Python itself: neither numpy nor what a verb needs is loaded for them.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

from typing import Any

import click

from ckvd.cli.cache.app import cache
from ckvd.cli.options import (
    InOrder,
    cache_option,
    end_option,
    end_or_now_option,
    exit_status_of_errors,
    interval_option,
    kind_option,
    market_option,
    rest_url_option,
    start_option,
    symbol_argument,
    vision_url_option,
)
from ckvd.cli.universe.app import universe
from ckvd.utils.config import DOWNLOAD_CONCURRENCY
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
@click.argument("symbols", nargs=-1, required=True, help="Symbols, such as BTCUSDT ETHUSDT.")
@interval_option
@start_option
@end_or_now_option
@market_option
@kind_option
@cache_option
@vision_url_option
@rest_url_option
@click.option("--no-rest", is_flag=True, help="Use archives only.")
@click.option("--offline", is_flag=True, help="Open no connection: say what the cache lacks.")
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(1, 64),
    default=DOWNLOAD_CONCURRENCY,
    show_default=True,
    help="Archives fetched at a time.",
)
@click.option("--require-checksum", is_flag=True, help="Refuse archives without a CHECKSUM file.")
@click.option("--refresh", is_flag=True, help="Ask again at once for what was unavailable before.")
@exit_status_of_errors()
def download(**given: Any) -> None:
    """Download klines into the cache; what is there already is not fetched again."""
    from ckvd.cli.download import download

    download(**given)


@app.command()
@symbol_argument
@interval_option
@start_option
@end_option
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
    """Show bars of the cache with their gaps, flags and sources. It opens no connection."""
    from ckvd.cli.show import show

    show(**given)


app.add_command(cache)
app.add_command(universe)
