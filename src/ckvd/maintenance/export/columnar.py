"""Bars as files of columns: Arrow IPC and Parquet, with pyarrow, which is imported on use, and npz."""

from __future__ import annotations

import zipfile
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Final, cast

import numpy as np

from ckvd.bars.metrics import known_times
from ckvd.cache.rows import chunks_of, column_of
from ckvd.errors import ExportError
from ckvd.model.market import Kind
from ckvd.model.schema import COLUMN_DTYPES
from ckvd.model.table import REGULAR_US, fields_of
from ckvd.utils.config import EXPORT_GROUP_ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckvd.model.market import SeriesKey
    from ckvd.model.table import Column, Times
    from ckvd.segment.reader import MappedRows

# The date of ZIP members: the same each time, so that the same bars make the same bytes.
_ZIP_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
# Not stored: without it, a join of metrics by `open_time` would be five minutes ahead of time.
_KNOWN_TIME: Final = "known_time"


def write_arrow(file: IO[bytes], blocks: Sequence[MappedRows], series: SeriesKey, *, is_parquet: bool) -> None:
    """Write an Arrow IPC file of record batches, or a Parquet file of row groups.

    Raises
    ------
    ExportError
        pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415  (an extra, and slow to load)
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise ExportError("this format needs pyarrow: pip install 'ckvd[arrow]'") from error
    types = {
        name: pa.timestamp("ms", "UTC") if name.endswith("_time") else pa.from_numpy_dtype(_dtype_of(name))
        for name in _names_of(blocks, series)
    }
    fields = [pa.field(name, kind, nullable=False) for name, kind in types.items()]
    schema = pa.schema(fields, metadata={"ckvd.series": str(series)})
    open_writer = partial(pa.parquet.ParquetWriter, compression="zstd") if is_parquet else pa.ipc.new_file
    with open_writer(file, schema) as writer:
        for rows in chunks_of(blocks, EXPORT_GROUP_ROWS):
            arrays = [pa.array(_column_of(rows, name, series)).cast(kind) for name, kind in types.items()]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            del rows, arrays


def write_npz(file: IO[bytes], blocks: Sequence[MappedRows], series: SeriesKey) -> None:
    """Write an uncompressed npz file, column by column. The same bars make the same bytes."""
    row_count = sum(map(len, blocks))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in _names_of(blocks, series):
            member = zipfile.ZipInfo(f"{name}.npy", _ZIP_EPOCH)
            with archive.open(member, "w", force_zip64=True) as stream:
                described = {"descr": _dtype_of(name).str, "fortran_order": False, "shape": (row_count,)}
                np.lib.format.write_array_header_1_0(cast("Any", stream), described)
                for rows in chunks_of(blocks):
                    stream.write(np.ascontiguousarray(_column_of(rows, name, series)).tobytes())
                    del rows


def _names_of(blocks: Sequence[MappedRows], series: SeriesKey) -> tuple[str, ...]:
    """The fields of a row, when metrics could be known, and microseconds where a segment has irregular ones."""
    irregular = (name for name in REGULAR_US if any(rows.layout(name) is not None for rows in blocks))
    first, *fields = fields_of(series)
    known = (_KNOWN_TIME,) if series.kind is Kind.METRICS else ()
    return (first, *known, *fields, *irregular)


def _dtype_of(name: str) -> np.dtype[Any]:
    return COLUMN_DTYPES["open_time" if name == _KNOWN_TIME else name]


def _column_of(rows: MappedRows, name: str, series: SeriesKey) -> Column:
    if name == _KNOWN_TIME:
        return known_times(cast("Times", column_of(rows, "open_time", series)))
    return column_of(rows, name, series)
