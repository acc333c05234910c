"""The whole command line is pinned: every command, argument and option, in order, as `command_line.txt` has it.

The text is made from the tree of commands and not from the rendered help, which other versions of click lay out
differently. Whoever changes the command line on purpose changes `command_line.txt` by hand.
"""

from __future__ import annotations

import re
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckvd.cli.app import app
from support import command

if TYPE_CHECKING:
    from collections.abc import Iterator

PINNED = Path(__file__).with_name("command_line.txt")


def describe(words: tuple[str, ...], node: Any) -> Iterator[str]:
    """A command and those below it, line by line."""
    yield " ".join(("ckvd", *words))
    yield from (f"  {line}".rstrip() for line in cleandoc(node.help or "").splitlines())
    yield from (f"  epilog: {node.epilog}" for _ in range(node.epilog is not None))
    for parameter in node.params:
        yield f"  {' '.join(describe_parameter(parameter))}"
    children = getattr(node, "commands", {})
    if not children:
        values = re.findall(r"[^\W_]+(?:[|][^\W_]+)+", command.run_here(*words, "--help").out)
        yield f"  values: {' '.join(values) or 'any'}"
    yield ""
    for name, child in children.items():
        yield from describe((*words, name), child)


def describe_parameter(parameter: Any) -> Iterator[str]:
    """The parts of the line of an argument or option, such as `argument`, its names and its help."""
    yield parameter.param_type_name
    yield from sorted(parameter.opts, key=len, reverse=True)
    yield from (f"no: {name}" for name in parameter.secondary_opts)
    if parameter.metavar is not None:
        yield f"metavar: {parameter.metavar}"
    yield from (word for word in ("required", "multiple", "is_eager", "hidden") if getattr(parameter, word, False))
    if parameter.nargs != 1:
        yield f"nargs: {parameter.nargs}"
    if isinstance(parameter.default, (bool, int, str)):
        yield f"default: {parameter.default}" + ("" if parameter.show_default else " (not shown)")
    yield f'help: "{parameter.help}"'


def test_the_command_line_is_what_it_was() -> None:
    assert list(describe((), app)) == PINNED.read_text(encoding="utf-8").splitlines()
