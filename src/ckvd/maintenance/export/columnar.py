"""Bars as files of columns: Arrow IPC and Parquet, with pyarrow, which is imported on use, and npz."""

from __future__ import annotations

import zipfile
from typing import IO, TYPE_CHECKING, Any, Final, cast

import numpy as np

from ckvd.cache.rows import chunks_of, column_of
from ckvd.errors import ExportError
from ckvd.model.table import COLUMN_DTYPES, REGULAR_US, fields_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckvd.model.market import SeriesKey
    from ckvd.segment.reader import MappedRows

# The date of ZIP members: the same each time, so that the same bars make the same bytes.
_ZIP_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def write_arrow(file: IO[bytes], chunks: Iterable[MappedRows], names: Sequence[str], series: SeriesKey) -> None:
    """Write an Arrow IPC file, a record batch for each chunk.

    Raises
    ------
    ExportError
        pyarrow is not installed.
    """
    pyarrow = _import()
    schema = _schema(pyarrow, names, series)
    with pyarrow.ipc.new_file(file, schema) as writer:
        for rows in chunks:
            writer.write_batch(_batch(pyarrow, schema, rows, series))
            del rows


def write_parquet(file: IO[bytes], chunks: Iterable[MappedRows], names: Sequence[str], series: SeriesKey) -> None:
    """Write a Parquet file, a row group for each chunk. Errors: see `write_arrow`."""
    pyarrow = _import()
    schema = _schema(pyarrow, names, series)
    with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in chunks:
            writer.write_batch(_batch(pyarrow, schema, rows, series))
            del rows


def write_npz(file: IO[bytes], blocks: Sequence[MappedRows], names: Sequence[str], series: SeriesKey) -> None:
    """Write an uncompressed npz file, column by column. The same bars make the same bytes."""
    row_count = sum(map(len, blocks))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            member = zipfile.ZipInfo(f"{name}.npy", _ZIP_EPOCH)
            with archive.open(member, "w", force_zip64=True) as stream:
                described = {"descr": COLUMN_DTYPES[name].str, "fortran_order": False, "shape": (row_count,)}
                np.lib.format.write_array_header_1_0(cast("Any", stream), described)
                for rows in chunks_of(blocks):
                    stream.write(np.ascontiguousarray(column_of(rows, name, series)).tobytes())
                    del rows


def columns_to_write(blocks: Sequence[MappedRows], series: SeriesKey) -> tuple[str, ...]:
    """The twelve fields of a row, and microseconds where a segment has irregular ones."""
    irregular = (name for name in REGULAR_US if any(rows.layout(name) is not None for rows in blocks))
    return (*fields_of(series), *irregular)


def _import() -> Any:
    try:
        import pyarrow as pa  # noqa: PLC0415  (an extra, and slow to load)
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise ExportError("this format needs pyarrow: pip install 'ckvd[arrow]'") from error
    return pa


def _schema(pyarrow: Any, names: Sequence[str], series: SeriesKey) -> Any:
    moment = pyarrow.timestamp("ms", "UTC")
    types = {
        name: moment if name.endswith("_time") else pyarrow.from_numpy_dtype(COLUMN_DTYPES[name]) for name in names
    }
    fields = [pyarrow.field(name, kind, nullable=False) for name, kind in types.items()]
    return pyarrow.schema(fields, metadata={"ckvd.series": str(series)})


def _batch(pyarrow: Any, schema: Any, rows: MappedRows, series: SeriesKey) -> Any:
    arrays = [pyarrow.array(column_of(rows, field.name, series)).cast(field.type) for field in schema]
    return pyarrow.record_batch(arrays, schema=schema)
