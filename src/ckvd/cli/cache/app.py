"""The sub-command `ckvd cache`: what its verbs take, and their help, in the order in which they are needed.

It loads a verb's module when the verb is run; see `ckvd.cli.app`.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckvd.cli.cache.verb import verb
from ckvd.cli.options import (
    InOrder,
    bounds_options,
    interval_option,
    kind_option,
    market_option,
    rest_url_option,
    series_options,
    symbol_argument,
    vision_url_option,
    yes_option,
)

if TYPE_CHECKING:
    from ckvd.cli.cache.verb import Result


@click.group(
    cls=InOrder,
    short_help="Look after the cache: what it holds, and is it in order.",
    epilog="Exit status: 0 all is well, 1 there are findings or something failed, 2 usage. "
    "What deletes or rewrites only shows what it would do, unless --yes is given.",
)
def cache() -> None:
    """Look after the cache: what it holds, whether it is in order, and making room."""


# --- Looking -----------------------------------------------------------------------------------------------


@cache.command("list")
@series_options
@verb
def list_(**given: Any) -> Result:
    """List series with span, bars, missing bars, coverage, size and sources."""
    from ckvd.cli.cache import look

    return look.list_command(**given)


@cache.command()
@symbol_argument
@interval_option
@market_option
@kind_option
@verb
def info(**given: Any) -> Result:
    """Show one series in full: its segments, where its bars came from, and what its headers say of their state.

    Status 1: the system refuses to read a segment. One that is damaged is shown as such.
    """
    from ckvd.cli.cache import look

    return look.info(**given)


@cache.command()
@series_options
@verb
def stats(**given: Any) -> Result:
    """Show totals by market and interval, the age of the files, and what packing would merge."""
    from ckvd.cli.cache import look

    return look.stats(**given)


@cache.command()
@series_options
@bounds_options
@click.option("--calendar/--no-calendar", default=True, show_default=True, help="Show how full each month is.")
@verb
def gaps(**given: Any) -> Result:
    """Show missing spans with counts and reasons, and a calendar. Status 1: something is not fetched."""
    from ckvd.cli.cache import look

    return look.gaps(**given)


# --- Checking ----------------------------------------------------------------------------------------------


@cache.command()
@series_options
@click.option("--quick", is_flag=True, help="Look at names and headers only.")
@click.option(
    "--since",
    metavar="TIME",
    help="Look only into segments written, replaced or restored since: an ISO date or time, or `7d` before now.",
)
@verb
def verify(**given: Any) -> Result:
    """Check every checksum, header, order, grid and invariant. Status 1: there are errors or warnings.

    With --since, what counts is when the status of a file last changed (ctime). A restore by `rsync -a` sets the
    time of modification back, but not this one. A disk that damages a file by itself changes no time: only a run
    without --since finds that. The summary says how many segments were left out, and `began` of --json is the time
    for the next --since.
    """
    from ckvd.cli.cache import check

    return check.verify(**given)


@cache.command()
@series_options
@bounds_options
@click.option("--fetch/--no-fetch", default=True, show_default=True, help="Fetch again what was lost.")
@click.option(
    "--prefer",
    type=click.Choice(["days", "rest"]),
    help="Instead, replace bars of --start to --end that differ from daily archives or the REST interface.",
)
@vision_url_option
@rest_url_option
@yes_option
@verb
def repair(**given: Any) -> Result:
    """Set aside what cannot be believed and fetch it again. Status 1: something is left to do.

    No bar is deleted: `ckvd cache quarantine` shows what was set aside, and restores it. With --prefer, bars that
    differ from those of the preferred source are replaced, and nothing else is looked at: see `ckvd cache audit
    --against`. What is preferred stays, whatever is downloaded later.
    """
    from ckvd.cli.cache import check

    return check.repair_command(**given)


@cache.command()
@series_options
@click.option("--restore", "restored", metavar="FILE", help="Put the file of this name back, or `all`.")
@yes_option
@verb
def quarantine(**given: Any) -> Result:
    """Show files that were set aside, with the reason, and restore them.

    `ckvd cache prune --quarantine` deletes them for good.
    """
    from ckvd.cli.cache import check

    return check.quarantine(**given)


@cache.command()
@series_options
@bounds_options
@click.option("--thorough", is_flag=True, help="Fetch every archive, also where the listing shows no change.")
@click.option(
    "--against",
    type=click.Choice(["days", "rest", "finer"]),
    help="Instead, compare bars with daily archives, the REST interface, or shorter bars of the cache.",
)
@vision_url_option
@rest_url_option
@yes_option
@verb
def audit(**given: Any) -> Result:
    """Find archives that changed since they were fetched, and which bars; with --yes, store them as they are now.

    Status 1: something changed and was not stored, differs, or could not be looked up. With --against, bars are
    compared with another source, which shows archives that are wrong from the beginning; `ckvd cache repair
    --prefer` replaces them.
    """
    from ckvd.cli.cache import check

    return check.audit(**given)


# --- Making room -------------------------------------------------------------------------------------------


@cache.command()
@series_options
@click.option("--thorough", is_flag=True, help="Merge whatever fits, also where much is copied for little.")
@yes_option
@verb
def pack(**given: Any) -> Result:
    """Merge closed history into large segments, and remove what newer segments have replaced.

    Every download does it as well. Status 1: something could not be packed, such as a series that is locked.
    """
    from ckvd.cli.cache import space

    return space.pack(**given)


@cache.command()
@series_options
@bounds_options
@click.option(
    "--before", metavar="TIME", help="Remove bars that open before this moment: ISO date or time, or `30d` ago."
)
@click.option("--max-size", metavar="SIZE", help="Remove what was not read for longest, until this much is left.")
@click.option("--leftovers", is_flag=True, help="Remove what dead processes left behind.")
@click.option("--quarantine", is_flag=True, help="Delete files that were set aside.")
@yes_option
@verb
def prune(**given: Any) -> Result:
    """Remove series, spans, old bars, what was not read for longest, leftovers or files in quarantine.

    What needs no copy is removed first. Status 1: something could not be removed, such as a series that is locked.

    Say what to remove: by symbol, market, kind or interval, by --start and --end or --before, by --max-size, or
    with --leftovers and --quarantine.
    """
    from ckvd.cli.cache import space

    return space.prune(**given)


# --- Taking data out ---------------------------------------------------------------------------------------


@cache.command()
@click.option(
    "--to",
    "-o",
    "target",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder to write to.",
)
@series_options
@click.option(
    "--format",
    "-f",
    "file_format",
    type=click.Choice(["csv", "arrow", "parquet", "npz"]),
    default="csv",
    show_default=True,
    help="CSV as in archives, Arrow IPC, Parquet, or numpy's npz.",
)
@click.option(
    "--cut",
    type=click.Choice(["whole", "month", "day"]),
    default="whole",
    show_default=True,
    help="How much goes into one file.",
)
@bounds_options
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@verb
def export(**given: Any) -> Result:
    """Write bars as CSV, Arrow IPC, Parquet or npz. Status 1: nothing to export, or not all of it could be.

    What the cache covers is exported, without spans that were asked for and that no source had: these are named. Of
    a span of which both ends are given, every series has to cover all.
    """
    from ckvd.cli.cache import data

    return data.export(**given)


@cache.command()
@click.argument(
    "file", type=click.Path(path_type=Path, allow_dash=True), help="The file to write; - for standard output."
)
@series_options
@bounds_options
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@verb
def lock(**given: Any) -> Result:
    """Write the content hash of every series and span to a small text file. It does not depend on segments.

    Spans that were asked for and that no source had are part of the lock, as what they are.
    """
    from ckvd.cli.cache import data

    return data.lock(**given)


@cache.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), help="What ckvd cache lock wrote.")
@verb
def check_lock(**given: Any) -> Result:
    """Say whether the cache has the same bars as a lock, bit for bit. Status 1: it does not."""
    from ckvd.cli.cache import data

    return data.check_lock_command(**given)
