"""Writing bars as Arrow IPC and Parquet files, with pyarrow, which is imported when it is needed."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from ckvd.cache.rows import column_of
from ckvd.errors import ExportError
from ckvd.model.table import CLOSE_TIME_US, COLUMN_DTYPES, OPEN_TIME_US, fields_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckvd.model.market import SeriesKey
    from ckvd.segment.reader import MappedRows


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


def columns_to_write(parts: Sequence[MappedRows], series: SeriesKey) -> tuple[str, ...]:
    """The twelve fields of a row, and microseconds where a segment has irregular ones."""
    odd = [name for name in (OPEN_TIME_US, CLOSE_TIME_US) if any(part.layout(name) is not None for part in parts)]
    return (*fields_of(series), *odd)


def _import() -> Any:
    try:
        import pyarrow as pa  # noqa: PLC0415  (an extra, and slow to load)
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise ExportError("this format needs pyarrow: pip install 'ckvd[arrow]'") from error
    return pa


def _schema(pyarrow: Any, names: Sequence[str], series: SeriesKey) -> Any:
    fields = [
        pyarrow.field(
            name,
            pyarrow.timestamp("ms", "UTC")
            if name.endswith("_time")
            else pyarrow.from_numpy_dtype(COLUMN_DTYPES[name]),
            nullable=False,
        )
        for name in names
    ]
    return pyarrow.schema(fields, metadata={"ckvd.series": str(series)})


def _batch(pyarrow: Any, schema: Any, rows: MappedRows, series: SeriesKey) -> Any:
    arrays = [
        pyarrow.array(column_of(rows, field.name, series)).cast(field.type)
        if not field.name.endswith("_time")
        else pyarrow.array(column_of(rows, field.name, series), pyarrow.int64()).cast(field.type)
        for field in schema
    ]
    return pyarrow.record_batch(arrays, schema=schema)
