"""Other ways to store and read bars, each at its best. A peer that is not installed is skipped and named."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ckvd.model.table import Column

# Rows of a Parquet row group: few enough that reading a day does not read much more.
ROW_GROUP_ROWS = 1 << 16


def load(*names: str) -> dict[str, Any]:
    """Import modules by name. Those that are not installed are None."""
    modules: dict[str, Any] = {}
    for name in names:
        try:
            modules[name] = importlib.import_module(name)
        except ImportError:
            modules[name] = None
    return modules


@dataclass(frozen=True, slots=True)
class ReadPeer:
    """One way to read some columns for a span of open times, from a file that is not open.

    Attributes
    ----------
    name : str
    path : Path
    read : callable
        `read(columns, start_ms, end_ms)` returns numpy arrays. Both times are None for all rows.
    """

    name: str
    path: Path
    read: Callable[[Sequence[str], int | None, int | None], list[Column]]


def cut(open_time: Column, start_ms: int | None, end_ms: int | None) -> slice:
    if start_ms is None or end_ms is None:
        return slice(None)
    start, stop = open_time.searchsorted([start_ms, end_ms])
    return slice(int(start), int(stop))


def write_peers(folder: Path, columns: dict[str, Column]) -> tuple[list[ReadPeer], list[str]]:
    """Write the same columns in every format.

    Returns
    -------
    list of ReadPeer
    list of str
        A note for each package that is not installed.
    """
    modules = load(
        "pyarrow",
        "pyarrow.feather",
        "pyarrow.parquet",
        "pyarrow.compute",
        "polars",
        "pandas",
        "duckdb",
        "h5py",
        "arcticdb",
    )
    peers: list[ReadPeer] = [_numpy_memmap(folder, columns), _npz(folder, columns)]
    if modules["pyarrow"]:
        peers += _arrow(folder, columns, modules)
    if modules["h5py"]:
        peers.append(_hdf5(folder, columns, modules["h5py"]))
    if modules["arcticdb"] and modules["pandas"]:
        peers.append(_arctic(folder, columns, modules["arcticdb"], modules["pandas"]))
    skipped = [
        f"{name} is not installed: skipped"
        for name in ("pyarrow", "polars", "pandas", "duckdb", "h5py", "arcticdb")
        if not modules[name]
    ]
    return peers, skipped


def _numpy_memmap(folder: Path, columns: dict[str, Column]) -> ReadPeer:
    place = folder / "npy"
    place.mkdir()
    for name, column in columns.items():
        np.save(place / f"{name}.npy", column)

    def read(names: Sequence[str], start_ms: int | None, end_ms: int | None) -> list[Column]:
        rows = cut(np.load(place / "open_time.npy", mmap_mode="r"), start_ms, end_ms)
        return [np.load(place / f"{name}.npy", mmap_mode="r")[rows] for name in names]

    return ReadPeer("numpy, a memmap for each column", place, read)


def _npz(folder: Path, columns: dict[str, Column]) -> ReadPeer:
    path = folder / "bars.npz"
    np.savez(path, **columns)  # type: ignore[arg-type]

    def read(names: Sequence[str], start_ms: int | None, end_ms: int | None) -> list[Column]:
        with np.load(path) as archive:
            rows = cut(archive["open_time"], start_ms, end_ms)
            return [archive[name][rows] for name in names]

    return ReadPeer("numpy npz", path, read)


def _hdf5(folder: Path, columns: dict[str, Column], h5py: Any) -> ReadPeer:
    path = folder / "bars.h5"
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file.create_dataset(name, data=column)

    def read(names: Sequence[str], start_ms: int | None, end_ms: int | None) -> list[Column]:
        with h5py.File(path, "r") as file:
            rows = slice(None) if start_ms is None else cut(file["open_time"][:], start_ms, end_ms)
            return [file[name][rows] for name in names]

    return ReadPeer("HDF5, contiguous", path, read)


def _arctic(folder: Path, columns: dict[str, Column], arcticdb: Any, pandas: Any) -> ReadPeer:
    place = folder / "arctic"
    place.mkdir()
    library = arcticdb.Arctic(f"lmdb://{place}").get_library("bars", create_if_missing=True)
    index = pandas.to_datetime(columns["open_time"], unit="ms")
    library.write(
        "bars",
        pandas.DataFrame({name: np.ascontiguousarray(column) for name, column in columns.items()}, index=index),
    )

    def read(names: Sequence[str], start_ms: int | None, end_ms: int | None) -> list[Column]:
        span = (
            None
            if start_ms is None or end_ms is None
            else tuple(pandas.to_datetime([start_ms, end_ms - 1], unit="ms"))
        )
        frame = library.read("bars", date_range=span, columns=list(names)).data
        return [frame[name].to_numpy() for name in names]

    return ReadPeer("ArcticDB (LMDB), open", place, read)


def _arrow(folder: Path, columns: dict[str, Column], modules: dict[str, Any]) -> list[ReadPeer]:
    """Write files with pyarrow, and return all peers that read them."""
    pyarrow, feather, parquet = modules["pyarrow"], modules["pyarrow.feather"], modules["pyarrow.parquet"]
    batch = pyarrow.record_batch({name: np.ascontiguousarray(column) for name, column in columns.items()})
    table = pyarrow.Table.from_batches([batch])
    one, ipc, lz4, pq = (folder / name for name in ("one.arrow", "plain.feather", "lz4.feather", "bars.parquet"))
    with pyarrow.OSFile(str(one), "wb") as sink, pyarrow.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    feather.write_feather(table, str(ipc), compression="uncompressed")
    feather.write_feather(table, str(lz4))
    parquet.write_table(table, pq, row_group_size=ROW_GROUP_ROWS)
    peers = _pyarrow_peers(pyarrow, feather, parquet, one, ipc, pq)
    if modules["pandas"]:
        peers.append(_pandas_peer(modules["pandas"], lz4))
    if modules["polars"]:
        polars = modules["polars"]
        peers.append(_polars_peer(polars, "polars scan_ipc", ipc, polars.scan_ipc))
        peers.append(_polars_peer(polars, "polars scan_parquet", pq, polars.scan_parquet))
    if modules["duckdb"]:
        peers.append(_duckdb_peer(modules["duckdb"], pq))
    return peers


def _pyarrow_peers(pyarrow: Any, feather: Any, parquet: Any, one: Path, ipc: Path, pq: Path) -> list[ReadPeer]:
    def read_one(names: Sequence[str], start_ms: int | None, end_ms: int | None) -> list[Column]:
        with pyarrow.memory_map(str(one)) as source:
            found = pyarrow.ipc.open_file(source).get_batch(0)
            rows = slice(None) if start_ms is None else cut(found.column("open_time").to_numpy(), start_ms, end_ms)
            return [found.column(name).to_numpy()[rows] for name in names]

    def read_ipc(names: Sequence[str], start_ms: int | None, end_ms: int | None) -> list[Column]:
        found = feather.read_table(str(ipc), columns=list(dict.fromkeys(["open_time", *names])), memory_map=True)
        if start_ms is None:
            return [found.column(name).to_numpy() for name in names]
        rows = cut(found.column("open_time").to_numpy(), start_ms, end_ms)
        return [found.column(name)[rows.start : rows.stop].to_numpy() for name in names]

    def read_parquet(names: Sequence[str], start_ms: int | None, end_ms: int | None) -> list[Column]:
        span = None if start_ms is None else [("open_time", ">=", start_ms), ("open_time", "<", end_ms)]
        found = parquet.read_table(pq, columns=list(names), filters=span)
        return [found.column(name).to_numpy() for name in names]

    return [
        ReadPeer("Arrow IPC, one record batch", one, read_one),
        ReadPeer("Arrow IPC as write_feather leaves it", ipc, read_ipc),
        ReadPeer("Parquet (pyarrow)", pq, read_parquet),
    ]


def _pandas_peer(pandas: Any, lz4: Path) -> ReadPeer:
    def read(names: Sequence[str], start_ms: int | None, end_ms: int | None) -> list[Column]:
        frame = pandas.read_feather(lz4, columns=list(dict.fromkeys(["open_time", *names])))
        rows = cut(frame["open_time"].to_numpy(), start_ms, end_ms)
        return [frame[name].to_numpy()[rows] for name in names]

    return ReadPeer("Feather lz4 (pandas)", lz4, read)


def _polars_peer(polars: Any, name: str, path: Path, scan: Callable[[Path], Any]) -> ReadPeer:
    def read(names: Sequence[str], start_ms: int | None, end_ms: int | None) -> list[Column]:
        lazy = scan(path)
        if start_ms is not None:
            lazy = lazy.filter(polars.col("open_time").is_between(start_ms, end_ms, closed="left"))
        found = lazy.select(names).collect()
        return [found[column].to_numpy() for column in names]

    return ReadPeer(name, path, read)


def _duckdb_peer(duckdb: Any, path: Path) -> ReadPeer:
    def read(names: Sequence[str], start_ms: int | None, end_ms: int | None) -> list[Column]:
        where = "" if start_ms is None else f" where open_time >= {start_ms} and open_time < {end_ms}"
        found = duckdb.sql(f"select {','.join(names)} from '{path}'{where}").fetchnumpy()
        return [found[name] for name in names]

    return ReadPeer("duckdb over Parquet", path, read)
