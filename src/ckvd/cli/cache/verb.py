"""What all verbs of `ckvd cache` share: choosing series, `--cache`, `--json` and the exit status.

A verb takes a `Selection` or a folder, and options of its own, and returns a `Result`. The decorator `verb` is the
only place that prints results and translates errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckvd.cli import EXIT_INCOMPLETE
from ckvd.cli.options import cache_option, exit_status_of_errors, exit_with, json_option
from ckvd.cli.printing import complain, print_json
from ckvd.errors import CacheError, CkvdError, containing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ckvd.cache.folder import CacheFolder
    from ckvd.cache.selection import SeriesFilter
    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span

_T = TypeVar("_T")
_Done = TypeVar("_Done")


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
    """A cache, and which of its series to work on.

    Attributes
    ----------
    folder : CacheFolder
    filter : SeriesFilter
    refusals : list of str
        What could not be read or written, and did not stop the verb. The command names it, and ends with status 1.
    """

    folder: CacheFolder
    filter: SeriesFilter
    refusals: list[str] = field(default_factory=list)

    def series(self) -> list[SeriesKey]:
        """The series that the filter matches, in order; see `expect_some`."""
        return self.expect_some(self.filter.choose(self.folder, self.refuse))

    def refuse(self, error: CkvdError) -> None:
        """Note what could not be read or written."""
        if str(error) not in self.refusals:
            self.refusals.append(str(error))

    def work_on(self, items: Iterable[_T], work: Callable[[_T], _Done]) -> list[_Done]:
        """Do some work for each series, or each thing of one. One that cannot be read or written is refused."""
        done = []
        for item in items:
            with containing(self.refuse):
                done.append(work(item))
        return done

    def expect_some(self, found: list[_T]) -> list[_T]:
        """Return what was found, unchanged. To check nothing, and so find nothing wrong, is not a success.

        Raises
        ------
        click.exceptions.Exit
            Nothing was found. A cache that exists may be empty, if no filter is given.
        """
        from ckvd.cache.selection import EVERYTHING  # noqa: PLC0415  (see `ckvd.cli.app`)

        if not found and not (self.filter == EVERYTHING and self.folder.has_root()):
            raise self.nothing()
        return found

    def nothing(self) -> click.exceptions.Exit:
        """Complain that the cache has nothing that the filter matches, and return what to raise."""
        return exit_with(EXIT_INCOMPLETE, f"nothing of that is in the cache {self.folder.root}")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The options --start and --end, as they were given."""

    start: str | None = None
    end: str | None = None

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
        from ckvd.maintenance.pruning import ALL_TIME  # noqa: PLC0415  (see `ckvd.cli.app`)
        from ckvd.model.timespan import Span, parse_time  # noqa: PLC0415

        return Span(
            ALL_TIME.start_ms if self.start is None else parse_time(self.start),
            ALL_TIME.end_ms if self.end is None else parse_time(self.end),
        )


def verb(function: Callable[..., Result]) -> Callable[..., None]:
    """Let a verb have --cache and --json, print its result, and exit with its status.

    Of a verb with symbols and filters, it gets a `selection`, else the `folder`. Of one with --start and --end, it
    gets the `bounds`.
    """

    @cache_option
    @json_option
    @wraps(function)
    def command(*, cache: Path | None, json: bool, **given: Any) -> None:
        with exit_status_of_errors():
            from ckvd.cache.folder import CacheFolder  # noqa: PLC0415  (see `ckvd.cli.app`)

            folder = CacheFolder.at(cache)
            refusals: list[str] = []
            if "symbols" in given:
                given["selection"] = _select(folder, refusals, given)
            else:
                given["folder"] = folder
            if "start" in given:
                given["bounds"] = Bounds(given.pop("start"), given.pop("end"))
            try:
                result = function(**given)
            finally:
                for refusal in refusals:
                    complain(refusal)
            if given.get("yes"):
                _remove_leftovers(folder)
            if json:
                print_json(result.document)
            else:
                result.show()
            if refusals or not result.is_well:
                raise click.exceptions.Exit(EXIT_INCOMPLETE)

    return command


def _select(folder: CacheFolder, refusals: list[str], given: dict[str, Any]) -> Selection:
    """The series that the options choose, which are taken out of those given."""
    from ckvd.cache.selection import SeriesFilter  # noqa: PLC0415  (see `ckvd.cli.app`)

    filter_ = SeriesFilter(
        symbols=given.pop("symbols"),
        markets=given.pop("market"),
        kinds=given.pop("kind"),
        intervals=given.pop("interval"),
    )
    return Selection(folder, filter_, refusals)


def _remove_leftovers(folder: CacheFolder) -> None:
    """After a change, remove what killed processes left. `prune` and `repair` have named some of it before."""
    from ckvd.cache.leftovers import remove_leftovers  # noqa: PLC0415  (see `ckvd.cli.app`)

    try:
        remove_leftovers(folder)
    except CacheError as error:
        complain(str(error))
