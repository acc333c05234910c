"""One encoder makes every JSON document: a rule for each kind of value, and the fields of a dataclass in order."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from ckvd.model.calendar import Period
from ckvd.model.market import Interval, SeriesKey
from ckvd.model.provenance import Absence, Gap, Origin, Reason, Source
from ckvd.model.record import Record, as_json, fields_as_json
from ckvd.model.timespan import Span

SERIES = SeriesKey.of("BTCUSDT", "1h")
SPAN = Span.of("1970-01-01", "1970-01-02")


class Colour(Enum):
    RED = 7


@dataclass(frozen=True, slots=True)
class Inner(Record):
    spans: tuple[Span, ...]
    counts: dict[Reason, int]


@dataclass(frozen=True, slots=True)
class Outer(Record):
    series: SeriesKey
    inner: Inner
    path: Path
    nothing: None = None
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Renamed(Record):
    path: Path

    def to_json(self) -> dict[str, Any]:
        return {"file": self.path.name, **fields_as_json(self)}


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        ("text", "text"),
        (Colour.RED, 7),
        (Interval.MO1, "1mo"),
        (SPAN, [0, 86_400_000]),
        (SERIES, "spot/klines/BTCUSDT/1h"),
        (Period.of_label("2024-01"), "2024-01"),
        (Path("a/b"), "a/b"),
        ((SPAN, None), [[0, 86_400_000], None]),
        ({SERIES: (SPAN,)}, {"spot/klines/BTCUSDT/1h": [[0, 86_400_000]]}),
        (Gap(0, 1, 2, Reason.HALTED), {"start_ms": 0, "end_ms": 1, "bar_count": 2, "reason": "halted"}),
        (Renamed(Path("a/b")), {"file": "b", "path": "a/b"}),
    ],
)
def test_each_kind_of_value_has_one_rule(value: object, encoded: object) -> None:
    assert as_json(value) == encoded
    assert type(as_json(value)) is type(encoded)
    json.dumps(as_json(value))


def test_the_fields_of_a_record_are_in_order_at_any_depth() -> None:
    outer = Outer(SERIES, Inner((SPAN,), {Reason.HALTED: 3}), Path("x"))
    assert list(outer.to_json().items()) == [
        ("series", "spot/klines/BTCUSDT/1h"),
        ("inner", {"spans": [[0, 86_400_000]], "counts": {"halted": 3}}),
        ("path", "x"),
        ("nothing", None),
        ("is_whole", True),
    ]


def test_sources_and_absences_are_as_in_the_header_of_a_segment() -> None:
    source, absence = Source(Origin.REST, "/klines", 0, 1), Absence(0, 1, Reason.HALTED)
    assert as_json((source, absence)) == [source.to_json(), absence.to_json()]
    assert "sha256" not in as_json(source)


def test_a_value_without_a_rule_is_refused() -> None:
    with pytest.raises(TypeError, match="no JSON is defined for object"):
        as_json([object()])
