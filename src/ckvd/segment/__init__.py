"""Segments: the files that hold klines. They are immutable, describe themselves, and are read without a copy.

- `layout`: the format, byte by byte, and where each column goes. Pure.
- `header`: encodes and decodes the header, with its checks. Pure.
- `checks`: compares columns with their checksums, each once in a process.
- `reader`: maps a segment and gives its columns as views.
- `writer`: writes a segment and publishes it whole or not at all.
- `atomic_file`: writes any file whole or not at all.
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
