"""Segments: the files that klines are kept in. Immutable, self-describing, read without a copy.

`layout` is the format as pure functions; `writer` publishes a segment whole or not at all; `reader` maps it.
"""

from ckvd.segment.layout import SegmentHeader
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
