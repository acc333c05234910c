"""The sample mirror: a small, invented Binance Vision in `data/vision`, with formats and faults of the real one.

    python data/make_samples.py            write files that are missing or differ, remove all others
    python data/make_samples.py --check    only name the first difference, and exit with 1 if there is one

Every Python, numpy and platform makes the same text: prices, volumes and turnover are integers until they become
text, and random numbers are the SHAKE-256 of a label, a published standard. Compressed bytes are *not* the same
everywhere, because each build of zlib compresses differently. So the comparison covers the content and the
structure of an archive, and a CHECKSUM is that of the bytes that are there.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import zipfile
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Integers: TypeAlias = npt.NDArray[np.int64]
Bars: TypeAlias = npt.NDArray[np.void]

MIRROR: Final = Path(__file__).resolve().parent / "vision"
SEED: Final = "ckvd samples 1"
COLUMNS: Final = (
    *("open_time", "open", "high", "low", "close", "volume", "close_time"),
    *("quote_volume", "count", "taker_buy_volume", "taker_buy_quote_volume", "ignore"),
)
BAR: Final = np.dtype([(name, np.int64) for name in COLUMNS])
LENGTH_MS: Final = {"1s": 1_000, "1m": 60_000, "5m": 300_000, "1h": 3_600_000, "1d": 86_400_000}


def ms(moment: str) -> int:
    """Convert an ISO date or time in UTC to milliseconds since the epoch."""
    return int(np.datetime64(moment, "ms").astype(np.int64))


def between(bars: Bars, start: str, end: str) -> npt.NDArray[np.bool_]:
    """Mark the bars that open in a half-open span."""
    inside: npt.NDArray[np.bool_] = (bars["open_time"] >= ms(start)) & (bars["open_time"] < ms(end))
    return inside


@dataclass(frozen=True, slots=True)
class Instrument:
    """A traded instrument, and how its archives write it.

    Attributes
    ----------
    market, symbol, kind : str
        The folders of the archives; the market is `spot`, `futures/um` or `futures/cm`.
    units : tuple of int
        Decimals of a price, a volume and a quote volume: the integer 123 with two decimals is 1.23.
    shown : tuple of int
        Decimals that each is written with.
    header : bool
        Whether the first line names the columns.
    zeros_lost : bool
        Whether numbers are written without their last zeros.
    """

    market: str
    symbol: str
    units: tuple[int, int, int]
    shown: tuple[int, int, int] = (8, 8, 8)  # as everywhere in spot
    kind: str = "klines"
    header: bool = False
    zeros_lost: bool = False

    def csv(self, bars: Bars) -> bytes:
        """Write bars as the text of an archive member."""
        cells = [map(self._writer(name), bars[name].tolist()) for name in COLUMNS]
        lines = chain([COLUMNS] if self.header else [], zip(*cells, strict=True))
        return "".join(",".join(line) + "\n" for line in lines).encode()

    def _writer(self, name: str) -> Callable[[int], str]:
        if name.endswith("time"):
            return self._time
        if name == "count":
            return str
        which = ("volume" in name) + ("quote" in name)
        unit, shown = (8, 8) if name == "ignore" else (self.units[which], self.shown[which])
        # Futures write a zero volume without decimals.
        bare_zero = name == "ignore" or (which > 0 and self.market != "spot")
        text = partial(decimal, unit=unit, shown=shown, zeros_lost=self.zeros_lost)
        return lambda value: "0" if bare_zero and not value else text(value)

    def _time(self, moment_ms: int) -> str:
        if self.market != "spot" or moment_ms < ms("2025-01-01"):
            return str(moment_ms)
        # A bar opens on a whole second and closes in the last microsecond of a millisecond.
        return f"{moment_ms}{'000' if moment_ms % 1_000 == 0 else '999'}"


def decimal(value: int, unit: int, shown: int, *, zeros_lost: bool = False) -> str:
    """Write `value` times 10^-`unit` with `shown` decimals, or without the last ones that are zero."""
    digits = f"{abs(value) * 10 ** (shown - unit):0{shown + 1}d}"
    whole, decimals = digits[: len(digits) - shown], digits[len(digits) - shown :]
    if zeros_lost:
        decimals = decimals.rstrip("0") or decimals[:1]
    return f"{'-' if value < 0 else ''}{whole}{'.' if decimals else ''}{decimals}"


def draws(label: str, rows: int, columns: int) -> Integers:
    """Draw random integers below 2^63, in `columns` lines of `rows`, determined by the label."""
    digest = hashlib.shake_256(f"{SEED}: {label}".encode()).digest(8 * rows * columns)
    return (np.frombuffer(digest, "<u8") >> 1).astype(np.int64).reshape(columns, rows)


def walk(
    label: str,
    interval: str,
    span: tuple[str, str],
    start: int,
    stride: int,
    *,
    trades: int = 2_000,
    lots: int = 4_000,
    busy_permille: int = 1_000,
    quiet: tuple[str, str] = ("1970-01-01", "1970-01-01"),
) -> Bars:
    """Make regular bars without gaps in a half-open span: a random walk, determined by the label.

    The first price is `start`, and a bar changes it by at most `stride`. Of a thousand bars, `busy_permille` have
    up to about `trades` trades. The others, and all in the span `quiet`, are flat and have zero volume. The mean
    trade of a bar has up to `lots` lots; 0 is for prices that are not traded.
    """
    bars = np.zeros((ms(span[1]) - ms(span[0])) // LENGTH_MS[interval], BAR)
    bars["open_time"] = ms(span[0]) + np.arange(len(bars)) * LENGTH_MS[interval]
    bars["close_time"] = bars["open_time"] + (LENGTH_MS[interval] - 1)
    chance, change, above, under, count, size, share = draws(label, len(bars), 7)
    busy = (chance % 1_000 < busy_permille) & ~between(bars, *quiet)
    bars["close"] = start + np.cumsum((change % (2 * stride + 1) - stride) * busy)
    bars["open"] = np.concatenate([[start], bars["close"][:-1]])
    bars["high"] = np.maximum(bars["open"], bars["close"]) + above % stride * busy
    bars["low"] = np.minimum(bars["open"], bars["close"]) - under % stride * busy
    # A bar can need four trades: open, high, low and close.
    bars["count"] = (4 + count % trades) * busy
    bars["volume"] = bars["count"] * (1 + size % lots) if lots else 0
    bars["taker_buy_volume"] = bars["volume"] * (share % 1_001) // 1_000
    turn_over(bars, lambda volume, four_prices: volume * four_prices // 4)
    return bars


def turn_over(bars: Bars, worth: Callable[[Integers, Integers], Integers]) -> None:
    """Fill the quote columns with the worth of a volume, given the sum of open, high, low and close."""
    four_prices = bars["open"] + bars["high"] + bars["low"] + bars["close"]
    for side in ("", "taker_buy_"):
        bars[f"{side}quote_volume"] = worth(bars[f"{side}volume"], four_prices)


def aggregate(bars: Bars, interval: str) -> Bars:
    """Aggregate bars to `1h` or `1mo`, without empty ones. Each closes with the last bar that it is made of."""
    unit = {"1h": "h", "1mo": "M"}[interval]
    opens_ms = bars["open_time"].astype("M8[ms]").astype(f"M8[{unit}]").astype("M8[ms]").astype(np.int64)
    firsts = np.flatnonzero(np.diff(opens_ms, prepend=-1))
    lasts = np.append(firsts[1:], len(bars)) - 1
    longer = bars[firsts]
    longer["open_time"] = opens_ms[firsts]
    longer["high"] = np.maximum.reduceat(bars["high"], firsts)
    longer["low"] = np.minimum.reduceat(bars["low"], firsts)
    longer["close"], longer["close_time"] = bars["close"][lasts], bars["close_time"][lasts]
    for name in ("volume", "quote_volume", "count", "taker_buy_volume", "taker_buy_quote_volume"):
        longer[name] = np.add.reduceat(bars[name], firsts)
    return longer


class Archive(NamedTuple):
    """One archive: the path of its ZIP under the root of the mirror, and the text of its member."""

    path: str
    csv: bytes


def publish(instrument: Instrument, interval: str, bars: Bars, *labels: str) -> Iterator[Archive]:
    """Cut bars into the months and days of the labels (`2020-08-31`, `2020-08`, and even `2020-8`)."""
    series = f"{instrument.kind}/{instrument.symbol}/{interval}/{instrument.symbol}-{interval}"
    for label in labels:
        cadence, unit = ("monthly", "M") if label.count("-") == 1 else ("daily", "D")
        period = np.datetime64("-".join(part.zfill(2) for part in label.split("-")))
        inside = bars["open_time"].astype("M8[ms]").astype(f"M8[{unit}]") == period
        yield Archive(f"data/{instrument.market}/{cadence}/{series}-{label}.zip", instrument.csv(bars[inside]))


def bitcoin() -> Iterator[Archive]:
    """Spot minutes and their aggregates, around an outage and where milliseconds become microseconds."""
    pair = Instrument("spot", "BTCUSDT", (2, 5, 7))
    quiet = ("2023-03-24T11:28", "2023-03-24T14:00")
    minutes = walk("outage", "1m", ("2023-03-01", "2023-04-01"), 2_790_000, 1_500, quiet=quiet)
    minutes = minutes[~between(minutes, "2023-03-24T12:40", "2023-03-24T14:00")]
    minutes["close_time"][minutes["open_time"] == ms("2023-03-24T12:39")] = ms("2023-03-24T12:39:41.646")
    yield from publish(pair, "1m", minutes, "2023-03-23", "2023-03-24", "2023-03-25")
    yield from publish(pair, "1h", aggregate(minutes, "1h"), "2023-03", "2023-03-24")
    yield from publish(pair, "1mo", aggregate(minutes, "1mo"), "2023-03")

    minutes = walk("units", "1m", ("2024-12-01", "2025-02-01"), 9_650_000, 4_000)
    yield from publish(pair, "1m", minutes, "2024-12-31", "2025-01-01")
    yield from publish(pair, "1h", aggregate(minutes, "1h"), "2024-12", "2025-01")
    yield from publish(pair, "1mo", aggregate(minutes, "1mo"), "2024-12", "2025-01")


def spot_oddities() -> Iterator[Archive]:
    """Other pairs of the spot market, each with its own oddity."""
    second = walk("seconds", "1s", ("2023-01-01", "2023-01-02"), 14_800, 4, trades=20, busy_permille=60)
    yield from publish(Instrument("spot", "BNBBTC", (6, 2, 8)), "1s", second, "2023-01-01")

    ether = Instrument("spot", "ETHUSDT", (2, 4, 6))
    hours = walk("lacking day", "1h", ("2023-02-01", "2023-03-01"), 158_500, 1_200)
    yield from publish(ether, "1h", hours[~between(hours, "2023-02-14", "2023-02-15")], "2023-02")
    yield from publish(ether, "1h", hours, "2023-02-14")

    hours = walk("off the grid", "1h", ("2017-12-01", "2018-01-01"), 43_000, 300)
    late = between(hours, "2017-12-04T09:00", "2017-12-17T18:00")
    for name in ("open_time", "close_time"):
        hours[name] += 14_789 * late
    hours["ignore"] = draws("ignored", len(hours), 1)[0] % 10**12 * between(hours, "2017-12-01", "2017-12-18")
    yield from publish(Instrument("spot", "ETHBTC", (6, 2, 8)), "1h", hours, "2017-12")

    days = walk("tripled", "1d", ("2021-01-01", "2021-02-01"), 237_000, 9_000)
    yield from publish(Instrument("spot", "XRPUSDT", (5, 0, 5)), "1d", np.repeat(days, 3), "2021-01")
    days = walk("name without zero", "1d", ("2020-08-01", "2020-09-01"), 160_000, 5_000)
    yield from publish(Instrument("spot", "ADABKRW", (3, 0, 3)), "1d", days, "2020-8")
    first = walk("not ascii", "5m", ("2025-10-20T08:00", "2025-10-21"), 120_000, 1_500)
    yield from publish(Instrument("spot", "币安人生USDT", (6, 0, 6)), "5m", first, "2025-10-20")


def usd_margined() -> Iterator[Archive]:
    """USD-M: archives with and without header, flat bars in an outage, and prices that are not traded."""
    contract = Instrument("futures/um", "BTCUSDT", (1, 3, 4), (2, 3, 5), header=True)
    quiet = ("2025-01-29T01:00", "2025-01-29T03:00")
    hours = walk("contracts", "1h", ("2024-12-01", "2025-02-01"), 965_000, 3_000, lots=1_000, quiet=quiet)
    yield from publish(contract, "1h", hours, "2024-12", "2025-01")
    bars = walk("no header", "5m", ("2022-04-30", "2022-05-01"), 385_000, 600, lots=500)
    yield from publish(replace(contract, header=False), "5m", bars, "2022-04-30")

    kinds = ("markPriceKlines", 9_650_000_000_000, 30_000_000_000), ("premiumIndexKlines", 20_000, 3_000)
    for kind, start, stride in kinds:
        prices = walk(kind, "1h", ("2025-01-01", "2025-02-01"), start, stride, lots=0)
        prices["count"] = 3_600  # a sample a second
        untraded = replace(contract, units=(8, 0, 0), shown=(8, 0, 0), kind=kind)
        yield from publish(untraded, "1h", prices, "2025-01")


def beside_bars() -> Iterator[Archive]:
    """USD-M: funding rates whose interval changes, and metrics of a day before and after their labels changed."""
    folder, hour_ms, changed_ms = "data/futures/um", LENGTH_MS["1h"], ms("2025-01-20")
    for label, start, end in (("2024-12", "2024-12-01", "2025-01-01"), ("2025-01", "2025-01-01", "2025-02-01")):
        times = np.arange(ms(start), ms(end), 4 * hour_ms)
        hours = np.where(times < changed_ms, 8, 4)
        is_settled = times % (hours * hour_ms) == 0
        delays, rates = draws(f"funding {label}", len(times), 2)
        rows = [
            f"{time_ms + delay % 32},{every},{decimal(rate % 40_000 - 10_000, 8, 8)}"
            for time_ms, every, delay, rate in np.array([times, hours, delays, rates]).T[is_settled].tolist()
        ]
        name = f"{folder}/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-{label}.zip"
        yield Archive(name, text("calc_time,funding_interval_hours,last_funding_rate", rows))
    header = (
        "create_time,symbol,sum_open_interest,sum_open_interest_value,count_toptrader_long_short_ratio,"
        "sum_toptrader_long_short_ratio,count_long_short_ratio,sum_taker_long_short_vol_ratio"
    )
    for day, first in (("2025-01-01", "00:05"), ("2025-01-02", "00:00")):
        rows = []
        for row, drawn in enumerate(draws(f"metrics {day}", 288, 5).T.tolist()):
            time = np.datetime64(f"{day}T{first}", "s") + np.timedelta64(5 * row, "m")
            contracts, *ratios = (number % 1_000_000 for number in drawn)
            held = 76_000_000 + contracts
            cells = [
                decimal(held, 3, 16),
                decimal(held * 95_000, 3, 16),
                *(decimal(one + 1, 6, 8) for one in ratios),
            ]
            if row == 100:
                cells[2:5] = ['""'] * 3  # as the publisher leaves cells blank
            rows.append(",".join([str(time).replace("T", " "), "BTCUSDT", *cells]))
        name = f"{folder}/daily/metrics/BTCUSDT/BTCUSDT-metrics-{day}.zip"
        yield Archive(name, text(header, rows))


def text(header: str, rows: list[str]) -> bytes:
    """The lines of an archive that has no bars."""
    return "".join(f"{line}\n" for line in (header, *rows)).encode()


def coin_margined() -> Iterator[Archive]:
    """COIN-M: volumes in contracts of 100 dollars, and in coins in the columns that are called quote volume."""

    def hours(label: str, start: int, span: tuple[str, str]) -> Bars:
        bars = walk(label, "1h", span, start, 1_500, lots=100)
        # The factor includes the 8 decimals of the coin and the one of the price.
        turn_over(bars, lambda contracts, four_prices: contracts * (100 * 10**9 * 4) // four_prices)
        return bars

    perpetual = Instrument("futures/cm", "BTCUSD_PERP", (1, 0, 8), (1, 0, 8), header=True, zeros_lost=True)
    bars = hours("perpetual", 423_000, ("2024-01-01", "2024-01-04"))
    yield from publish(perpetual, "1h", bars, "2024-01-01", "2024-01-02", "2024-01-03")
    delivery = Instrument("futures/cm", "BTCUSD_200925", (1, 0, 8), (1, 0, 8))
    yield from publish(delivery, "1h", hours("delivery", 117_000, ("2020-09-01", "2020-09-02")), "2020-09-01")

    index = walk("index", "1d", ("2024-01-01", "2024-02-01"), 4_230_000_000_000, 90_000_000_000, lots=0)
    index["count"] = 86_400
    pair = Instrument("futures/cm", "BTCUSD", (8, 0, 0), (8, 0, 0), kind="indexPriceKlines", header=True)
    yield from publish(pair, "1d", index, "2024-01")


def samples() -> Iterator[Archive]:
    """All archives of the mirror."""
    return chain(bitcoin(), spot_oddities(), usd_margined(), beside_bars(), coin_margined())


def member_of(archive: Archive) -> zipfile.ZipInfo:
    """Describe the one member as the exchange does: a plain file, made on Unix, deflated. The date is arbitrary."""
    member = zipfile.ZipInfo(f"{PurePosixPath(archive.path).stem}.csv", (2025, 3, 1, 8, 30, 0))
    member.create_system, member.compress_type = 3, zipfile.ZIP_DEFLATED
    member.external_attr = 0o100644 << 16
    return member


def write(archive: Archive, root: Path) -> None:
    """Write the ZIP and its CHECKSUM."""
    path = root / archive.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr(member_of(archive), archive.csv, compresslevel=9)
    path.with_name(f"{path.name}.CHECKSUM").write_bytes(checksum(path))


def checksum(path: Path) -> bytes:
    """Make the content of a CHECKSUM file: digits, two spaces, the name, and no newline."""
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}".encode()


def fault(archive: Archive, root: Path) -> str | None:
    """Return what is wrong with the files of an archive, or None."""
    path = root / archive.path
    try:
        found, expected = path.with_name(f"{path.name}.CHECKSUM").read_bytes(), checksum(path)
        if found != expected:
            return f"CHECKSUM: expected {expected!r}, found {found!r}"
        with zipfile.ZipFile(path) as zipped:
            members = zipped.infolist()
            csv = zipped.read(members[0]) if members else b""
    except FileNotFoundError as error:
        return f"there is no {Path(error.filename).name}"
    except zipfile.BadZipFile as error:
        return f"cannot be read: {error}"
    for trait in ("filename", "date_time", "create_system", "compress_type", "external_attr", "extra"):
        wanted = getattr(member_of(archive), trait)
        if [getattr(member, trait) for member in members] != [wanted]:
            return f"expected one member with {trait} {wanted!r}"
    for number, (line, made) in enumerate(zip_longest(csv.split(b"\n"), archive.csv.split(b"\n")), 1):
        if line != made:
            return f"line {number}: expected {made!r}, found {line!r}"
    return None


def differences(root: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Compare a folder with the samples, and yield each difference with a function that removes it."""
    known: set[Path] = set()
    for archive in samples():
        known |= {root / archive.path, root / f"{archive.path}.CHECKSUM"}
        if (reason := fault(archive, root)) is not None:
            yield f"{archive.path}: {reason}", partial(write, archive, root)
    for path in sorted(root.rglob("*")):
        if path.is_file() and path not in known:
            yield f"{path.relative_to(root).as_posix()}: not one of the samples", path.unlink


def main() -> int:
    """Write the mirror, or only check it."""
    parser = argparse.ArgumentParser(description="Make the sample mirror in data/vision.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 at the first difference")
    options = parser.parse_args()
    for difference, remedy in differences(MIRROR):
        print(difference)
        if options.check:
            return 1
        remedy()
    return 0


if __name__ == "__main__":
    sys.exit(main())
