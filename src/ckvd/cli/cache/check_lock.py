"""`ckvd cache check-lock`: tell whether this machine has the same bars."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckvd.cache.folder import CacheFolder
from ckvd.cli.cache.choosing import JsonOption
from ckvd.cli.cache.printing import print_json, say, track
from ckvd.cli.exit_status import EXIT_INCOMPLETE
from ckvd.cli.options import CacheOption, exit_status_of_errors
from ckvd.errors import cannot
from ckvd.maintenance.data_lock import Verdict, check_lock, parse_lock


def check_lock_command(
    file: Annotated[Path, typer.Argument(help="What ckvd cache lock wrote.", dir_okay=False)],
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Say whether the cache has the same bars as a lock, bit for bit. Status 1: it does not."""
    with exit_status_of_errors():
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise cannot("be read", file, error) from error
        folder = CacheFolder.at(cache)
        lines = parse_lock(text, str(file))
        checks = [check for line in track(lines, "hashing") for check in check_lock(folder, [line])]
        if json:
            print_json([check.to_json() for check in checks])
        else:
            for check in checks:
                line = f"{check.verdict}: {check.expected.series} {check.expected.span}"
                if check.found is not None and check.verdict is Verdict.DIFFERENT:
                    line += f": {check.found.bar_count:,} bars, expected {check.expected.bar_count:,}"
                say(line + (f": {check.message}" if check.message else ""))
        if any(check.verdict is not Verdict.SAME for check in checks):
            raise typer.Exit(EXIT_INCOMPLETE)
