"""Segments: the files that klines are kept in. Immutable, self-describing, read without a copy.

`layout` says what stands where in a file, and `header` reads and writes what a segment says of itself, both without
touching one; `writer` publishes a segment whole or not at all, as an `atomic_file`; `reader` maps it.
"""

from ckvd.segment.header import SegmentHeader
from ckvd.segment.reader import MappedRows, SegmentReader, read_segment_header
from ckvd.segment.writer import SegmentStatement, SegmentWriter

__all__ = [
    "MappedRows",
    "SegmentHeader",
    "SegmentReader",
    "SegmentStatement",
    "SegmentWriter",
    "read_segment_header",
]
