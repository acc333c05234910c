"""What users install: the wheel and the source archive, in environments of their own."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

import ckvd
from ckvd.cache import CacheFolder, SeriesStore
from ckvd.model.market import SeriesKey
from ckvd.model.timespan import Span
from support.places import REPOSITORY
from support.tables import regular_table

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.long

# Installing over a slow line takes its time.
TIMEOUT_S = 600.0
HOURS = SeriesKey.of("BTCUSDT", "1h")
DAY = Span.of("2023-03-01", "2023-03-02")


@dataclass(frozen=True)
class Environment:
    """An environment with a Python of its own, beside a cache with a day of hours."""

    root: Path
    cache: Path

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run its Python, with warnings as errors. Returns what it printed on both streams."""
        finished = subprocess.run(
            [self.root / "bin/python", "-W", "error", *arguments],
            env={"HOME": str(self.root), "PATH": f"{self.root / 'bin'}:/usr/bin:/bin", "LANG": "C.UTF-8"},
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert finished.returncode == status, finished.stdout
        return finished.stdout

    def say(self, script: str) -> str:
        """Run a script with `ckvd` and the open `cache`. Returns what it printed."""
        return self.run(
            "-c", f"import ckvd, sys\nwith ckvd.open_cache({str(self.cache)!r}) as cache:\n    {script}"
        ).strip()

    def refuse(self, script: str) -> str:
        """Run a script that raises an error of ckvd. Returns its class and its message."""
        return self.say(
            f"try:\n        {script}\n    except ckvd.CkvdError as error:\n"
            "        print(f'{type(error).__name__}: {error}')"
        )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source archive, built from the repository."""
    folder = tmp_path_factory.mktemp("built")
    for target in ("wheel", "sdist"):
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", folder],
            cwd=REPOSITORY,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, archive


def make_environment(root: Path, *requirements: str | Path) -> Environment:
    """Install something into an environment of its own. Without a package index the test is skipped."""
    venv.create(root, symlinks=True)
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "--python", root, "install", "--quiet", *requirements],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if "No matching distribution found for" in installed.stderr and "connection" in installed.stderr.lower():
        pytest.skip("no package index can be reached")
    assert installed.returncode == 0, installed.stderr
    cache = CacheFolder(root / "klines")
    SeriesStore(cache, HOURS).put(regular_table(HOURS, DAY), DAY)
    return Environment(root, cache.root)


@pytest.fixture(scope="module")
def complete(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """`pip install ckvd`, from the source archive."""
    return make_environment(tmp_path_factory.mktemp("complete"), built[1])


@pytest.fixture(scope="module")
def reading(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """`pip install --no-deps ckvd numpy platformdirs`."""
    return make_environment(tmp_path_factory.mktemp("reading"), "--no-deps", built[0], "numpy", "platformdirs")


# --- What is built -----------------------------------------------------------------------------------------


def test_the_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names = wheel.namelist()
    package = {name for name in names if name.startswith("ckvd/")}
    sources = REPOSITORY / "src"
    assert package == {
        str(path.relative_to(sources))
        for path in (sources / "ckvd").rglob("*")
        if path.is_file() and path.suffix in (".py", ".typed")
    }
    assert all(name.startswith(f"ckvd-{ckvd.__version__}.dist-info/") for name in set(names) - package)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_source_archive_holds_what_the_tests_need(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        places = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"src", "tests", "benchmarks", "data", "pyproject.toml", "README.md", "LICENSE", "Makefile"} <= places
    assert not places & {".venv", ".git", ".coverage"}


# --- All of it ---------------------------------------------------------------------------------------------


def test_whoever_installs_all_of_it_has_the_command_and_can_fetch(complete: Environment) -> None:
    assert complete.run("-m", "ckvd", "--version") == f"ckvd {ckvd.__version__}\n"
    finished = subprocess.run(
        [complete.root / "bin/ckvd", "cache", "list", "--cache", complete.cache],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert str(HOURS) in finished.stdout
    span = "start='2023-03-01', end='2023-03-03'"
    unreachable = (
        f"ckvd.get_klines('BTCUSDT', '1h', {span}, cache=cache.folder.root, vision_url='http://127.0.0.1:9')"
    )
    assert complete.refuse(unreachable).startswith("NotFetchedError: ")


def test_what_is_installed_fits_together(complete: Environment) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "pip", "--python", complete.root, "check"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert checked.stdout == "No broken requirements found.\n"


# --- Only what reads ---------------------------------------------------------------------------------------

SPAN = "start='2023-03-01', end='2023-03-02'"


@pytest.mark.parametrize(
    ("script", "printed"),
    [
        (f"print(len(cache.read('BTCUSDT', '1h', {SPAN}).close))", "24"),
        (f"print(len(cache.read('BTCUSDT', '1h', {SPAN}).resample('4h')))", "6"),
        (f"print(cache.panel(['BTCUSDT'], '1h', {SPAN}).close.shape)", "(24, 1)"),
        (f"print(sum(map(len, cache.scan('BTCUSDT', '1h', {SPAN}))))", "24"),
        (f"print(len(ckvd.get_klines('BTCUSDT', '1h', {SPAN}, cache=cache.folder.root, offline=True)))", "24"),
    ],
    ids=["read", "resample", "panel", "scan", "get_klines offline"],
)
def test_numpy_alone_reads_resamples_makes_panels_and_scans(
    reading: Environment, script: str, printed: str
) -> None:
    assert reading.say(script) == printed


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "ckvd.get_klines('BTCUSDT', '1h', start='2023-03-01', end='2023-03-04', cache=cache.folder.root)",
            "NotInstalledError: fetching needs curl_cffi, which is not installed: pip install curl_cffi",
        ),
        (
            f"cache.read('BTCUSDT', '1h', {SPAN}).to_pandas()",
            "ExportError: to_pandas needs pandas, which is not installed: pip install pandas",
        ),
        (
            f"cache.read('BTCUSDT', '1h', {SPAN}).to_polars()",
            "ExportError: to_polars needs polars, which is not installed: pip install polars",
        ),
        (
            f"cache.read('BTCUSDT', '1h', {SPAN}).to_arrow()",
            "ExportError: to_arrow needs pyarrow, which is not installed: pip install 'ckvd[arrow]'",
        ),
    ],
    ids=["fetching", "pandas", "polars", "pyarrow"],
)
def test_what_is_missing_is_named_with_what_needs_it(reading: Environment, script: str, said: str) -> None:
    assert reading.refuse(script) == said


def test_the_command_says_what_it_needs(reading: Environment) -> None:
    said = reading.run("-m", "ckvd", "cache", "list", status=1)
    assert said == "ckvd: the command needs click, which is not installed: pip install click tqdm\n"


def test_without_a_name_for_the_folder_platformdirs_is_needed(reading: Environment) -> None:
    hidden = "sys.modules['platformdirs'] = None  # as if it were not installed\n        ckvd.open_cache()"
    assert reading.refuse(hidden) == (
        "NotInstalledError: the default cache folder needs platformdirs, which is not installed: "
        "name a folder, or pip install platformdirs"
    )


# --- Beside another package of the same name ---------------------------------------------------------------


@pytest.mark.parametrize("foreign", ["core/sync/data.py", "_reconciler.py"])
def test_modules_of_another_package_in_the_same_folder_are_refused_by_name(
    reading: Environment, foreign: str
) -> None:
    (package,) = reading.root.glob("lib/python*/site-packages/ckvd")
    path = package / foreign
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        said = reading.run("-c", "import ckvd", status=1).splitlines()[-1]
    finally:
        path.unlink()
        for folder in path.parents:
            if folder == package:
                break
            folder.rmdir()
    name = foreign.partition("/")[0].removesuffix(".py")
    assert said == (
        f"ckvd.errors.ForeignModulesError: {package} holds what is not ckvd's: {name}; another package of the same "
        "import name is installed too, such as crypto-kline-vision-data: uninstall both, and install ckvd again"
    )
    reading.run("-c", "import ckvd")
