"""The sub-command `ckvd cache`: its verbs, in the order in which they are needed."""

from __future__ import annotations

import typer

from ckvd.cli.cache.audit import audit
from ckvd.cli.cache.check_lock import check_lock_command
from ckvd.cli.cache.export import export
from ckvd.cli.cache.gaps import gaps
from ckvd.cli.cache.info import info
from ckvd.cli.cache.list_series import list_command
from ckvd.cli.cache.lock import lock
from ckvd.cli.cache.pack import pack
from ckvd.cli.cache.prune import prune
from ckvd.cli.cache.quarantine import quarantine
from ckvd.cli.cache.repair import repair_command
from ckvd.cli.cache.stats import stats
from ckvd.cli.cache.verify import verify

app = typer.Typer(
    name="cache",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look after the cache: what it holds, whether it is in order, and making room.",
    epilog="Exit status: 0 all is well, 1 there are findings or something failed, 2 usage. "
    "What deletes or rewrites only shows what it would do, unless --yes is given.",
)
app.command("list")(list_command)
app.command()(info)
app.command()(stats)
app.command()(gaps)
app.command()(verify)
app.command("repair")(repair_command)
app.command()(quarantine)
app.command()(audit)
app.command()(pack)
app.command()(prune)
app.command()(export)
app.command()(lock)
app.command("check-lock")(check_lock_command)
