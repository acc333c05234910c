"""The command `ckvd` and its verbs."""

from __future__ import annotations

from typing import Annotated

import typer

from ckvd.cli.cache.app import app as cache_app
from ckvd.cli.download import download
from ckvd.cli.printing import say
from ckvd.cli.show import show
from ckvd.version import __version__

app = typer.Typer(
    name="ckvd",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A memory-mapped local cache of Binance klines.",
    epilog="Exit status: 0 what was asked for is in the cache, 1 something failed or is missing, 2 usage.",
)
app.command()(download)
app.command()(show)
app.add_typer(cache_app)


def _print_version(value: bool) -> None:
    if value:
        say(f"ckvd {__version__}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A memory-mapped local cache of Binance klines."""
