"""Metadata of any form under right checksums: whatever reads them gets values or a `SegmentError` with the file.

Metadata that a later version of ckvd wrote are kept, and what is unknown in them is shown as unknown.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ckvd
from ckvd.cache import CacheFolder, SeriesStore
from ckvd.cache.coverage import read_coverage
from ckvd.cache.packing import pack_series
from ckvd.maintenance.pruning import prune_span
from ckvd.maintenance.verification import Severity, verify_cache
from ckvd.model.provenance import Absence, Origin, Reason, Source
from ckvd.model.timespan import Span
from ckvd.segment import read_segment_header
from cli.cache.run import run, run_any
from hostile.looks import ABSENCE, DAY, NEIGHBOUR, SERIES, SOURCE, fill, look_at, segment_of
from hostile.mutants import with_metadata
from support.caches import mend
from support.models import DAY_MS, HOUR_MS
from support.tables import regular_table

if TYPE_CHECKING:
    from pathlib import Path

IS_WHOLE = os.environ.get("CKVD_MUTATIONS") == "whole"
TIMEOUT_S = 3600 if IS_WHOLE else 60


@pytest.fixture(scope="module", params=["bars", "no bars"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CacheFolder:
    """Two series, one of which the tests change."""
    return fill(CacheFolder(tmp_path_factory.mktemp("whole")), has_bars=request.param == "bars")


# --- Any metadata ------------------------------------------------------------------------------------------

ODD: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([2**53, -(2**63), 2**63, 10**40, 1.5, 1e308])
    | st.sampled_from(["", "halted", "x" * 300, "\x1b[31m\n", "\ud800", "unknown", "later", "1704412800000"])
    | st.builds(dict) | st.builds(list) | st.just([1]) | st.just({"a": [{}]})
)  # fmt: skip


@st.composite
def changed(draw: st.DrawFn, record: Any) -> Any:
    """JSON like a given one: one value in it is another, gone, doubled or new."""
    if isinstance(record, dict) and record:
        key = draw(st.sampled_from(sorted(record)))
        way = draw(st.sampled_from(["inside"] * 4 + ["remove", "replace", "add"]))
        if way == "remove":
            return {other: value for other, value in record.items() if other != key}
        if way == "add":
            return record | {draw(st.sampled_from(["new", "later", "exact_reason", "sha256"])): draw(ODD)}
        return record | {key: draw(changed(record[key]) if way == "inside" else ODD)}
    if isinstance(record, list) and record and draw(st.booleans()):
        position = draw(st.integers(0, len(record) - 1))
        if draw(st.booleans()):
            return [*record, record[position]]
        return [*record[:position], draw(changed(record[position])), *record[position + 1 :]]
    return draw(ODD)


FULL = {
    "series": {"market": "spot", "kind": "klines", "symbol": SERIES.symbol, "interval": "1h"},
    "sources": [
        SOURCE.to_json()
        | {
            "conflict_open_times": [1, 2],
            "etag": '"a"',
            "has_header": True,
            "time_unit": "us",
            "is_preferred": True,
        }
    ],
    "absences": [ABSENCE.to_json() | {"exact_reason": "halted", "is_listing_read": True}],
    "writer": "ckvd",
}


@settings(max_examples=2000 if IS_WHOLE else 15)
@given(metadata=changed(FULL) | changed(FULL).flatmap(changed))
def test_any_values_are_read_or_refused_with_the_file_and_stop_no_other_series(
    whole: CacheFolder, metadata: Any
) -> None:
    path = segment_of(whole)
    content = path.read_bytes()
    try:
        path.write_bytes(with_metadata(content, json.dumps(metadata, separators=(",", ":")).encode()))
        look_at(whole, path)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"[" * 20_000,
        b'{"series":' + b"[" * 20_000,
        b"\xff" * 100,
        "{}".encode("utf-16"),
        b"NaN",
        json.dumps(FULL).replace('"row_count": 23', '"row_count": NaN').encode(),
        json.dumps(FULL).replace('"row_count": 23', '"row_count": 1e999').encode(),
        json.dumps(FULL).replace('"row_count": 23', '"row_count": ' + "9" * 5000).encode(),
        json.dumps(FULL).replace(str(DAY.start_ms), "9" * 5000).encode(),
        json.dumps(FULL | {"later": {"deep": "@"}}).replace('"@"', "[" * 30 + "]" * 30).encode(),
        json.dumps(FULL).replace('"market"', '"Markt"').encode(),
    ],
    ids=lambda metadata: metadata[:20].decode("latin-1"),
)
def test_what_is_no_such_json_is_damage_that_repair_sets_aside(
    whole: CacheFolder, tmp_path: Path, metadata: bytes
) -> None:
    folder = CacheFolder(tmp_path / "copy")
    shutil.copytree(whole.root, folder.root)
    path = segment_of(folder)
    path.write_bytes(with_metadata(path.read_bytes(), metadata))
    look_at(folder, path)
    (finding,) = (one for one in verify_cache(folder) if one.severity is Severity.ERROR)
    assert finding.path == path
    assert [aside.file_name for aside in mend(folder).quarantined] == [path.name]
    assert [one for one in verify_cache(folder) if one.severity is Severity.ERROR] == []


def test_every_verb_contains_metadata_that_cannot_be_read(whole: CacheFolder, tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "copy")
    shutil.copytree(whole.root, folder.root)
    path = segment_of(folder)
    path.write_bytes(with_metadata(path.read_bytes(), b"[" * 20_000))
    neighbour, target = str(NEIGHBOUR), str(tmp_path / "exported")
    assert neighbour in run(folder, "list")
    result = run_any(folder, "gaps")
    assert neighbour in result.stdout
    assert str(path) in result.stderr
    result = run_any(folder, "export", "--to", target)
    assert neighbour in result.stdout
    assert str(path) in result.stderr
    # A lock pins all that was asked for, or there is none.
    assert str(path) in run_any(folder, "lock", str(tmp_path / "lock")).stderr
    assert not (tmp_path / "lock").exists()
    assert str(path) in run_any(folder, "verify").stdout
    assert "its metadata cannot be read" in run(folder, "info", SERIES.symbol, "-i", "1h")
    run(folder, "stats")
    run(folder, "pack", "--yes")


# --- What a later version says -----------------------------------------------------------------------------

LATER: dict[str, Any] = FULL | {
    "sources": [FULL["sources"][0] | {"origin": "telepathy", "colour": {"blue": [1, 2]}}],  # type: ignore[index]
    "absences": [
        {**ABSENCE.to_json(), "reason": "eaten by a bear", "species": "brown"},
        {**ABSENCE.to_json(), "reason": "halted", "exact_reason": "halted by a bear"},
    ],
    "mood": "good",
}


def test_words_and_keys_of_a_later_version_are_shown_as_unknown_and_kept_when_segments_are_packed(
    whole: CacheFolder, tmp_path: Path
) -> None:
    folder = CacheFolder(tmp_path / "copy")
    shutil.copytree(whole.root, folder.root)
    path = segment_of(folder)
    path.write_bytes(with_metadata(path.read_bytes(), json.dumps(LATER, separators=(",", ":")).encode()))
    assert look_at(folder, path) == []
    with ckvd.open_cache(folder.root) as cache:
        klines = cache.read_series(SERIES, DAY, missing="ignore")
        assert [source.origin for source in klines.sources] == [Origin.UNKNOWN]
        assert klines.gaps[-1].reason is Reason.HALTED
    assert [one.reason for one in read_segment_header(path).absences] == [Reason.UNKNOWN, Reason.HALTED]
    output = run(folder, "info", SERIES.symbol, "-i", "1h")
    assert "unknown" in output
    assert "eaten by a bear" in output
    assert "1 unknown" in run(folder, "list")
    # Cut by pruning, which packs the rest into a new segment.
    prune_span(folder, SERIES, Span(DAY.start_ms, DAY.start_ms + HOUR_MS))
    packed = json.loads(read_segment_header(segment_of(folder)).metadata)
    assert packed["mood"] == "good"
    assert packed["sources"][0] | LATER["sources"][0] == packed["sources"][0] | {"start_ms": DAY.start_ms}
    assert packed["absences"] == LATER["absences"]


def test_a_span_without_bars_for_an_unknown_reason_is_asked_for_again(tmp_path: Path) -> None:
    folder = fill(CacheFolder(tmp_path), has_bars=False)
    path = segment_of(folder)
    said = FULL | {"absences": [{**ABSENCE.to_json(), "reason": "eaten by a bear"}]}
    path.write_bytes(with_metadata(path.read_bytes(), json.dumps(said).encode()))
    (covered,) = read_coverage(folder, SERIES, DAY)
    assert not covered.is_answered
    assert covered.is_due(DAY.end_ms)


def test_what_only_some_segments_say_is_not_said_of_all_that_they_are_packed_into(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    for number in range(12):
        span = Span(DAY.start_ms + number * DAY_MS, DAY.end_ms + number * DAY_MS)
        path = SeriesStore(folder, SERIES).put(regular_table(SERIES, span), span)
        said = json.loads(read_segment_header(path).metadata) | {"mood": "good", "number": number}
        path.write_bytes(with_metadata(path.read_bytes(), json.dumps(said).encode()))
    assert pack_series(folder, SERIES).packed
    packed = json.loads(read_segment_header(segment_of(folder)).metadata)
    assert packed["mood"] == "good"
    assert "number" not in packed


@pytest.mark.parametrize("later", [{"a": 1.5}, {"a": None, "b": [True, "ü"]}, {"sha257": ""}])
def test_what_is_unknown_survives_any_number_of_turns(later: dict[str, Any]) -> None:
    for kind, record in ((Source, SOURCE.to_json()), (Absence, ABSENCE.to_json())):
        once = kind.of_json(record | later)
        assert kind.of_json(json.loads(json.dumps(once.to_json()))) == once
        assert once.to_json() == record | later
