"""The entry point of the command `ckvd`. It imports almost nothing: it handles signals while the rest is loaded."""

from __future__ import annotations

import errno
import os
import sys

from ckvd.cli import EXIT_INCOMPLETE, TYPE_CHECKING
from ckvd.cli.stop_signals import Stopped, stop_signals

if TYPE_CHECKING:
    from typing import Final, NoReturn, TextIO

# With it, shells ask click for completions.
_COMPLETION: Final = "_CKVD_COMPLETE"
# The operating system's errors when a write finds no room.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def run() -> None:
    """Run the command. End the process with one line when a signal ends it or its output cannot be written."""
    stop_signals.take()
    try:
        sys.exit(_run())
    except Stopped as stopped:
        _end(stopped.code, stop_signals.message)
    except OSError as error:
        # Errors about files carry a file name, and those of a cache are translated: this one is about a stream.
        if error.filename is not None or error.errno not in (errno.EPIPE, *_FULL):
            raise
        _drop(sys.stdout)
        if error.errno == errno.EPIPE:  # Nobody reads on, on one stream or the other.
            _drop(sys.stderr)
            sys.exit(EXIT_INCOMPLETE)
        from ckvd.errors import cannot  # noqa: PLC0415

        _end(EXIT_INCOMPLETE, str(cannot("be written", "standard output", error)))


def _run() -> int:
    """Run the command, and return its status."""
    from ckvd.errors import NotInstalledError, needs  # noqa: PLC0415

    try:
        with needs("click", "the command", "pip install click tqdm"):
            import click  # noqa: PLC0415  (takes most of the time of a short command, with what follows)

            from ckvd.cli.app import app  # noqa: PLC0415
    except NotInstalledError as error:
        _end(EXIT_INCOMPLETE, str(error))
    if _COMPLETION in os.environ:
        app(prog_name="ckvd")
    try:
        with stop_signals, app.make_context("ckvd", sys.argv[1:]) as context:
            app.invoke(context)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as end:
        return end.exit_code
    return 0


def _end(status: int, message: str) -> NoReturn:
    try:
        sys.stderr.write(f"ckvd: {message}\n")
    except OSError:
        _drop(sys.stderr)
    sys.exit(status)


def _drop(stream: TextIO) -> None:
    """Discard what a stream still buffers. Python would flush it again at exit, and print a traceback."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
