"""A power cut at any moment leaves every bar that was held, and what was reported as done is on the disk.

Traces of real changes are played on a disk that keeps no more than it must (`support.power`). What it holds then is
read by a model of its own. No flush is needless: a trace without any one of them is found out.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest

from ckvd.acquisition.download import Download
from ckvd.acquisition.limits import IngestLimits
from ckvd.acquisition.planning import Wanted
from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cache.packing import pack_series
from ckvd.cache.resolution import resolve
from ckvd.errors import SegmentError
from ckvd.maintenance.export import ExportCut, export_series
from ckvd.maintenance.pruning import prune_span
from ckvd.maintenance.quarantine import list_quarantine, quarantine_file, restore
from ckvd.maintenance.repair import repair
from ckvd.maintenance.verification import verify_cache
from ckvd.model.market import DAY_MS, SeriesKey
from ckvd.model.timespan import Span, now_ms
from ckvd.segment import SegmentReader
from ckvd.vision.folder_source import FolderArchiveSource
from support.caches import flip
from support.places import SAMPLES
from support.power import Files, Operation, files_of, recorded, states
from support.tables import regular_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

HOURS = SeriesKey.of("BTCUSDT", "1h")
MARCH = Span.of("2023-03-01", "2023-04-01")
START_MS: Final = MARCH.start_ms
GOOD = {"high": 1e9, "low": 0.0, "volume": 1e9, "taker_buy_volume": 0.0, "quote_volume": 1e9}

Bars = dict[tuple[str, int], float]


def day(number: int, count: int = 1) -> Span:
    return Span(START_MS + number * DAY_MS, START_MS + (number + count) * DAY_MS)


def put(folder: CacheFolder, span: Span, mark: float) -> None:
    table = regular_table(HOURS, span, open=mark, close=mark, taker_buy_quote_volume=0.0, **GOOD)
    SeriesStore(folder, HOURS).put(table, span)


# --- What is done ------------------------------------------------------------------------------------------


def publish(folder: CacheFolder) -> None:
    put(folder, day(14), 99.0)


def publish_first(folder: CacheFolder) -> None:
    put(CacheFolder(folder.root.parent / "first"), day(14), 99.0)


def pack(folder: CacheFolder) -> None:
    assert pack_series(folder, HOURS).packed


def put_quickly(folder: CacheFolder, span: Span, mark: float) -> None:
    """As another process does that has more to store."""
    store = SeriesStore(folder, HOURS)
    table = regular_table(HOURS, span, open=mark, close=mark, taker_buy_quote_volume=0.0, **GOOD)
    winners = resolve(span, folder.segments(HOURS))
    assert store.put_in_place(winners, table, span, is_durable=False) is not None


def replace(folder: CacheFolder) -> None:
    put_quickly(folder, day(3, 2), 99.0)
    SeriesStore(folder, HOURS).remove_superseded()


def prune_beside(folder: CacheFolder) -> None:
    """The part of a segment that stays is in another one already, which is not durable yet."""
    put_quickly(folder, Span(day(3).start_ms + DAY_MS // 2, day(3).end_ms), 99.0)
    prune_span(folder, HOURS, Span(day(3).start_ms, day(3).start_ms + DAY_MS // 2))


def prune(folder: CacheFolder) -> None:
    prune_span(folder, HOURS, Span(day(2).start_ms + DAY_MS // 2, day(5).start_ms + DAY_MS // 2))


def prune_away(folder: CacheFolder) -> None:
    prune_span(folder, HOURS)


def fetch(folder: CacheFolder) -> None:
    work = Download(FolderArchiveSource(SAMPLES), folder, limits=IngestLimits(), now_ms=MARCH.end_ms + 90 * DAY_MS)
    report = asyncio.run(work.run([Wanted(HOURS, MARCH)]))
    assert len(report.stored) == 1


def _newest(folder: CacheFolder) -> Path:
    return max(folder.series_path(HOURS).glob("*.ckvd"), key=lambda path: int(path.stem.rpartition("-r")[2]))


def set_aside(folder: CacheFolder) -> None:
    """The newest segment hides two others, so that a tombstone comes for it."""
    assert quarantine_file(folder, HOURS, _newest(folder).name, "test") is not None


def put_back(folder: CacheFolder) -> None:
    (aside,) = list_quarantine(folder)
    restore(folder, aside)


def repair_damage(folder: CacheFolder) -> None:
    report = asyncio.run(repair(folder, list(verify_cache(folder))))
    assert len(report.quarantined) == 1


def repair_from_a_mirror(folder: CacheFolder) -> None:
    report = asyncio.run(repair(folder, list(verify_cache(folder)), FolderArchiveSource(SAMPLES)))
    assert report.is_complete
    assert len(report.quarantined) == 1


SCENARIOS: Final[dict[str, Callable[[CacheFolder], None]]] = {
    "publish": publish,
    "publish first": publish_first,
    "pack": pack,
    "replace": replace,
    "prune": prune,
    "prune beside": prune_beside,
    "prune away": prune_away,
    "download": fetch,
    "set aside": set_aside,
    "put back": put_back,
    "repair": repair_damage,
    "repair from a mirror": repair_from_a_mirror,
}


class Trace:
    """A change of a cache: what was there before, what was done, and what is there afterwards."""

    def __init__(self, root: Path, work: Callable[[CacheFolder], None]) -> None:
        folder = CacheFolder(root / "cache")
        for number in range(14):
            put(folder, day(number), float(number))
        if work in (set_aside, put_back):
            put(folder, day(3, 2), 99.0)
        if work is put_back:
            set_aside(folder)
        if work in (repair_damage, repair_from_a_mirror):
            flip(_newest(folder))
        self.before = files_of(root)
        with recorded(root) as self.operations:
            work(folder)
        self.after = files_of(root)[0]


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trace]:
    """The trace of a scenario, which is recorded once."""
    root = tmp_path_factory.mktemp("traces")

    @functools.cache
    def trace(name: str) -> Trace:
        (root / name).mkdir()
        return Trace(root / name, SCENARIOS[name])

    return trace


# --- What is held ------------------------------------------------------------------------------------------

_NAME: Final = re.compile(
    r"(?P<cache>[^/.]+)/(?P<aside>[.]quarantine/)?.*/(?P<start>\w+)-(?P<end>\w+)-r(?P<revision>\d+)[.]ckvd"
)


@dataclass
class Held:
    """What a state has."""

    # By cache and open time, as a read gives them.
    bars: Bars = field(default_factory=dict)
    # Bars that are kept, and whose absence is on record: in quarantine, or below a tombstone.
    kept: set[tuple[tuple[str, int], float]] = field(default_factory=set)
    # Files in quarantine, and those of them without a reason.
    aside: set[str] = field(default_factory=set)
    unexplained: list[str] = field(default_factory=list)
    segments: set[str] = field(default_factory=set)


class Reading:
    """Reads states: a newer segment replaces older ones in all of its span, and a damaged one has no bars."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._known: dict[bytes, dict[int, float] | None] = {}

    def _bars(self, content: bytes) -> dict[int, float] | None:
        if content not in self._known:
            self._known[content] = None
            self._place.write_bytes(content)
            with contextlib.suppress(SegmentError), SegmentReader(self._place) as reader:
                reader.verify()
                opens, values = (reader[name].tolist() for name in ("open_time", "open"))
                self._known[content] = dict(zip(opens, values, strict=True))
        return self._known[content]

    def read(self, files: Files) -> Held:
        held = Held()
        named = [(match, content) for path, content in files.items() if (match := _NAME.fullmatch(path))]
        for match, content in sorted(named, key=lambda one: int(one[0]["revision"])):
            cache, bars = match["cache"], self._bars(content)
            if match["aside"]:
                held.aside.add(match[0])
                held.kept |= {((cache, open_ms), value) for open_ms, value in (bars or {}).items()}
                is_back = match[0].replace(match["aside"], "") in files
                if not is_back and not _is_whole_reason(files.get(f"{match[0]}.json", b"")):
                    held.unexplained.append(match[0])
                continue
            held.segments.add(match[0])
            start_ms, end_ms = (_ms(match[bound]) for bound in ("start", "end"))
            for key in [key for key in held.bars if key[0] == cache and start_ms <= key[1] < end_ms]:
                hidden = (key, held.bars.pop(key))
                held.kept |= {hidden} if bars == {} else set()
            held.bars |= {(cache, open_ms): value for open_ms, value in (bars or {}).items()}
        return held


def _ms(text: str) -> int:
    return int(dt.datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC).timestamp()) * 1000


def _is_whole_reason(content: bytes) -> bool:
    try:
        return "reason" in json.loads(content)
    except ValueError:
        return False


def is_right(key: tuple[str, int], found: Held, before: Held, after: Held) -> bool:
    """Whether a bar is as before or as it should be afterwards, or is kept where its absence is on record."""
    value, was = found.bars.get(key), before.bars.get(key)
    if value is not None:
        return value in (was, after.bars.get(key))
    is_removed = key not in after.bars and (key, was) not in after.kept
    return was is None or is_removed or (key, was) in found.kept


def faults_of(trace: Trace, operations: Sequence[Operation], reading: Reading) -> Iterator[str]:
    """What a power cut during some operations costs, and what of their result it takes back after the last."""
    before, after = reading.read(trace.before[0]), reading.read(trace.after)
    for number, files in states(trace.before, operations):
        found = reading.read(files)
        place = f"after {number} of {len(operations)} operations"
        yield from (f"{place} {path} is in quarantine without a reason" for path in found.unexplained)
        for key in before.bars.keys() | after.bars.keys() | found.bars.keys():
            if not is_right(key, found, before, after):
                yield f"{place} the bar {key} is {found.bars.get(key)}"
                break
        is_done = (found.bars, found.segments) == (after.bars, after.segments) and found.aside >= after.aside
        if number == len(operations) and not is_done:
            yield f"{place} the disk has not what was reported"


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_power_cut_at_any_moment_costs_no_bar_and_takes_nothing_back_that_was_reported(
    traces: Callable[[str], Trace], tmp_path: Path, name: str
) -> None:
    trace = traces(name)
    assert list(faults_of(trace, trace.operations, Reading(tmp_path / "one.ckvd"))) == []


# What was set aside is durable before anything is fetched, and fetching flushes the same folder again.
_REPEATED: Final = {"repair from a mirror": 1}
# Nothing depends on the folder of lock files: without it, the next revision follows from the segments.
_LOCKS: Final = "first/.locks"


@pytest.mark.parametrize("name", SCENARIOS)
def test_without_any_one_flush_a_power_cut_would_cost_something(
    traces: Callable[[str], Trace], tmp_path: Path, name: str
) -> None:
    trace, reading = traces(name), Reading(tmp_path / "one.ckvd")
    made = [operation.path for operation in trace.operations]
    operations = trace.operations
    if _LOCKS in made:
        start = made.index(_LOCKS)
        operations = operations[:start] + operations[start + 2 :]
    flushes = [number for number, operation in enumerate(operations) if operation.kind.startswith("flush")]
    assert flushes
    needless = [
        f"{number}: {operations[number].kind} {operations[number].path}"
        for number in flushes
        if next(faults_of(trace, operations[:number] + operations[number + 1 :], reading), None) is None
    ]
    assert len(needless) == _REPEATED.get(name, 0), needless


# --- How often ---------------------------------------------------------------------------------------------


def flushes_of(operations: Sequence[Operation]) -> tuple[Counter[str], Counter[str]]:
    """How often each file and each folder was flushed."""
    files, folders = (
        Counter(operation.path for operation in operations if operation.kind == kind)
        for kind in ("flush file", "flush folder")
    )
    return files, folders


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_new_file_is_flushed_once_before_it_gets_its_name(traces: Callable[[str], Trace], name: str) -> None:
    operations = traces(name).operations
    new = [(one.kind, one.path) for one in operations if one.path.endswith(".tmp")]
    flushed, named = new[::2], new[1::2]
    assert [kind for kind, _ in flushed] == ["flush file"] * len(flushed)
    assert named == [("rename", path) for _, path in flushed]


def test_packing_flushes_its_folder_twice_however_many_segments_there_are(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    for number in range(103):
        put(folder, day(number), float(number))
    for work, file_count in (
        (lambda: pack_series(folder, HOURS), 1),
        (lambda: prune_span(folder, HOURS, Span(day(10).start_ms + DAY_MS // 2, day(50).end_ms)), 2),
    ):
        with recorded(tmp_path) as operations:
            work()
        files, folders = flushes_of(operations)
        assert (len(files), set(files.values())) == (file_count, {1})
        assert folders == {str(folder.series_path(HOURS).relative_to(tmp_path)): 2}


def test_a_download_flushes_each_file_once_and_the_folder_once_for_all_archives(tmp_path: Path) -> None:
    minutes = SeriesKey.of("BTCUSDT", "1m")
    folder = CacheFolder(tmp_path)
    SeriesStore(folder, minutes).put(regular_table(minutes, day(0)), day(0))
    work = Download(FolderArchiveSource(SAMPLES), folder, limits=IngestLimits(), now_ms=now_ms())
    with recorded(tmp_path) as operations:
        report = asyncio.run(work.run([Wanted(minutes, Span.of("2023-03-23", "2025-01-02"))]))
    files, folders = flushes_of(operations)
    assert len(report.stored) == 5
    assert set(files.values()) == {1}
    assert folders == {str(folder.series_path(minutes).relative_to(tmp_path)): 1}


def test_threads_that_write_different_spans_at_once_flush_each_file_once(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    put(folder, day(0), 0.0)
    count = 6
    start = threading.Barrier(count)

    def work(thread: int) -> None:
        start.wait()
        for number in range(8):
            put(folder, day(1 + count * number + thread), 1.0)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(count)]
    with recorded(tmp_path) as operations:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    files, _ = flushes_of(operations)
    assert (len(files), set(files.values())) == (8 * count, {1})
    revisions = [name.revision for name in folder.segments(HOURS)]
    assert len(set(revisions)) == len(revisions) == 8 * count + 1


def test_exporting_flushes_each_file_once_and_their_folder_once(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    put(folder, day(0, 20), 1.0)
    with recorded(tmp_path / "to") as operations:
        exported = list(export_series(folder, HOURS, tmp_path / "to", cut=ExportCut.DAY))
    files, folders = flushes_of(operations)
    assert (len(exported), len(files), set(files.values())) == (20, 20, {1})
    assert folders[str(HOURS)] == 1
