"""Where the bars that segments still speak for came from, each source once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ckvd.model.provenance import Origin, Source

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckvd.maintenance.inventory import SegmentSummary
    from ckvd.model.timespan import Span
    from ckvd.segment.header import SegmentHeader

# How a source stands in the metadata of a header. Taking the JSON apart would take longer than all the rest.
_SOURCE: Final = re.compile(rb'"origin":"([^"]*)","name":"((?:[^"\\]|\\.)*)","start_ms":(-?\d+),"end_ms":(-?\d+)')
_ORIGINS: Final = {origin.value.encode(): origin for origin in Origin}


def sources_within(header: SegmentHeader, span: Span) -> list[tuple[Origin, bytes]]:
    """The sources of a part of a segment, by origin and name."""
    is_whole = span == header.span
    return [
        (_ORIGINS[origin], name)
        for origin, name, start_ms, end_ms in _SOURCE.findall(header.metadata)
        if origin in _ORIGINS and (is_whole or (int(start_ms) < span.end_ms and int(end_ms) > span.start_ms))
    ]


def speaking_sources(segments: Iterable[SegmentSummary]) -> list[Source]:
    """Where the bars that some segments speak for came from, each source once, in order."""
    sources: dict[tuple[str, str], Source] = {}
    for segment in segments:
        for source in segment.sources:
            if any(source.span.overlaps(part) for part in segment.held):
                sources.setdefault((source.name, source.sha256), source)
    return list(sources.values())
