"""The verbs of the command line on caches whose disk fails, and what must hold whichever call fails.

`VERBS` are the commands, each with the cache that it begins with. `Workplace.check` runs one of them with a fault,
and returns what is wrong with the outcome:

- It ends by itself, within seconds, without a traceback.
- Status 0 means that it did all that it does on a sound disk, and printed the same.
- Any other status comes with a line that names the error, unless all that was to be done is done.
- No bar is lost: what the cache held is there, or was to be removed, or the cache names its span.
- The same command, repeated on a sound disk, brings what it brings without a fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cache.open_segments import open_named
from ckvd.cache.resolution import hull, resolve
from ckvd.cache.rows import column_of
from ckvd.errors import SegmentError
from ckvd.maintenance.data_lock import format_lock, lock_data
from ckvd.maintenance.quarantine import list_quarantine
from ckvd.maintenance.repair import find_lost, repair
from ckvd.maintenance.verification import is_clean, verify_cache
from ckvd.model.calendar import Period, days_of
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Absence, Reason
from ckvd.model.table import fields_of
from ckvd.model.timespan import Span
from ckvd.vision.name import ArchiveName
from support.caches import download, flip, older_key
from support.faulty_disk import CALLS, CHANGES, GROWTH, LASTING, SHORT, Fault, FaultyCommands
from support.places import SAMPLES
from support.tables import make_table, regular_table
from support.venue import Venue
from support.wrong_month import WrongMonth, falsify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.command import Finished

UM_HOURS: Final = SeriesKey.of("BTCUSDT", "1h", market="um")
WINTER: Final = Span.of("2024-12-01", "2025-02-01")
MINUTES: Final = SeriesKey.of("BTCUSDT", "1m")
NEW_YEAR: Final = Span.of("2024-12-31", "2025-01-02")
MADE: Final = SeriesKey.of("ETHUSDT", "1h")
MADE_DAYS: Final = Span.of("2023-01-01", "2023-01-13")
PHANTOM: Final = SeriesKey.of("BTCUSTD", "1h")

# --- Caches ------------------------------------------------------------------------------------------------


def fill_empty(place: Path) -> None:
    (place / "cache").mkdir()


def fill_sound(place: Path) -> None:
    """Two months of hours, two days of minutes, and twelve days of hours that can be packed."""
    folder = download(place / "cache", UM_HOURS, WINTER)
    download(place / "cache", MINUTES, NEW_YEAR)
    for period in days_of(MADE_DAYS):
        SeriesStore(folder, MADE).put(regular_table(MADE, period.span), period.span)
    (place / "the.lock").write_text(format_lock(lock_data(folder)), "utf-8")


def fill_replaced(place: Path) -> None:
    """As `fill_sound`, with some days that newer segments have replaced."""
    fill_sound(place)
    folder = CacheFolder(place / "cache")
    for days in (("2023-01-02", "2023-01-03"), ("2023-01-04", "2023-01-07")):
        SeriesStore(folder, MADE).put(regular_table(MADE, Span.of(*days), volume=1e6), Span.of(*days))


def fill_damaged(place: Path) -> None:
    """All that can be repaired.

    A flipped bit in a month that a source has, and in days that none has, over older ones; two segments with each
    other's names; a folder under a second name; a symbol of which no source had anything.
    """
    fill_replaced(place)
    folder = CacheFolder(place / "cache")
    flip(min(folder.series_path(UM_HOURS).glob("*.ckvd")))
    newest = max(folder.segments(MADE), key=lambda name: name.revision)
    path = folder.series_path(MADE)
    flip(path / newest.file_name)
    first, second = sorted(name for name in folder.segments(MADE) if name.revision in (10, 11))
    (path / first.file_name).rename(path / "x")
    (path / second.file_name).rename(path / first.file_name)
    (path / "x").rename(path / second.file_name)
    contract = older_key("BTCUSD_PERP", "1h", market="cm", kind="indexPriceKlines")
    for period in days_of(Span.of("2023-01-01", "2023-01-03")):
        SeriesStore(folder, contract).put(regular_table(contract, period.span), period.span)
    nothing = Span.of("2023-01-01", "2023-01-02")
    absence = Absence(nothing.start_ms, nothing.end_ms, Reason.NO_ARCHIVE, nothing.end_ms)
    SeriesStore(folder, PHANTOM).put(make_table(PHANTOM, []), nothing, absences=[absence])


def fill_quarantined(place: Path) -> None:
    """As `fill_damaged`, with all that is damaged set aside."""
    fill_damaged(place)
    folder = CacheFolder(place / "cache")
    asyncio.run(repair(folder, list(verify_cache(folder))))


def fill_wrong(place: Path) -> None:
    """A month whose archive is complete and has wrong cells, beside a mirror with the right days."""
    with Venue(place, "2023-03-20T10:30") as venue:
        WrongMonth(venue)
    (place / "klines").rename(place / "cache")
    (place / "vision").rename(place / "mirror")


def fill_changed(place: Path) -> None:
    """As `fill_sound`, beside a mirror in which a month was published anew."""
    fill_sound(place)
    shutil.copytree(SAMPLES, place / "mirror")
    with Venue(place, "2025-03-20T10:30", mirror_root=place / "mirror") as venue:
        month = ArchiveName(UM_HOURS, Period.of_label("2025-01"))
        with zipfile.ZipFile(place / "mirror" / month.path) as archive:
            (content,) = map(archive.read, archive.namelist())
        rows = [tuple(line.split(",")) for line in content.decode().split()[1:]]
        falsified = [falsify(row) if number % 100 == 7 else row for number, row in enumerate(rows)]
        venue.publish(UM_HOURS, "2025-01", falsified)


FILLERS: Final = {
    filler.__name__.removeprefix("fill_"): filler
    for filler in (fill_empty, fill_sound, fill_replaced, fill_damaged, fill_quarantined, fill_wrong, fill_changed)
}

# --- Verbs -------------------------------------------------------------------------------------------------

DOWNLOAD: Final = "download BTCUSDT -i 1h -m um --start 2024-12-01 --end 2025-02-01 --no-rest --vision-url"
DAYS: Final = "download BTCUSDT -i 1m --start 2024-12-31 --end 2025-01-02 --no-rest --vision-url"
# By a name: which cache it begins with, and the words.
VERBS: Final[dict[str, tuple[str, str]]] = {
    "download from a folder": ("empty", f"{DOWNLOAD} {{samples}}"),
    "download over HTTP": ("empty", f"{DOWNLOAD} {{http}}"),
    "download days over HTTP": ("empty", f"{DAYS} {{http}}"),
    "download of what is there": ("sound", f"{DOWNLOAD} {{samples}}"),
    "download after damage": ("quarantined", f"{DOWNLOAD} {{samples}}"),
    "download that packs": (
        "sound",
        "download ETHUSDT -i 1h --start 2023-02-01 --end 2023-03-01 --no-rest --vision-url {samples}",
    ),
    "update": ("sound", "update --no-rest --vision-url {samples}"),
    "show": ("replaced", "show ETHUSDT -i 1h --start 2023-01-01 --end 2023-01-13"),
    "list": ("replaced", "cache list"),
    "info": ("replaced", "cache info ETHUSDT -i 1h"),
    "stats": ("replaced", "cache stats"),
    "gaps": ("replaced", "cache gaps"),
    "verify": ("replaced", "cache verify"),
    "verify damage": ("damaged", "cache verify"),
    "verify quickly": ("replaced", "cache verify --quick"),
    "repair": ("damaged", "cache repair --yes --vision-url {samples}"),
    "repair over HTTP": ("damaged", "cache repair --yes --vision-url {http}"),
    "repair without fetching": ("damaged", "cache repair --yes --no-fetch"),
    "repair what is lost": ("quarantined", "cache repair --yes --vision-url {samples}"),
    "repair that is only shown": ("damaged", "cache repair"),
    "prefer days": ("wrong", "cache repair --prefer days --yes --vision-url {place}/mirror"),
    "quarantine": ("quarantined", "cache quarantine"),
    "restore": ("quarantined", "cache quarantine --restore all --yes"),
    "audit": ("changed", "cache audit --vision-url {place}/mirror"),
    "audit and store": ("changed", "cache audit --thorough --yes --vision-url {place}/mirror"),
    "audit against days": ("wrong", "cache audit --against days --vision-url {place}/mirror"),
    "pack": ("replaced", "cache pack --yes"),
    "pack that is only shown": ("replaced", "cache pack"),
    "prune a span": ("replaced", "cache prune --start 2023-01-05T12:00 --end 2025-01-01T12:00 --yes"),
    "prune to a size": ("replaced", "cache prune --max-size 0 --yes"),
    "prune a symbol": ("replaced", "cache prune ETHUSDT --yes"),
    "prune the quarantine": ("quarantined", "cache prune --quarantine --leftovers --yes"),
    "export CSV": ("replaced", "cache export --to {place}/out --cut month"),
    "export npz": ("replaced", "cache export --to {place}/out --format npz"),
    "export again": ("replaced", "cache export ETHUSDT --to {place}/out --overwrite"),
    "lock": ("replaced", "cache lock {place}/new.lock"),
    "check-lock": ("sound", "cache check-lock {place}/the.lock"),
}
# Not removed by a fault: what these verbs are asked to remove.
REMOVING: Final = {"prune a span", "prune to a size", "prune a symbol", "prune the quarantine"}

FAULTS: Final = [
    *(
        Fault((call,), error)
        for call, errors in {
            "open": (errno.EIO, errno.EACCES),
            "create": (errno.EROFS, errno.EACCES),
            "read": (errno.EIO,),
            "write": (errno.ENOSPC, errno.EIO),
            "truncate": (errno.EIO,),
            "sync": (errno.EIO,),
            "close": (errno.EIO,),
            "map": (errno.ENOMEM,),
            "rename": (errno.EIO, errno.EROFS),
            "unlink": (errno.EACCES, errno.EIO),
            "mkdir": (errno.ENOSPC,),
            "rmdir": (errno.EIO,),
            "list": (errno.EIO,),
            "lock": (errno.EIO,),
            "status": (errno.EIO,),
        }.items()
        for error in errors
    ),
    Fault(("write",), mode=SHORT),
    *(
        Fault((call,), error, LASTING)
        for call, error in {
            "open": errno.EIO,
            "create": errno.EACCES,
            "read": errno.EIO,
            "write": errno.EIO,
            "sync": errno.EIO,
            "rename": errno.EIO,
            "unlink": errno.EACCES,
            "list": errno.EIO,
            "lock": errno.ENOLCK,
            "map": errno.ENOMEM,
        }.items()
    ),
    Fault(CHANGES, errno.EROFS, LASTING),
    Fault(GROWTH, errno.ENOSPC, LASTING),
    Fault(("open", "read", "list", "map", "status", *CHANGES), errno.EIO, LASTING),
]

# --- What is there -----------------------------------------------------------------------------------------

Bars: TypeAlias = dict[tuple[SeriesKey, int], bytes]


def bars_of(folder: CacheFolder) -> Bars:
    """Every bar that can be read and whose segment is sound, bit by bit."""
    found: Bars = {}
    for series in folder.series():
        names = folder.segments(series)
        for winner in resolve(hull(names), names):
            with contextlib.suppress(SegmentError), open_named(folder, series, winner.segment) as reader:
                reader.verify()
                rows = reader.rows.between(winner.span.start_ms, winner.span.end_ms)
                opens = column_of(rows, "open_time", series).tolist()
                bits = np.stack(
                    [column_of(rows, name, series).view(np.uint64) for name in fields_of(series)], axis=1
                )
                del rows
                found |= {(series, moment): row.tobytes() for moment, row in zip(opens, bits, strict=True)}
    return found


@dataclass(frozen=True, slots=True)
class State:
    """What a command leaves behind: bars, files in quarantine, and exported files."""

    bars: Bars
    quarantine: list[str]
    files: dict[str, bytes]
    is_clean: bool

    @classmethod
    def of(cls, place: Path) -> State:
        folder = CacheFolder(place / "cache")
        findings = list(verify_cache(folder))
        return cls(
            bars_of(folder),
            sorted(f"{aside.series} {aside.file_name}" for aside in list_quarantine(folder)),
            {str(path.relative_to(place)): path.read_bytes() for path in files_of(place)},
            is_clean(findings) and not find_lost(folder, findings=findings),
        )


def files_of(place: Path) -> Iterator[Path]:
    for path in sorted((place / "out").rglob("*")):
        if path.is_file() and path.suffix != ".tmp":  # one that could not be removed
            yield path
    yield from sorted(place.glob("*.lock"))


def files_within(place: Path) -> dict[str, tuple[int, int]]:
    """The files of a place but those that the state of none depends on."""
    statuses = ((path, path.stat()) for path in place.rglob("*") if path.parent.name != ".locks")
    return {
        str(path.relative_to(place)): (one.st_size, one.st_mtime_ns) for path, one in statuses if path.is_file()
    }


def named_spans(folder: CacheFolder) -> dict[SeriesKey, list[Span]]:
    """The spans that are wrong or lost by what the cache says."""
    findings = list(verify_cache(folder))
    named: dict[SeriesKey, list[Span]] = {}
    for finding in [*findings, *find_lost(folder, findings=findings)]:
        if finding.series is not None and finding.span is not None:
            named.setdefault(finding.series, []).append(finding.span)
    return named


# --- The check ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Workplace:
    """A folder in which verbs are run, each on a new copy of its cache."""

    root: Path
    commands: FaultyCommands
    http: str
    _templates: dict[str, Path] = field(default_factory=dict)
    _sound: dict[str, tuple[Finished, State, State]] = field(default_factory=dict)
    _counts: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        return self.root / "place"

    def prepare(self, verb: str) -> list[str]:
        """Put the cache of a verb in place, and return the words of its command."""
        name, words = VERBS[verb]
        if name not in self._templates:
            made = self.root / "templates" / name
            made.mkdir(parents=True)
            FILLERS[name](made)
            self._templates[name] = made
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self._templates[name], self.place)
        if verb == "export again":
            target = self.place / "out/spot/klines/ETHUSDT/1h/ETHUSDT-1h-2023-01-01-2023-01-13.csv"
            target.parent.mkdir(parents=True)
            target.write_text("before")
        filled = words.format(samples=SAMPLES, http=self.http, place=self.place).split(" ")
        return [*filled, "--cache", str(self.place / "cache")]

    def sound(self, verb: str) -> tuple[Finished, State, State]:
        """How a verb ends on a sound disk, and what there is before and after it."""
        if verb not in self._sound:
            words = self.prepare(verb)
            before = State.of(self.place)
            finished, tally = self.commands.run(*words, fault=Fault(CALLS), folder=self.place)
            self._sound[verb] = finished, before, State.of(self.place)
            self._counts[verb] = Counter(line.partition(" ")[0] for line in tally)
        return self._sound[verb]

    def count(self, verb: str, calls: tuple[str, ...]) -> int:
        """How many of these calls a verb makes on a sound disk."""
        self.sound(verb)
        return sum(self._counts[verb][call] for call in calls)

    def check(self, verb: str, fault: Fault) -> list[str]:
        """Run a verb with a fault; return what is wrong with the outcome."""
        expected, before, wanted = self.sound(verb)
        words = self.prepare(verb)
        ended, tally = self.commands.run(*words, fault=fault, folder=self.place)
        if not any(line.startswith("!") for line in tally):
            return []
        wrong = list(_faults_of_ending(ended))
        is_untouched = files_within(self.place) == files_within(self._templates[VERBS[verb][0]])
        found = before if is_untouched else State.of(self.place)
        is_done = (found.bars, found.quarantine, found.files) == (wanted.bars, wanted.quarantine, wanted.files)
        if ended.status == 0 and not (is_done and lines_of(ended) == lines_of(expected)):
            wrong.append(f"status 0, and not what is wanted: {_difference(ended, expected, found, wanted)}")
        is_same = is_done and (ended.status, lines_of(ended)) == (expected.status, lines_of(expected))
        is_named = os.strerror(fault.error) in ended.out + ended.err
        if ended.status and fault.mode != SHORT and not is_named and not is_same:
            wrong.append("the error is not named")
        if fault.mode == SHORT and (ended.status != expected.status or not is_done):
            wrong.append("half a write made a difference")
        wrong += self._losses(verb, before, wanted, found)
        # Repeated, it would be the command on a sound disk.
        if not is_untouched and not (ended.status == 0 and is_done):
            wrong += self._repeat(verb, words)
        if wrong:
            failed = [line for line in tally if line.startswith("!")]
            wrong.append(f"status {ended.status}\n--- out\n{ended.out[-600:]}--- err\n{ended.err[-3000:]}")
            wrong.append(f"--- failed {failed[:3]}")
        return wrong

    def _repeat(self, verb: str, words: list[str]) -> Iterator[str]:
        expected, _, wanted = self.sound(verb)
        again, _ = self.commands.run(*words, fault=Fault(()), folder=self.place)
        repeated = State.of(self.place)
        if "is there already" in again.err and verb.startswith(("export", "lock")):
            again, _ = self.commands.run(*words, "--overwrite", fault=Fault(()), folder=self.place)
            repeated = State.of(self.place)
        if verb not in REMOVING and again.status != expected.status and again.status:
            yield f"repeated, it ends with {again.status}: {again.err}"
        if repeated.bars != wanted.bars or repeated.files != wanted.files:
            yield f"repeated, it brings something else: {_difference(again, expected, repeated, wanted)}"
        if wanted.is_clean and not repeated.is_clean:
            yield "repeated, it leaves something wrong"

    def _losses(self, verb: str, before: State, wanted: State, found: State) -> Iterator[str]:
        kept = {key: bar for key, bar in before.bars.items() if verb not in REMOVING or key in wanted.bars}
        gone = [key for key, bar in kept.items() if found.bars.get(key) not in (bar, wanted.bars.get(key))]
        if gone:
            named = named_spans(CacheFolder(self.place / "cache"))
            lost = [key for key in gone if not any(key[1] in span for span in named.get(key[0], ()))]
            if lost:
                yield f"{len(lost)} bars are lost, the first {lost[0]}"
        if verb not in REMOVING and not set(before.quarantine) <= set(found.quarantine) and verb != "restore":
            yield "a file is gone from the quarantine"


def lines_of(ended: Finished) -> list[str]:
    """What was printed. The order may depend on when files were read last."""
    return sorted(ended.out.splitlines())


def _faults_of_ending(ended: Finished) -> Iterator[str]:
    if ended.status < 0:
        yield f"ended by signal {-ended.status}"
    elif ended.status > 1:
        yield f"status {ended.status}"
    if "Traceback" in ended.err or "Exception ignored" in ended.err or "never awaited" in ended.err:
        yield "a traceback"
    if ": cannot be used: " in ended.err:
        yield "an error that the library did not translate"
    if ended.status and not (ended.err or ended.out):
        yield "no word"


def _difference(ended: Finished, expected: Finished, found: State, wanted: State) -> str:
    parts = []
    if ended.out != expected.out:
        parts.append("out")
    for name in ("bars", "quarantine", "files"):
        one, other = getattr(found, name), getattr(wanted, name)
        if one != other:
            parts.append(f"{name} {len(one)} for {len(other)}")
    return ", ".join(parts) or f"status {ended.status} for {expected.status}"
