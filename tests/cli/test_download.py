"""`ckvd download`: exit status, messages and progress, with and without a terminal, and Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.acquisition.report import ArchiveReport, CompletionReport, DownloadReport, Outcome
from ckvd.cli.stop_signals import STOP_SIGNALS
from ckvd.errors import CkvdError
from ckvd.model.calendar import Period
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Origin, Source
from ckvd.model.timespan import Span
from support import command
from support.archives import make_archive, path_of
from support.command import Finished, Terminal
from support.download_site import DownloadSite
from support.loopback.mirror import publish
from support.loopback.reply import Gate, Reply
from support.places import SAMPLES
from support.processes import writing_nothing
from support.stopwatch import LOADED, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MARCH = ("--interval", "1h", "--start", "2023-03-01", "--end", "2023-04-01")
HALF_YEAR = ("BTCUSDT", "--interval", "1d", "--start", "2022-01-01", "--end", "2022-07-01")
MONTHS = [f"2022-{month:02}" for month in range(1, 7)]


@pytest.fixture
def samples(tmp_path: Path) -> Iterator[DownloadSite]:
    with DownloadSite(SAMPLES, tmp_path / "klines") as site:
        yield site


@pytest.fixture
def half_year(tmp_path: Path) -> Iterator[DownloadSite]:
    """A mirror with six months."""
    with DownloadSite(tmp_path / "mirror", tmp_path / "klines") as site:
        site.publish("BTCUSDT", "1d", *MONTHS)
        yield site


def hold_june(site: DownloadSite) -> None:
    path = path_of("BTCUSDT", "1d", "2022-06")
    site.mirror.script(path, Reply(200, make_archive(path), sent_nbytes=200, body_gate=Gate()))


def arguments_of(site: DownloadSite, *arguments: str) -> tuple[str, ...]:
    return ("download", *arguments, "--cache", str(site.cache), "--vision-url", site.mirror.base_url, "--no-rest")


def download(site: DownloadSite, *arguments: str) -> Finished:
    return command.run_here(*arguments_of(site, *arguments))


# --- What is said ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_verbose", [False, True])
def test_a_pipe_gets_a_summary_and_each_archive_only_where_that_is_asked_for(
    samples: DownloadSite, is_verbose: bool
) -> None:
    more = ("--verbose",) if is_verbose else ()
    finished = command.run(*arguments_of(samples, "BTCUSDT", *MARCH, *more), home=samples.cache.parent)
    shown = "1/1 spot/klines/BTCUSDT/1h 2023-03 stored\n" if is_verbose else ""
    assert (finished.status, finished.err) == (0, shown)
    nbytes = (SAMPLES / path_of("BTCUSDT", "1h", "2023-03")).stat().st_size
    assert finished.out == f"1 archives stored ({nbytes / 1000:.1f} kB), 0 failed, in {samples.cache}\n"
    assert len(samples.read("BTCUSDT", "1h", "2023-03-01", "2023-04-01")) == 743


def test_refresh_asks_again_for_what_a_wrong_mirror_lacked(samples: DownloadSite) -> None:
    empty = samples.cache.parent / "empty"
    (empty / "data").mkdir(parents=True)
    wrong = ("--cache", str(samples.cache), "--vision-url", str(empty), "--no-rest")
    december = ("--interval", "1h", "--start", "2024-12-01", "--end", "2025-01-01")
    assert download(samples, "BTCUSDT", *december).status == 0
    assert command.run_here("download", "BTCUSDT", *MARCH, *wrong).status == 1
    again = download(samples, "BTCUSDT", *MARCH)
    assert (again.status, again.err.splitlines()[-1]) == (
        1,
        "ckvd: unavailable before, and asked for again when its time has come; --refresh asks at once",
    )
    refreshed = download(samples, "BTCUSDT", *MARCH, "--refresh", "-v")
    assert (refreshed.status, refreshed.err) == (0, "1/1 spot/klines/BTCUSDT/1h 2023-03 stored\n")


def test_cached_bars_are_not_requested_again(samples: DownloadSite) -> None:
    day = ("BNBBTC", "--interval", "1s", "--start", "2023-01-01", "--end", "2023-01-02")
    assert download(samples, *day).status == 0
    samples.forget_requests()
    finished = download(samples, *day)
    assert (finished.status, finished.out, finished.err) == (
        0,
        f"everything was in the cache already, {samples.cache}\n",
        "",
    )
    assert samples.mirror.server.requests == []


@pytest.mark.parametrize("option", ["--no-rest", "--offline"])
@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        ("2100-01-01", "2100-01-02", "no bar of 2100-01-01..2100-01-02 is closed yet"),
        ("2023-03-01", "2023-03-01", "2023-03-01..2023-03-01 is empty"),
    ],
)
def test_a_span_without_a_closed_bar_is_an_error(
    samples: DownloadSite, start: str, end: str, said: str, option: str
) -> None:
    finished = download(samples, "BTCUSDT", "--interval", "1m", "--start", start, "--end", end, option)
    assert (finished.status, finished.out, finished.err) == (1, "", f"ckvd: {said}\n")
    assert samples.mirror.server.requests == []


NOT_FOUND = "no source has any of it, and nothing was stored; are symbol, market and interval right?"


@pytest.mark.parametrize("end", ["2023-03-03", "2024-12-01"])  # with a listing of archives, and without one
def test_a_mistyped_symbol_leaves_no_series_behind(samples: DownloadSite, end: str) -> None:
    span = ("--interval", "1h", "--start", "2023-03-01", "--end", end)
    finished = download(samples, "BTCUSTD", *span)
    assert finished.status == 1
    assert finished.out == f"0 archives stored (0 B), 0 failed, in {samples.cache}\n"
    assert [line for line in finished.err.splitlines() if line.startswith("ckvd: ")] == [
        f"ckvd: spot/klines/BTCUSTD/1h: 2023-03-01..{end} is not in the cache: {NOT_FOUND}"
    ]
    assert [path for path in samples.cache.rglob("*") if path.is_file()] == []
    assert not (samples.cache / "spot").exists()
    # It is asked for again at once, because nothing says that it was asked for.
    samples.forget_requests()
    assert download(samples, "BTCUSTD", *span).err.splitlines()[-1] == finished.err.splitlines()[-1]
    assert samples.mirror.server.requests


def test_what_a_mirror_lacks_of_a_series_that_it_has_is_remembered(samples: DownloadSite) -> None:
    span = ("--interval", "1h", "--start", "2023-02-01", "--end", "2023-05-01")
    finished = download(samples, "BTCUSDT", *span)
    assert finished.status == 1
    lacking = ("2023-02-01..2023-03-01", "2023-04-01..2023-05-01")
    complaints = [line for line in finished.err.splitlines() if line.startswith("ckvd: ")]
    assert [line.split(" is not in the cache")[0] for line in complaints] == [
        f"ckvd: spot/klines/BTCUSDT/1h: {part}" for part in lacking
    ]
    assert NOT_FOUND not in finished.err
    samples.forget_requests()
    assert download(samples, "BTCUSDT", *span).status == 1
    # A listing that could not be read is asked for again, and no archive is.
    assert [request.target for request in samples.mirror.server.requests if ".zip" in request.target] == []


def test_unknown_symbols_are_named_with_status_1_and_the_others_are_stored(samples: DownloadSite) -> None:
    finished = download(samples, "NOSUCHUSDT", "BTCUSDT", "币安人生USDT", *MARCH, "--jobs", "2")
    assert finished.status == 1
    assert finished.out.startswith("1 archives stored")
    complaints = [line for line in finished.err.splitlines() if line.startswith("ckvd: ")]
    assert complaints == [
        f"ckvd: spot/klines/{symbol}/1h: 2023-03-01..2023-04-01 is not in the cache: {NOT_FOUND}"
        for symbol in ("NOSUCHUSDT", "币安人生USDT")
    ]
    assert samples.mirror.server.peak_concurrency <= 2


def test_an_archive_with_a_wrong_checksum_is_named_with_status_1(half_year: DownloadSite) -> None:
    path = path_of("BTCUSDT", "1d", "2022-03")
    publish(half_year.root, path, make_archive(path), digest="0" * 64)
    finished = download(half_year, *HALF_YEAR)
    assert finished.status == 1
    assert finished.out.startswith("5 archives stored")
    assert ", 1 failed" in finished.out
    assert f"ckvd: {path}: " in finished.err
    assert f"ckvd: {SeriesKey.of('BTCUSDT', '1d')}: 2022-03-01..2022-04-01 is not in the cache" in finished.err


@pytest.fixture
def june(half_year: DownloadSite) -> tuple[str, ...]:
    """What asks for June, which has no CHECKSUM."""
    (half_year.root / (path_of("BTCUSDT", "1d", "2022-06") + ".CHECKSUM")).unlink()
    return ("BTCUSDT", "--interval", "1d", "--start", "2022-06-01", "--end", "2022-07-01")


def test_a_missing_checksum_is_noted(half_year: DownloadSite, june: tuple[str, ...]) -> None:
    finished = download(half_year, *june)
    assert finished.status == 0
    assert "ckvd: spot/klines/BTCUSDT/1d 2022-06: no CHECKSUM is published" in finished.err


def test_a_missing_checksum_is_refused_where_one_is_required(
    half_year: DownloadSite, june: tuple[str, ...]
) -> None:
    finished = download(half_year, *june, "--require-checksum")
    assert finished.status == 1
    assert "it has no CHECKSUM" in finished.err
    assert "2022-06-01..2022-07-01 is not in the cache" in finished.err


def test_a_refused_archive_is_requested_the_next_time(half_year: DownloadSite, june: tuple[str, ...]) -> None:
    """The archive is there: the cache may not record it as absent."""
    assert download(half_year, *june, "--require-checksum").status == 1
    finished = download(half_year, *june)
    assert (finished.status, finished.out[:18]) == (0, "1 archives stored ")


def test_a_cache_that_cannot_be_written_is_named_with_status_1(samples: DownloadSite) -> None:
    home = samples.cache.parent
    (home / "file").write_text("not a folder", encoding="utf-8")
    arguments = ("download", "BTCUSDT", *MARCH, "--cache", "file/klines", "--vision-url", str(SAMPLES), "--no-rest")
    finished = command.run(*arguments, home=home)
    assert (finished.status, finished.out) == (1, "")
    (line,) = finished.err.splitlines()
    assert line.startswith(f"ckvd: {home}/file/klines: cannot be ")


def test_messages_come_from_the_report(monkeypatch: pytest.MonkeyPatch, samples: DownloadSite) -> None:
    hours, span = SeriesKey.of("BTCUSDT", "1h"), Span.of("2023-03-01", "2023-04-01")
    march = Period.of_label("2023-03")
    source = Source(Origin.VISION_MONTHLY, "a.zip", span.start_ms, span.end_ms, duplicate_row_count=2)
    report = DownloadReport(
        {hours: span},
        (
            ArchiveReport(hours, march, Outcome.STORED, nbytes=1500, source=source),
            ArchiveReport(hours, march, Outcome.FAILED, error=CkvdError("b.zip: it is no ZIP")),
        ),
        {hours: (span,)},
        (CompletionReport(hours, 12, (span.start_ms,), (CkvdError("the exchange is away"),), has_changed=True),),
    )

    async def reported(*_arguments: object) -> DownloadReport:
        return report

    monkeypatch.setattr("ckvd.cli.fetching._run", reported)
    assert download(samples, "BTCUSDT", *MARCH) == Finished(
        1,
        f"1 archives stored (1.5 kB), 1 failed, 12 bars from the REST interface, in {samples.cache}\n",
        "ckvd: spot/klines/BTCUSDT/1h 2023-03: no CHECKSUM is published, so its bytes are not confirmed\n"
        "ckvd: spot/klines/BTCUSDT/1h 2023-03: 2 duplicate rows collapsed\n"
        "ckvd: b.zip: it is no ZIP\n"
        "ckvd: spot/klines/BTCUSDT/1h: the exchange is away\n"
        "ckvd: spot/klines/BTCUSDT/1h: sources disagree on 1 bars; the daily archive's were kept\n"
        "ckvd: spot/klines/BTCUSDT/1h: 2023-03-01..2023-04-01 is not in the cache\n",
    )


# --- Where from, where to ----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms keep caches elsewhere")
def test_places_come_from_options_or_the_environment_or_the_platform(tmp_path: Path) -> None:
    arguments = ("download", "BTCUSDT", *MARCH, "--no-rest")
    mirror = {"CKVD_VISION_URL": str(SAMPLES)}
    assert command.run(*arguments, home=tmp_path, CKVD_CACHE_DIR=str(tmp_path / "named"), **mirror).status == 0
    assert command.run(*arguments, home=tmp_path, **mirror).status == 0
    roots = {path.relative_to(tmp_path).as_posix().partition("/spot/")[0] for path in tmp_path.rglob("*.ckvd")}
    assert roots == {".cache/ckvd", "named"}


def test_a_folder_that_is_not_a_mirror_is_an_error_and_not_an_absence(tmp_path: Path) -> None:
    finished = command.run("download", "BTCUSDT", *MARCH, "--no-rest", "--cache", "klines", home=tmp_path)
    assert finished.status == 1
    assert "no-mirror: expected a mirror of the archives" in finished.err


@pytest.mark.parametrize("is_option", [True, False])
def test_an_address_that_is_not_http_is_wrong_usage(tmp_path: Path, is_option: bool) -> None:
    option, environ = (("--vision-url", "ftp://x"), {}) if is_option else ((), {"CKVD_VISION_URL": "ftp://x"})
    finished = command.run("download", "BTCUSDT", *MARCH, "--cache", "klines", *option, home=tmp_path, **environ)
    assert (finished.status, finished.out) == (2, "")
    assert finished.err == "ckvd: 'ftp://x' is no mirror: expected an address with http or https, or a folder\n"
    assert list(tmp_path.iterdir()) == []


def test_offline_nothing_is_requested_and_missing_spans_are_named(samples: DownloadSite) -> None:
    finished = download(samples, "BTCUSDT", *MARCH, "--offline")
    assert finished.status == 1
    assert "2023-03-01..2023-04-01 is not in the cache" in finished.err
    assert samples.mirror.server.requests == []


# --- A terminal --------------------------------------------------------------------------------------------


def test_progress_in_a_terminal_is_that_of_the_download(
    monkeypatch: pytest.MonkeyPatch, samples: DownloadSite
) -> None:
    changes: list[dict[str, object]] = []

    @contextlib.contextmanager
    def bar(*_arguments: object, **_options: object) -> Iterator[Callable[..., None]]:
        yield lambda **changed: changes.append(changed)

    monkeypatch.setattr("ckvd.cli.fetching.is_progress_shown", lambda: True)
    monkeypatch.setattr("ckvd.cli.fetching.progress_bar", bar)
    assert download(samples, "BTCUSDT", *MARCH).err == ""
    described = [str(changed["description"]) for changed in changes]
    assert any(text.startswith("BTCUSDT 1h, 1 of 1 archives, ") for text in described)
    assert described[-1] == "BTCUSDT 1h, 1 of 1 series completed"
    # Both count: the archive, and the completion of its series.
    assert (changes[-1]["completed"], changes[-1]["total"]) == (2, 2)


def test_a_terminal_shows_a_bar_that_is_erased_at_the_end(half_year: DownloadSite) -> None:
    home = half_year.cache.parent
    gate, path = Gate(), path_of("BTCUSDT", "1d", "2022-06")
    half_year.mirror.script(path, Reply(200, make_archive(path), head_gate=gate))
    with Terminal() as terminal:
        environment = command.environment(home, TERM="xterm", COLUMNS="100")
        arguments = arguments_of(half_year, *HALF_YEAR)
        with command.started(*arguments, home=home, **terminal.options, env=environment) as process:
            terminal.read_until("5 of 6 archives")
            gate.open()
            terminal.read_to_the_end()
            assert process.wait(command.TIMEOUT_S) == 0
    assert re.search(r"BTCUSDT 1d, 6 of 6 archives, \d+\.\d kB, [\d.]+ k?B/s .*6/7, \d\d:\d\d left", terminal.shown)
    assert terminal.shown.rstrip().endswith(f"0 failed, in {half_year.cache}")
    assert " stored\r\n" not in terminal.shown


def test_a_bar_that_is_interrupted_makes_room_for_the_last_word(half_year: DownloadSite) -> None:
    home = half_year.cache.parent
    hold_june(half_year)
    with Terminal() as terminal:
        environment = command.environment(home, TERM="xterm", COLUMNS="100")
        arguments = arguments_of(half_year, *HALF_YEAR)
        with command.started(*arguments, home=home, **terminal.options, env=environment) as process:
            terminal.read_until("5 of 6 archives")
            interrupt(process)
            terminal.read_to_the_end()
    assert "\rckvd: interrupted" in terminal.shown


# --- Ctrl-C ------------------------------------------------------------------------------------------------


def interrupt(process: subprocess.Popen[str], times: int = 1, number: signal.Signals = signal.SIGINT) -> None:
    """Press Ctrl-C, or send another signal; on an idle machine the command ends within a second."""
    with Stopwatch() as stopping:
        for _ in range(times):
            process.send_signal(number)
        assert process.wait(command.TIMEOUT_S) == 128 + number
    assert stopping.elapsed_s < 1 * LOADED


@pytest.mark.parametrize(
    ("number", "times"),
    [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGHUP, 1)],
)
def test_ctrl_c_keeps_what_was_finished_and_the_same_command_goes_on_from_there(
    half_year: DownloadSite, number: signal.Signals, times: int
) -> None:
    hold_june(half_year)
    arguments = arguments_of(half_year, *HALF_YEAR, "--verbose")
    with command.started(*arguments, home=half_year.cache.parent) as process:
        assert process.stderr is not None
        assert [process.stderr.readline().split()[-1] for _ in MONTHS[:5]] == ["stored"] * 5
        interrupt(process, times, number)
        assert process.stderr.read() == (
            f"ckvd: {'interrupted' if number is signal.SIGINT else f'ended by {number.name}'}: "
            "what was finished is in the cache, and the same command goes on from there\n"
        )
    assert half_year.covered("BTCUSDT", "1d") == ["2022-01-01..2022-06-01"]
    assert half_year.leftovers == []
    half_year.forget_requests()
    finished = download(half_year, *HALF_YEAR)
    assert finished.status == 0, finished.err
    assert half_year.asked == ["BTCUSDT-1d-2022-06.zip"]
    assert len(half_year.read("BTCUSDT", "1d", "2022-01-01", "2022-07-01")) == 181


def test_ctrl_c_cancels_the_download_and_is_handled_as_before_afterwards(
    monkeypatch: pytest.MonkeyPatch, samples: DownloadSite
) -> None:
    monkeypatch.setattr("ckvd.cli.fetching._print_archive", lambda _: os.kill(os.getpid(), signal.SIGINT))
    with command.interruptible():
        assert download(samples, "BTCUSDT", *MARCH, "--verbose").status == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signals_that_the_parent_ignores_stay_ignored(half_year: DownloadSite) -> None:
    gate, path = Gate(), path_of("BTCUSDT", "1d", "2022-06")
    half_year.mirror.script(path, Reply(200, make_archive(path), head_gate=gate))

    def ignore() -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    arguments = arguments_of(half_year, *HALF_YEAR, "--verbose")
    # To measure its coverage, the process would handle SIGTERM after all.
    environment = writing_nothing(command.environment(half_year.cache.parent))
    options: dict[str, Any] = {"preexec_fn": ignore, "env": environment}
    with command.started(*arguments, home=half_year.cache.parent, **options) as process:
        assert process.stderr is not None
        assert [process.stderr.readline().split()[-1] for _ in MONTHS[:5]] == ["stored"] * 5
        for number in STOP_SIGNALS:
            process.send_signal(number)
        gate.open()
        assert process.wait(command.TIMEOUT_S) == 0
    assert half_year.covered("BTCUSDT", "1d") == ["2022-01-01..2022-07-01"]


# Presses Ctrl-C again when the folder of the archives on their way is being removed.
PRESSED_AGAIN = """
import os, signal, sys

def press_again(event, _arguments):
    if event == "shutil.rmtree":
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(press_again)
from ckvd.cli.main import run
run()
"""


def test_a_second_ctrl_c_lets_the_cleanup_finish(half_year: DownloadSite) -> None:
    hold_june(half_year)
    home = half_year.cache.parent
    with (
        command.interruptible(),
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PRESSED_AGAIN, *arguments_of(half_year, *HALF_YEAR, "-v")],
            env=command.environment(home),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            assert process.stderr is not None
            assert [process.stderr.readline().split()[-1] for _ in MONTHS[:5]] == ["stored"] * 5
            interrupt(process)
            assert process.stderr.read() == (
                "ckvd: interrupted: what was finished is in the cache, and the same command goes on from there\n"
            )
        finally:
            process.kill()
    assert half_year.leftovers == []


def test_what_only_the_listing_of_the_archives_settled_is_said(tmp_path: Path) -> None:
    with DownloadSite(tmp_path / "mirror", tmp_path / "klines") as site:
        site.publish("BTCUSDT", "1d", *MONTHS)
    wide = ("BTCUSDT", "--interval", "1d", "--start", "2021-11-01", "--end", "2022-09-01")
    options = ("--cache", str(site.cache), "--vision-url", str(tmp_path / "mirror"), "--no-rest")
    finished = command.run_here("download", *wide, *options)
    assert finished.status == 0
    series = "spot/klines/BTCUSDT/1d"
    assert f"{series}: 2021-11-01..2022-01-01 lies before the first archive; asked for again from" in finished.err
    assert f"{series}: 2022-07-01..2022-09-01 lies after the last archive; asked for again from" in finished.err
    again = command.run_here("download", *wide, *options)
    assert (again.status, again.err) == (0, "")
    # It is no failure: a job that speaks of failures only says nothing.
    quiet = command.run_here("download", *wide, *options, "--refresh", "--quiet")
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")


def test_what_is_missing_is_said_with_its_reason(half_year: DownloadSite, tmp_path: Path) -> None:
    (tmp_path / "mirror" / path_of("BTCUSDT", "1d", "2022-03")).unlink()
    options = ("--cache", str(half_year.cache), "--vision-url", str(tmp_path / "mirror"), "--no-rest")
    finished = command.run_here("download", *HALF_YEAR, *options)
    assert finished.status == 1
    missing = "spot/klines/BTCUSDT/1d: 2022-03-01..2022-04-01 is not in the cache: no archive, asked for again"
    assert missing in finished.err
