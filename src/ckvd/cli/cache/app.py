"""The sub-command `ckvd cache`: its verbs, in the order in which they are needed."""

from __future__ import annotations

import typer

from ckvd.cli.cache.check import audit, quarantine, repair_command, verify
from ckvd.cli.cache.data import check_lock_command, export, lock
from ckvd.cli.cache.look import gaps, info, list_command, stats
from ckvd.cli.cache.space import pack, prune

app = typer.Typer(
    name="cache",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look after the cache: what it holds, whether it is in order, and making room.",
    epilog="Exit status: 0 all is well, 1 there are findings or something failed, 2 usage. "
    "What deletes or rewrites only shows what it would do, unless --yes is given.",
)
for _name, _verb in {
    "list": list_command,
    "info": info,
    "stats": stats,
    "gaps": gaps,
    "verify": verify,
    "repair": repair_command,
    "quarantine": quarantine,
    "audit": audit,
    "pack": pack,
    "prune": prune,
    "export": export,
    "lock": lock,
    "check-lock": check_lock_command,
}.items():
    app.command(_name)(_verb)
