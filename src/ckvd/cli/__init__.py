"""The command line, `ckvd`: one verb a module. It prints; all that it knows comes from the library.

- `app`: the command and its verbs.
- `cache`: the verbs of `ckvd cache`.
- `download`: `ckvd download`.
- `fetching`: what the verbs that fetch share: options, progress, complaints and the exit status.
- `main`: the entry point, which ends the process when a signal ends it or it cannot print.
- `options`: options that several verbs share, and the exit status of an error.
- `printing`: all printing: lines, tables, JSON and progress bars.
- `show`: `ckvd show`.
- `symbols`: the series that a command is about, by its arguments and a file.
- `stop_signals`: Ctrl-C, SIGTERM and SIGHUP, which end every verb in order.
- `universe`: the verbs of `ckvd universe`.
- `update`: `ckvd update`.

The exit statuses stand here because `main` needs them before it loads anything else. A command that a signal ends
has 128 and the number of the signal: 130 for Ctrl-C, 143 for SIGTERM.
"""

from __future__ import annotations

# Type checkers take it as true. `typing` takes longer to load than all that `main` needs before it handles signals.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Final

EXIT_INCOMPLETE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
