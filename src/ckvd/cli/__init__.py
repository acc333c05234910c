"""The command line, `ckvd`: one verb a module. It prints; all that it knows comes from the library.

- `app`: the command and its verbs.
- `cache`: the verbs of `ckvd cache`.
- `download`: `ckvd download`.
- `main`: the entry point, which ends the process when it is interrupted or cannot print.
- `options`: options that several verbs share, and the exit status of an error.
- `printing`: all printing: lines, tables, JSON and progress bars.
- `show`: `ckvd show`.

The exit statuses stand here because `main` needs them before it loads anything else.
"""

from __future__ import annotations

from typing import Final

EXIT_INCOMPLETE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
