"""What all verbs of `ckvd cache` share: the options that choose series, `--cache`, `--json` and the exit status.

A verb is a function that takes a `Selection` and options of its own, and returns a `Result`. The decorator `verb`
makes a command of it, and is the only place that prints results and translates errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import typer

from ckvd.cache.folder import CacheFolder
from ckvd.cli import EXIT_INCOMPLETE
from ckvd.cli.options import INTERVAL_NAMES, CacheOption, exit_status_of_errors, exit_with, interval_of
from ckvd.cli.printing import print_json
from ckvd.maintenance.pruning import ALL_TIME
from ckvd.maintenance.selection import EVERYTHING, SeriesFilter
from ckvd.model.market import Interval, Kind, Market, SeriesKey
from ckvd.model.timespan import Span, parse_time

_T = TypeVar("_T")

YesOption: TypeAlias = Annotated[
    bool, typer.Option("--yes", "-y", help="Do it. Without it, only what would be done is shown.")
]


@dataclass(frozen=True, slots=True)
class Result:
    """What a verb found or did.

    Attributes
    ----------
    document : Any
        What `--json` prints, as `print_json` takes it.
    show : callable
        Prints the same as text.
    is_well : bool
        Whether the exit status is 0.
    """

    document: Any
    show: Callable[[], None]
    is_well: bool = True


@dataclass(frozen=True, slots=True)
class Selection:
    """A cache, and which of its series to work on."""

    folder: CacheFolder
    filter: SeriesFilter

    @classmethod
    def of_options(
        cls,
        folder: CacheFolder,
        symbols: Annotated[
            list[str] | None,
            typer.Argument(
                help="Symbols; * and ? stand for any text and one character [default: all].", show_default=False
            ),
        ] = None,
        market: Annotated[
            list[Market] | None,
            typer.Option("--market", "-m", help="Only this market (repeatable).", show_default=False),
        ] = None,
        kind: Annotated[
            list[Kind] | None,
            typer.Option("--kind", "-k", help="Only this kind (repeatable).", show_default=False),
        ] = None,
        interval: Annotated[
            list[Interval] | None,
            typer.Option(
                "--interval",
                "-i",
                help="Only this length of a bar (repeatable).",
                parser=interval_of,
                metavar=INTERVAL_NAMES,
                show_default=False,
            ),
        ] = None,
    ) -> Selection:
        """The series that the options name."""
        filter_ = SeriesFilter(
            markets=tuple(market or ()),
            kinds=tuple(kind or ()),
            symbols=tuple(symbols or ()),
            intervals=tuple(interval or ()),
        )
        return cls(folder, filter_)

    def series(self) -> list[SeriesKey]:
        """The series that the filter matches, in order; see `expect_some`."""
        return self.expect_some(self.filter.choose(self.folder))

    def expect_some(self, found: list[_T]) -> list[_T]:
        """Return what was found, unchanged. To check nothing, and so find nothing wrong, is not a success.

        Raises
        ------
        typer.Exit
            Nothing was found. A cache that exists may be empty, if no filter is given.
        """
        if not found and not (self.filter == EVERYTHING and self.folder.root.is_dir()):
            raise self.nothing()
        return found

    def nothing(self) -> typer.Exit:
        """Complain that the cache has nothing that the filter matches, and return what to raise."""
        return exit_with(EXIT_INCOMPLETE, f"nothing of that is in the cache {self.folder.root}")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The options --start and --end, as they were given."""

    start: Annotated[
        str | None,
        typer.Option("--start", help="First moment: an ISO date or time [default: the first].", show_default=False),
    ] = None
    end: Annotated[
        str | None,
        typer.Option(
            "--end",
            help="First moment after the span: ISO date or time, or `now` [default: the last].",
            show_default=False,
        ),
    ] = None

    @property
    def span(self) -> Span | None:
        """The span between them; None if neither was given. A missing bound is the first or last moment there is.

        Raises
        ------
        TimeError
            A bound is not a time, or the end comes before the start.
        """
        if self.start is None and self.end is None:
            return None
        return Span(
            ALL_TIME.start_ms if self.start is None else parse_time(self.start),
            ALL_TIME.end_ms if self.end is None else parse_time(self.end),
        )


# For each type, the callable that builds it, and its parameters: options, except for `folder`.
_BUILDERS: Final[dict[Any, tuple[Callable[..., Any], tuple[Parameter, ...]]]] = {
    kind: (build, tuple(signature(build, eval_str=True).parameters.values()))
    for kind, build in ((Selection, Selection.of_options), (Bounds, Bounds))
}
_LAST: Final = (
    Parameter("cache", Parameter.KEYWORD_ONLY, default=None, annotation=CacheOption),
    Parameter(
        "json",
        Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")],
    ),
)


def verb(function: Callable[..., Result]) -> Callable[..., None]:
    """Make a command of a verb: it prints the result, and exits with its status.

    A parameter of type `Selection` stands for the symbols and filters, one of type `Bounds` for --start and --end.
    `folder`, of type `CacheFolder`, gets the cache. Every other parameter is an option itself. The options come in
    the order of the parameters, --cache and --json last.
    """
    parameters = signature(function, eval_str=True).parameters
    builders = {
        name: _BUILDERS[parameter.annotation]
        for name, parameter in parameters.items()
        if parameter.annotation in _BUILDERS
    }

    @wraps(function)
    def command(*, cache: Path | None, json: bool, **values: Any) -> None:
        with exit_status_of_errors():
            values["folder"] = CacheFolder.at(cache)
            for name, (build, parts) in builders.items():
                values[name] = build(**{part.name: values[part.name] for part in parts})
            result = function(**{name: values[name] for name in parameters})
            if json:
                print_json(result.document)
            else:
                result.show()
            if not result.is_well:
                raise typer.Exit(EXIT_INCOMPLETE)

    options = [option for parameter in parameters.values() for option in _options_of(parameter)]
    # Typer reads it.
    command.__signature__ = Signature([*options, *_LAST])  # type: ignore[attr-defined]
    return command


def _options_of(parameter: Parameter) -> Iterator[Parameter]:
    """The options that a parameter of a verb stands for."""
    if parameter.annotation in _BUILDERS:
        for part in _BUILDERS[parameter.annotation][1]:
            yield from _options_of(part)
    elif parameter.annotation is not CacheFolder:
        yield parameter.replace(kind=Parameter.KEYWORD_ONLY)
