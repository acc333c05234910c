"""A verb that is killed or stopped anywhere loses no bar, and the same verb goes on from there to the same end.

Each verb that changes something runs in processes that end at an event: a file opened, made, renamed or removed, a
lock taken, a step of `fault_points`. Afterwards each bar is as before or as it should be, or its file is named as
set aside. The verb runs again: now all is as if it had never been disturbed, and no temporary file is left. `make
test` samples the events, `make kills` takes them all.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.cache import CacheFolder, KlineCache, SeriesStore
from ckvd.errors import SegmentError
from ckvd.maintenance.quarantine import list_quarantine, quarantine_file
from ckvd.maintenance.verification import Trouble, is_clean, verify_cache
from ckvd.model.market import DAY_MS, HOUR_MS, SeriesKey
from ckvd.model.timespan import Span
from support import command
from support.archives import make_archive, path_of, zip_text
from support.caches import download
from support.kills import STATUSES, Killed, run_forked, sample
from support.loopback.mirror import publish
from support.places import SOURCES, TESTS
from support.tables import regular_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BITCOIN, ETHER = SeriesKey.of("BTCUSDT", "12h"), SeriesKey.of("ETHUSDT", "12h")
STEP_MS = 12 * HOUR_MS
JANUARY, FEBRUARY = Span.of("2023-01-01", "2023-02-01"), Span.of("2023-02-01", "2023-03-01")
BOTH = Span.of("2023-01-01", "2023-03-01")
SPAN = ("--start", "2023-01-01", "--end", "2023-03-01")
EVENTS_IN_SAMPLE = 2


# --- What is in a folder -----------------------------------------------------------------------------------

Bars = dict[tuple[SeriesKey, int], tuple[float, ...]]


def bars_of(folder: CacheFolder) -> Bars:
    """Every cell of every bar that can be read."""
    found: Bars = {}
    with KlineCache(folder.root) as cache:
        for series in folder.series():
            try:
                klines = cache.read_series(series, BOTH, missing="ignore")
            except SegmentError:
                continue  # damaged: nothing of it can be lost any more
            names = [name for name in klines.column_names if name != "open_time"]
            cells = zip(*(klines[name].tolist() for name in names), strict=True)
            found |= {(series, open_ms): row for open_ms, row in zip(klines.open_time.tolist(), cells, strict=True)}
    return found


def state_of(folder: CacheFolder) -> dict[str, Any]:
    """What users can ask of a cache: cells, gaps and their reasons, what is missing, sources, the quarantine."""
    state: dict[str, Any] = {"bars": bars_of(folder)}
    with KlineCache(folder.root) as cache:
        for series in folder.series():
            klines = cache.read_series(series, BOTH, missing="ignore")
            gaps = [(gap.start_ms, gap.end_ms, gap.reason) for gap in klines.gaps]
            state[str(series)] = (gaps, klines.missing, klines.sources, cache.coverage(series))
    state["quarantine"] = [(one.series, one.file_name, one.reason) for one in list_quarantine(folder)]
    return state


def temporaries_in(root: Path) -> list[str]:
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.name.startswith(".download-") or path.suffix in (".tmp", ".part")
    )


# --- The verbs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verb:
    """A verb that changes something.

    Attributes
    ----------
    words : str
        With `{mirror}`, `{url}` and `{out}` in them.
    prepare : callable
        Takes an empty cache and the mirror, and fills the cache.
    again : tuple of int
        The statuses with which it may end when it runs again after it was done.
    """

    words: str
    prepare: Callable[[CacheFolder, Path], None]
    again: tuple[int, ...] = (0,)
    is_over_http: bool = field(default=False)


def nothing(_folder: CacheFolder, _mirror: Path) -> None:
    """The verb begins with an empty cache."""


def filled(folder: CacheFolder, mirror: Path) -> None:
    download(folder.root, BITCOIN, BOTH, mirror)
    download(folder.root, ETHER, JANUARY, mirror)


def begun(folder: CacheFolder, mirror: Path) -> None:
    """January alone: an update fetches February, and says that there are no later archives."""
    download(folder.root, BITCOIN, JANUARY, mirror)
    download(folder.root, ETHER, JANUARY, mirror)


def in_days(folder: CacheFolder, _mirror: Path) -> None:
    for number in range(59):
        span = Span(BOTH.start_ms + number * DAY_MS, BOTH.start_ms + (number + 1) * DAY_MS)
        SeriesStore(folder, BITCOIN).put(regular_table(BITCOIN, span, volume=1e9, quote_volume=1e9), span)


def put(folder: CacheFolder, mark: float) -> Path:
    """Put a segment of January into the cache that wins over the others. Its bars open at a price of their own."""
    table = regular_table(BITCOIN, JANUARY, open=mark, high=1e9, volume=1e9, quote_volume=1e9)
    return SeriesStore(folder, BITCOIN).put(table, JANUARY)


def damaged(folder: CacheFolder, mirror: Path) -> None:
    """A damaged segment hides an older one, which must not come back."""
    put(folder, 1.0)
    path = put(folder, 2.0)
    path.write_bytes(path.read_bytes()[:-1])
    download(folder.root, ETHER, JANUARY, mirror)


def set_aside(folder: CacheFolder, mirror: Path) -> None:
    """A segment was set aside above an older one. It is not damaged."""
    put(folder, 1.0)
    quarantine_file(folder, BITCOIN, put(folder, 2.0).name, "of no use")
    download(folder.root, ETHER, JANUARY, mirror)


def left(folder: CacheFolder, mirror: Path) -> None:
    set_aside(folder, mirror)
    (folder.series_path(BITCOIN) / ".x.ckvd.1-aaaaaaaa.tmp").write_bytes(b"x")
    (folder.root / ".download-x").mkdir()
    (folder.root / ".download-x" / "archive-1.zip.part").write_bytes(b"x")


def older(folder: CacheFolder, mirror: Path) -> None:
    """January is that of an archive that was published anew since."""
    stale = mirror.parent / "stale"
    path = path_of("BTCUSDT", "12h", "2023-01")
    publish(stale, path, other_archive(path))
    download(folder.root, BITCOIN, JANUARY, stale)
    download(folder.root, ETHER, JANUARY, mirror)


FOLDER = "--vision-url {mirror}"
VERBS = {
    "download": Verb(f"download BTCUSDT ETHUSDT -i 12h {' '.join(SPAN)} --no-rest {FOLDER}", nothing, (0, 1)),
    "download over HTTP": Verb(
        f"download BTCUSDT -i 12h {' '.join(SPAN)} --no-rest --vision-url {{url}}", nothing, is_over_http=True
    ),
    "download of the rest": Verb(f"download BTCUSDT -i 12h {' '.join(SPAN)} --no-rest {FOLDER}", older),
    "update": Verb(f"update --no-rest {FOLDER}", begun, (0, 1)),
    "pack": Verb("cache pack --yes --thorough", in_days),
    "prune a span": Verb("cache prune BTCUSDT --start 2023-01-10 --end 2023-02-05 --yes", filled),
    "prune a series": Verb("cache prune ETHUSDT --yes", filled, (0, 1)),
    "prune what is aside": Verb("cache prune --quarantine --leftovers --yes", left),
    "repair": Verb(f"cache repair --yes {FOLDER}", damaged),
    "repair by days": Verb(f"cache repair BTCUSDT --prefer days --yes {FOLDER}", older, (0, 1)),
    "audit": Verb(f"cache audit --yes {FOLDER}", older),
    "restore": Verb("cache quarantine --restore all --yes", set_aside, (0, 1)),
    "export": Verb("cache export --to {out} --cut month --overwrite", filled),
    "export parquet": Verb("cache export --to {out} --format parquet --overwrite", filled),
    "lock": Verb("cache lock {out}/data.lock --overwrite", filled),
    "refresh the universe": Verb(f"universe refresh --no-rest {FOLDER}", filled),
}


def other_archive(path: str) -> bytes:
    """An archive of January in which each bar differs from that of the mirror."""
    rows = (
        f"{open_ms},10.00,12.50,9.75,11.25,{row}.5,{open_ms + STEP_MS - 1},{row}.25,{row},0.5,0.25,0\n"
        for row, open_ms in enumerate(range(JANUARY.start_ms, JANUARY.end_ms, STEP_MS))
    )
    return zip_text(path.rpartition("/")[2], rows)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kills") / "mirror"
    for symbol, labels in (("BTCUSDT", ("2023-01", "2023-02")), ("ETHUSDT", ("2023-01",))):
        for label in labels:
            path = path_of(symbol, "12h", label)
            publish(root, path, make_archive(path))
    for day in range(1, 32):
        path = path_of("BTCUSDT", "12h", f"2023-01-{day:02}")
        publish(root, path, make_archive(path))
    return root


# Serves a folder until its input ends. A process of its own: a child that is forked beside threads may hang.
SERVER = """
import sys
from pathlib import Path
from support.loopback.mirror import Mirror

with Mirror(Path(sys.argv[1])) as mirror:
    print(mirror.base_url, flush=True)
    sys.stdin.read()
"""


@contextmanager
def served(root: Path) -> Iterator[str]:
    """The address of a mirror that another process serves."""
    environment = {"PYTHONPATH": f"{SOURCES}:{TESTS}"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, root],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.communicate(timeout=command.TIMEOUT_S)


# --- Killing them ------------------------------------------------------------------------------------------


class Place:
    """A cache before a verb, a folder for what it writes elsewhere, and copies of both."""

    def __init__(self, verb: Verb, root: Path, mirror: Path, url: str) -> None:
        self.verb, self._root, self._mirror, self._url = verb, root, mirror, url
        base = CacheFolder(root / "base" / "cache")
        base.make_path(base.root)
        (root / "base" / "out").mkdir()
        verb.prepare(base, mirror)

    def copy(self) -> tuple[CacheFolder, Path]:
        here = self._root / "copy"
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(self._root / "base", here)
        return CacheFolder(here / "cache"), here / "out"

    def run(self, folder: CacheFolder, number: int = signal.SIGKILL, event: int = -1) -> Killed:
        here = folder.root.parent
        words = [
            word.format(mirror=self._mirror, url=self._url, out=here / "out") for word in self.verb.words.split()
        ]
        return run_forked([*words, "--cache", folder.root], here, number, event)


def texts_in(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def assert_nothing_is_lost(folder: CacheFolder, before: Bars, after: Bars) -> None:
    """Each bar is as it was, or as it should be afterwards, or its file is named as set aside."""
    found = bars_of(folder)
    aside = {one.series for one in list_quarantine(folder)}
    for key in before.keys() | after.keys() | found.keys():
        was, will_be, now = (bars.get(key) for bars in (before, after, found))
        assert now in (was, will_be) or (now is None and key[0] in aside), key


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_that_is_killed_anywhere_loses_nothing_and_goes_on(tmp_path: Path, mirror: Path, name: str) -> None:
    verb = VERBS[name]
    with ExitStack() as stack:
        url = stack.enter_context(served(mirror)) if verb.is_over_http else ""
        place = Place(verb, tmp_path, mirror, url)
        folder, out = place.copy()
        before, before_it = bars_of(folder), set(temporaries_in(folder.root.parent))
        whole = place.run(folder)
        assert (whole.status, "Traceback" in whole.err) == (0, False), whole
        expected, written = state_of(folder), texts_in(out)
        assert_in_order(folder)
        for event, number in chosen_of(name, whole.event_count):
            folder, out = place.copy()
            killed = place.run(folder, number, event)
            where = (name, event, number.name, killed)
            if killed.status == 0 and killed.event_count <= event:
                continue  # threads were in luck: it was done before
            assert (killed.status, "Traceback" in killed.err) == (STATUSES[number], False), where
            if number is not signal.SIGKILL:
                assert killed.err.splitlines()[-1].startswith("ckvd: "), where
                assert set(temporaries_in(folder.root.parent)) <= before_it, where
            assert_nothing_is_lost(folder, before, expected["bars"])
            again = place.run(folder)
            assert again.status in verb.again, (where, again)
            assert temporaries_in(folder.root.parent) == [], where
            assert state_of(folder) == expected, where
            assert texts_in(out) == written, where
            assert_in_order(folder)


def chosen_of(name: str, event_count: int) -> Iterator[tuple[int, signal.Signals]]:
    """At which events to send which signal."""
    numbers = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT]
    first = random.Random(name).randrange(len(numbers))
    for position, event in enumerate(sample(name, event_count, EVENTS_IN_SAMPLE)):
        yield event, numbers[(first + position) % len(numbers)]


def assert_in_order(folder: CacheFolder) -> None:
    findings = [one for one in verify_cache(folder) if one.trouble in (Trouble.LEFTOVER, Trouble.MISFILED)]
    assert (findings, is_clean(list(verify_cache(folder)))) == ([], True)
