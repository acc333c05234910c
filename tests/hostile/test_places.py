"""A cache in a folder where others write too: what they put in the place of a file stops one series at most."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import ckvd
from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cache.folder import parse_segment_name
from ckvd.cache.locks import FileLock, SeriesLock
from ckvd.cli.app import app
from ckvd.errors import CacheError, ExportError, SegmentForeignError
from ckvd.maintenance.export import export_series
from ckvd.maintenance.quarantine import list_quarantine, restore
from ckvd.maintenance.verification import Trouble, verify_cache
from ckvd.model.timespan import Span
from ckvd.segment import read_segment_header
from ckvd.utils.config import SEGMENT_REVISION_MAX
from cli.cache.run import run_any
from support.archives import make_archive, path_of
from support.caches import flip, mend, segment_paths
from support.loopback.mirror import publish
from support.models import DAY_MS
from support.processes import let_others_enter, run_in_child
from support.tables import regular_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NEIGHBOUR, SERIES = (ckvd.SeriesKey.of(symbol, "1h") for symbol in ("AAAUSDT", "BBBUSDT"))
DAY = Span.of("2024-01-05", "2024-01-06")
VERBS = (
    ["list"],
    ["stats"],
    ["gaps"],
    ["verify"],
    ["repair", "--no-fetch"],
    ["pack", "--yes"],
    ["prune", "--before", "2020-01-01", "--yes"],
    ["prune", "--max-size", "1TB", "--yes"],
    ["quarantine"],
    ["audit"],
    ["audit", "--against", "finer"],
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CacheFolder:
    """Two series of one day each."""
    mirror = tmp_path / "mirror"
    (mirror / "data").mkdir(parents=True)
    monkeypatch.setenv("CKVD_VISION_URL", str(mirror))
    made = CacheFolder(tmp_path / "cache")
    for series in (NEIGHBOUR, SERIES):
        SeriesStore(made, series).put(regular_table(series, DAY), DAY)
    return made


def segment_of(folder: CacheFolder, series: ckvd.SeriesKey = SERIES) -> Path:
    (path,) = folder.series_path(series).glob("*.ckvd")
    return path


def read(folder: CacheFolder, series: ckvd.SeriesKey) -> ckvd.Klines:
    with ckvd.open_cache(folder.root) as cache:
        return cache.read_series(series, DAY)


def make_socket(path: Path) -> None:
    # The address of a socket has at most some hundred bytes.
    with socket.socket(socket.AF_UNIX) as listener, tempfile.TemporaryDirectory(dir="/tmp") as short:
        listener.bind(f"{short}/s")
        shutil.move(f"{short}/s", path)


IMPOSTORS: dict[str, Callable[[Path], object]] = {
    "a named pipe": os.mkfifo,
    "a socket": make_socket,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a symbolic link that leads to no file": lambda path: path.symlink_to(path.with_name("nowhere")),
    "a symbolic link in a circle": lambda path: path.symlink_to(path.name),
}


def replace(path: Path, impostor: str) -> None:
    path.unlink()
    IMPOSTORS[impostor](path)


# --- In place of a segment ---------------------------------------------------------------------------------


@pytest.mark.parametrize("impostor", IMPOSTORS)
def test_an_impostor_of_a_segment_is_named_and_fails_no_other_series(folder: CacheFolder, impostor: str) -> None:
    path = segment_of(folder)
    replace(path, impostor)
    with pytest.raises(SegmentForeignError, match="no segment: it is a") as caught:
        read(folder, SERIES)
    assert caught.value.path == str(path)
    assert len(read(folder, NEIGHBOUR)) == 24
    findings = [one for one in verify_cache(folder) if one.path == path]
    assert [one.trouble for one in findings] == [Trouble.FOREIGN]


@pytest.mark.parametrize("impostor", IMPOSTORS)
def test_an_impostor_of_a_segment_is_fetched_again_by_a_download_of_several_series(
    folder: CacheFolder, tmp_path: Path, impostor: str
) -> None:
    for series in (NEIGHBOUR, SERIES):
        path = path_of(series.symbol, "1h", "2024-01-05")
        publish(tmp_path / "mirror", path, make_archive(path))
        replace(segment_of(folder, series), impostor)

    async def download() -> ckvd.DownloadReport:
        async with ckvd.VisionDataClient(tmp_path / "mirror", cache=folder.root) as client:
            return await client.download_series([NEIGHBOUR, SERIES], DAY)

    assert asyncio.run(download()).is_complete
    assert [len(read(folder, series)) for series in (NEIGHBOUR, SERIES)] == [24, 24]
    assert mend(folder).is_complete
    assert list(verify_cache(folder)) == []


@pytest.mark.parametrize("impostor", ["a named pipe"])
def test_no_verb_waits_for_an_impostor_of_a_segment_or_ends_with_a_traceback(
    folder: CacheFolder, impostor: str
) -> None:
    path = segment_of(folder)
    replace(path, impostor)
    for verb in VERBS:
        output = run_any_way(folder, verb).output
        if verb[0] in ("verify", "repair"):
            assert str(path) in output


def run_any_way(folder: CacheFolder, verb: list[str]) -> Result:
    """Run a verb, which may end well or not, but not by an exception."""
    result = CliRunner().invoke(app, ["cache", *verb, "--cache", str(folder.root)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 1)
    return result


@pytest.mark.parametrize("impostor", IMPOSTORS)
def test_an_impostor_of_a_segment_is_set_aside_and_its_span_is_known_to_be_lost(
    folder: CacheFolder, impostor: str
) -> None:
    path = segment_of(folder)
    replace(path, impostor)
    report = mend(folder)
    assert [aside.file_name for aside in report.quarantined] == [path.name]
    assert report.unrepaired == {SERIES: (DAY,)}
    assert not os.path.lexists(path)
    assert [finding.trouble for finding in verify_cache(folder)] == []
    run_any(folder, "prune", "--quarantine", "--yes", status=0)
    assert list_quarantine(folder) == []


def test_a_segment_may_be_a_link_to_a_file_which_is_read_and_never_written(folder: CacheFolder) -> None:
    path = segment_of(folder)
    elsewhere = path.rename(folder.root / "elsewhere")
    path.symlink_to(elsewhere)
    before = elsewhere.read_bytes(), elsewhere.stat().st_mtime_ns
    assert len(read(folder, SERIES)) == 24
    assert list(verify_cache(folder)) == []
    later = Span(DAY.end_ms, DAY.end_ms + 11 * DAY_MS)
    SeriesStore(folder, SERIES).put(regular_table(SERIES, later), later)
    for verb in (["list"], ["pack", "--thorough", "--yes"], ["prune", "--before", "2024-01-06", "--yes"]):
        run_any(folder, *verb, status=0)
    assert (elsewhere.read_bytes(), elsewhere.stat().st_mtime_ns) == before


@pytest.mark.parametrize("depth", range(5))
def test_a_folder_may_be_a_link_to_a_larger_disk(folder: CacheFolder, tmp_path: Path, depth: int) -> None:
    place = [folder.series_path(SERIES), *folder.series_path(SERIES).parents][depth]
    place.symlink_to(place.rename(tmp_path / "larger disk"))
    later = Span(DAY.end_ms, DAY.end_ms + DAY_MS)
    SeriesStore(folder, SERIES).put(regular_table(SERIES, later), later)
    assert len(read(folder, SERIES)) == 24
    assert list(verify_cache(folder)) == []
    run_any(folder, "pack", "--thorough", "--yes", status=0)
    assert len(segment_paths(folder)) == 2


def test_a_file_of_a_series_on_another_disk_is_set_aside_and_restored(folder: CacheFolder) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == folder.root.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=memory) as other:
        place = folder.series_path(SERIES)
        place.symlink_to(shutil.move(place, other))
        path = segment_of(folder)
        flip(path)
        damaged = path.read_bytes()
        (aside,) = mend(folder).quarantined
        assert aside.path.read_bytes() == damaged
        assert not path.exists()
        restore(folder, aside)
        assert path.read_bytes() == damaged
        assert not aside.path.exists()
        replace(path, "a symbolic link in a circle")
        assert [aside.file_name for aside in mend(folder).quarantined] == [path.name]


def test_a_link_that_cannot_be_opened_for_another_reason_is_no_foreign_file(folder: CacheFolder) -> None:
    path = segment_of(folder)
    path.symlink_to(path.rename(folder.root / "elsewhere"))
    used = os.open(path, os.O_RDONLY)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, limit[1]))
    try:
        with pytest.raises(CacheError, match="too many open files"):
            read_segment_header(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        os.close(used)


# --- In place of a lock file -------------------------------------------------------------------------------


@pytest.mark.parametrize("impostor", [*IMPOSTORS, "a link to a private file"])
def test_an_impostor_of_a_lock_file_is_named_and_nothing_is_written_to_it(
    folder: CacheFolder, tmp_path: Path, impostor: str
) -> None:
    private = tmp_path / "private"
    private.write_text("nobody's business")
    path = folder.lock_path(SERIES)
    if impostor in IMPOSTORS:
        replace(path, impostor)
    else:
        path.unlink()
        path.symlink_to(private)
    with pytest.raises(CacheError, match="cannot be locked: ") as caught:
        SeriesStore(folder, SERIES).put(regular_table(SERIES, DAY), DAY)
    assert caught.value.path == str(path)
    assert private.read_text() == "nobody's business"
    assert [one.trouble for one in verify_cache(folder)] == [Trouble.LOCK_FILE]
    assert len(read(folder, SERIES)) == 24
    report = mend(folder)
    assert [aside.file_name for aside in report.quarantined] == [path.name]
    assert report.is_complete
    SeriesStore(folder, SERIES).put(regular_table(SERIES, DAY), DAY)
    assert list(verify_cache(folder)) == []
    assert private.read_text() == "nobody's business"


def test_a_second_name_of_a_private_file_is_not_written_to_and_one_of_a_lock_file_is(
    folder: CacheFolder, tmp_path: Path
) -> None:
    path = folder.lock_path(SERIES)
    os.link(path, tmp_path / "a copy made of links")
    with SeriesLock(folder, SERIES) as lock:
        lock.take_revision(folder.segments(SERIES))
    private = tmp_path / "private"
    private.write_text('{"secret": 1}')
    path.unlink()
    os.link(private, path)
    with pytest.raises(CacheError, match="is a second name of a file that is no lock file"):
        SeriesStore(folder, SERIES).put(regular_table(SERIES, DAY), DAY)
    assert private.read_text() == '{"secret": 1}'


def test_a_lock_record_of_any_form_is_read_as_one_that_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for content in (
        b"[" * 5000,
        b"\xff",
        b"[]",
        b'{"host": 1, "since_ms": 1e999}',
        b'{"revision": "9"}',
        b"9" * 5000,
    ):
        path.write_bytes(content)
        with FileLock(path, timeout_s=0) as lock:
            assert lock.read_record().get("process") is None
            lock.write_record(revision=1)
            assert lock.read_record()["revision"] == 1


# --- Revisions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", [SEGMENT_REVISION_MAX + 1, 10**18 - 1, 10**18, 10**100 - 1])
def test_a_file_of_an_impossible_revision_wins_nowhere_and_is_set_aside(folder: CacheFolder, revision: int) -> None:
    path = segment_of(folder)
    planted = path.with_name(f"{path.name.rpartition('-')[0]}-r{revision}.ckvd")
    shutil.copyfile(path, planted)
    SeriesStore(folder, SERIES).put(regular_table(SERIES, DAY), DAY)
    assert {name.revision for name in folder.segments(SERIES)} == {1, 2}
    assert [(one.path, one.trouble) for one in verify_cache(folder)] == [(planted, Trouble.REVISION)]
    report = mend(folder)
    assert [aside.file_name for aside in report.quarantined] == [planted.name]
    assert report.is_complete
    assert list(verify_cache(folder)) == []


def test_a_segment_that_claims_the_last_revision_is_named_by_writers_and_set_aside(folder: CacheFolder) -> None:
    last = segment_of(folder)
    planted = last.with_name(f"{last.name.rpartition('-')[0]}-r{SEGMENT_REVISION_MAX}.ckvd")
    shutil.copyfile(last, planted)
    with pytest.raises(CacheError, match="claims the last revision there is") as caught:
        SeriesStore(folder, SERIES).put(regular_table(SERIES, DAY), DAY)
    assert caught.value.path == str(planted)
    assert {one.path for one in verify_cache(folder) if one.trouble is Trouble.REVISION} == {planted}
    report = mend(folder)
    assert [aside.file_name for aside in report.quarantined] == [planted.name]
    # What it hid does not come back: nobody knows whether the file was a newer version.
    tombstone = max(folder.segments(SERIES), key=lambda name: name.revision)
    assert tombstone.revision == 2
    SeriesStore(folder, SERIES).put(regular_table(SERIES, DAY), DAY)
    assert len(read(folder, SERIES)) == 24


@pytest.mark.parametrize("revision", [SEGMENT_REVISION_MAX, 10**18, -1, True, 1.5, "7", None])
def test_a_lock_record_of_an_impossible_revision_says_nothing(folder: CacheFolder, revision: object) -> None:
    folder.lock_path(SERIES).write_text(json.dumps({"revision": revision}))
    path = SeriesStore(folder, SERIES).put(regular_table(SERIES, DAY), DAY)
    name = parse_segment_name(path.name)
    assert name is not None
    assert name.revision == 2


# --- In place of a folder ----------------------------------------------------------------------------------


def as_file(place: Path) -> None:
    shutil.rmtree(place)
    place.write_text("no folder")


def as_circle(place: Path) -> None:
    shutil.rmtree(place)
    place.symlink_to(place.name)


def as_unmounted_disk(place: Path) -> None:
    shutil.rmtree(place)
    place.symlink_to("/nowhere/to/be/found")


@pytest.mark.parametrize("make", [as_circle, as_unmounted_disk, as_file])
@pytest.mark.parametrize("depth", [0, 1], ids=["series", "symbol"])
def test_a_folder_that_cannot_be_listed_is_named_and_stops_no_other(
    folder: CacheFolder, make: Callable[[Path], None], depth: int
) -> None:
    place = [folder.series_path(SERIES), folder.series_path(SERIES).parent][depth]
    make(place)
    is_no_folder_of_a_series = make is as_file and depth == 1
    # All of them list folders in the same way.
    verbs = VERBS if (make, depth) == (as_circle, 0) else (["list"], ["verify"])
    assert_contained(folder, place, verbs, is_named=not is_no_folder_of_a_series)


@pytest.mark.parametrize("name", [".locks", ".quarantine"])
@pytest.mark.parametrize("make", [as_circle, as_unmounted_disk, as_file])
def test_what_stands_in_the_place_of_a_folder_of_the_cache_itself_is_named(
    folder: CacheFolder, name: str, make: Callable[[Path], None]
) -> None:
    place = folder.root / name
    place.mkdir(exist_ok=True)
    make(place)
    assert [(one.path, one.trouble) for one in verify_cache(folder)] == [(place, Trouble.UNREADABLE)]
    if name == ".locks":
        with pytest.raises(CacheError, match=f"{place}"):
            SeriesStore(folder, SERIES).put(regular_table(SERIES, DAY), DAY)


def test_a_cache_on_a_disk_that_is_not_mounted_is_not_an_empty_cache(folder: CacheFolder) -> None:
    as_unmounted_disk(folder.root)
    assert [one.path for one in verify_cache(folder)] == [folder.root]
    with pytest.raises(CacheError, match="a symbolic link that leads nowhere; is the disk"):
        read(folder, SERIES)
    assert run_any(folder, "list").stderr.count(str(folder.root)) <= 2


def assert_contained(folder: CacheFolder, place: Path, verbs: Sequence[list[str]], *, is_named: bool) -> None:
    findings = list(verify_cache(folder))
    assert [(one.path, one.trouble) for one in findings] == [(place, Trouble.UNREADABLE)] * is_named
    for verb in verbs:
        result = run_any_way(folder, verb)
        if is_named and verb[0] in ("verify", "repair"):
            assert result.exit_code == 1
            assert str(place) in result.output
        if verb[0] in ("list", "gaps"):
            assert str(NEIGHBOUR) in result.output
            assert is_named is False or place.is_file() or str(place) in result.output
    assert "24 bars" in run_any(folder, "info", NEIGHBOUR.symbol, "-i", "1h", status=0).output
    assert len(read(folder, NEIGHBOUR)) == 24


@pytest.mark.skipif(os.name != "posix", reason="users and rights are those of POSIX")
def test_a_folder_of_another_user_is_named_and_stops_no_other(folder: CacheFolder) -> None:
    place = folder.series_path(SERIES)
    let_others_enter(folder.series_path(NEIGHBOUR))
    place.chmod(0o000)

    def look(send: Callable[[str], None]) -> None:
        if os.getuid() == 0:
            os.setuid(65534)
        for verb in (["list"], ["gaps"], ["stats"], ["verify"], ["pack"], ["prune", "--max-size", "1TB"]):
            result = run_any(folder, *verb, status=1)
            assert str(place) in result.output, result.output
        assert str(NEIGHBOUR) in run_any(folder, "list", status=1).stdout
        send("contained")

    try:
        ended = run_in_child(look)
    finally:
        place.chmod(0o755)
    assert ended.lines == ("contained",), "\n".join(ended.lines)
    assert ended.status == 0


@pytest.mark.parametrize("impostor", IMPOSTORS)
def test_what_has_the_name_of_an_export_is_replaced_only_on_demand_and_never_written_through(
    folder: CacheFolder, tmp_path: Path, impostor: str
) -> None:
    (exported,) = export_series(folder, SERIES, tmp_path / "out")
    content = exported.path.read_bytes()
    replace(exported.path, impostor)
    with pytest.raises(ExportError, match="is there already"):
        list(export_series(folder, SERIES, tmp_path / "out"))
    if impostor == "a folder":
        with pytest.raises(CacheError, match="cannot be written"):
            list(export_series(folder, SERIES, tmp_path / "out", is_overwriting=True))
        return
    list(export_series(folder, SERIES, tmp_path / "out", is_overwriting=True))
    assert not exported.path.is_symlink()
    assert exported.path.read_bytes() == content
    assert sorted(path.name for path in exported.path.parent.iterdir()) == [exported.path.name]


def test_file_names_that_are_no_text_or_change_a_terminal_are_escaped(folder: CacheFolder) -> None:
    place = os.fsencode(folder.series_path(SERIES))
    for name in (b"/\xff\xfe", b"/\x1b[2J\x07"):
        with open(place + name, "wb"):  # noqa: PTH123  (a Path has a name that is text)
            pass
    lines = run_any(folder, "verify", status=0).stdout.splitlines()
    assert all(map(str.isprintable, lines))
    assert "\\udcff\\udcfe" in "".join(lines)
    assert "\\x1b[2J\\x07" in "".join(lines)
    paths = [finding["path"] for finding in json.loads(run_any(folder, "verify", "--json", status=0).stdout)]
    assert os.fsdecode(place + b"/\xff\xfe") in paths


def test_a_quarantine_reason_cannot_lead_outside_of_the_cache(folder: CacheFolder, tmp_path: Path) -> None:
    path = segment_of(folder)
    replace(path, "a named pipe")
    (aside,) = mend(folder).quarantined
    reason = aside.path.with_name(aside.path.name + ".json")
    document = json.loads(reason.read_text())
    others: list[Any] = ["../../../../../stolen", str(tmp_path / "stolen"), 5, None, []]
    for file_name in others:
        reason.write_text(json.dumps(document | {"file_name": file_name}))
        assert list_quarantine(folder) == []
    for content in (b"[" * 100_000, b"\xff", b"[]", b"{}"):
        reason.write_bytes(content)
        assert list_quarantine(folder) == []
    replace(reason, "a named pipe")
    assert list_quarantine(folder) == []
