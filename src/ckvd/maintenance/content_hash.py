"""The hash of the bars of a span: the same wherever, however and in however many segments they are stored.

It is the SHA-256 of the names of all columns and the SHA-256 of each column's values, little-endian, in order of
open time. Microseconds that a segment leaves out, because they are regular, are hashed as they would be written.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ckvd.cache.rows import column_of, stream_rows
from ckvd.model.table import CLOSE_TIME_US, OPEN_TIME_US, fields_of

if TYPE_CHECKING:
    from ckvd.cache.folder import CacheFolder
    from ckvd.model.market import SeriesKey
    from ckvd.model.timespan import Span

_ALGORITHM: Final = "sha256"


@dataclass(frozen=True, slots=True)
class ContentHash:
    """What the bars of a span hash to.

    Attributes
    ----------
    series : SeriesKey
    span : Span
    bar_count : int
    sha256 : str
        64 hexadecimal digits.
    """

    series: SeriesKey
    span: Span
    bar_count: int
    sha256: str


def hash_span(folder: CacheFolder, series: SeriesKey, span: Span) -> ContentHash:
    """Hash the bars that open in a span of which the cache speaks, with flat memory.

    Raises
    ------
    NotCachedError
        The cache does not cover the span.
    SegmentError, CacheError
        A segment cannot be used.
    """
    names = (*fields_of(series), OPEN_TIME_US, CLOSE_TIME_US)
    hashes = {name: hashlib.new(_ALGORITHM) for name in names}
    bar_count = 0
    for rows in stream_rows(folder, series, span):
        for name, column_hash in hashes.items():
            column_hash.update(np.ascontiguousarray(column_of(rows, name, series)).data)
        bar_count += len(rows)
        del rows
    whole = hashlib.new(_ALGORITHM)
    for name, column_hash in hashes.items():
        whole.update(f"{name} {column_hash.hexdigest()}\n".encode())
    return ContentHash(series, span, bar_count, whole.hexdigest())
