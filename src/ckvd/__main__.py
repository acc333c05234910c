"""`python -m ckvd` is the command `ckvd`."""

from ckvd.cli.main import run

run()
