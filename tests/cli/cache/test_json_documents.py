"""The JSON document of every verb of `ckvd cache`: its keys, in order, and the type of each value."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from ckvd.api.vision_data_client import VisionDataClient
from ckvd.cache import CacheFolder, SeriesStore
from ckvd.model.calendar import days_of
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Absence, Origin, Reason, Source
from ckvd.model.timespan import Span
from support.command import run_here
from support.places import SAMPLES
from support.tables import regular_table

if TYPE_CHECKING:
    from pathlib import Path

HOURS = SeriesKey.of("BTCUSDT", "1h")
MARCH = Span.of("2023-03-01", "2023-04-01")
MONTH = "data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2023-03.zip"
SPAN = ["int"]


def shape_of(value: Any) -> Any:
    """The keys of objects, and the name of each value's type; of an array, one shape for each that occurs in it."""
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, list):
        shapes: list[Any] = []
        for item in value:
            if (shape := shape_of(item)) not in shapes:
                shapes.append(shape)
        return shapes
    return type(value).__name__


def same_in_order(one: Any, other: Any) -> bool:
    """Whether two shapes are equal, the keys in one order."""
    return one == other and json.dumps(one) == json.dumps(other)


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    cache = CacheFolder(tmp_path / "cache")

    async def download() -> None:
        async with VisionDataClient(SAMPLES, cache=cache.root) as vision:
            await vision.download_series([HOURS], MARCH)

    asyncio.run(download())
    return cache


def shape(folder: CacheFolder, *words: str | os.PathLike[str], status: int = 0) -> Any:
    finished = run_here("cache", *words, "--json", "--cache", folder.root)
    assert (finished.status, finished.err) == (status, "")
    return shape_of(json.loads(finished.out))


def damage(folder: CacheFolder) -> None:
    path = next(folder.series_path(HOURS).glob("*.ckvd"))
    path.write_bytes(path.read_bytes()[:-1])


SUMMARY = {
    "market": "str",
    "kind": "str",
    "symbol": "str",
    "interval": "str",
    "coverage": [SPAN],
    "segment_count": "int",
    "bar_count": "int",
    "missing_bar_count": "int",
    "nbytes": "int",
    "origins": {"vision-monthly": "int"},
    "provisional": [],
    "oldest_file_ms": "int",
    "newest_file_ms": "int",
    "unreadable_count": "int",
    "untraded_tail": "NoneType",
}
FINDING = {
    "severity": "str",
    "trouble": "str",
    "path": "str",
    "message": "str",
    "series": "str",
    "span": SPAN,
    "bar_count": "int",
}


def test_list(folder: CacheFolder) -> None:
    assert same_in_order(shape(folder, "list"), [SUMMARY])


def test_info(folder: CacheFolder) -> None:
    halt = Absence(MARCH.start_ms, MARCH.end_ms, Reason.HALTED)
    source = Source(Origin.VISION_MONTHLY, MONTH, MARCH.start_ms, MARCH.end_ms, sha256="0" * 64)
    store = SeriesStore(folder, HOURS)
    store.put(regular_table(HOURS, MARCH, low=1e9), MARCH, sources=[source], absences=[halt], is_provisional=True)
    # A file that bears the name of another segment.
    path = next(folder.series_path(HOURS).glob("*-r2.ckvd"))
    shutil.copy(path, path.with_name(path.name.replace("r2", "r1")))
    segment = {
        "file_name": "str",
        "revision": "int",
        "span": SPAN,
        "held": [],
        "row_count": "int",
        "nbytes": "int",
        "is_provisional": "bool",
        "recheck_ms": "int",
        "sources": [{"origin": "str", "name": "str", "start_ms": "int", "end_ms": "int", "sha256": "str"}],
        "absences": [{"start_ms": "int", "end_ms": "int", "reason": "str", "recheck_ms": "int"}],
        "trouble": "str",
    }
    expected = SUMMARY | {
        "provisional": [SPAN],
        "segments": [segment, segment | {"held": [SPAN]}],
        "findings": [FINDING],
    }
    assert same_in_order(shape(folder, "info", "BTCUSDT", "-i", "1h"), expected)


def test_stats(folder: CacheFolder) -> None:
    group = {
        "market": "str",
        "interval": "str",
        "series_count": "int",
        "segment_count": "int",
        "bar_count": "int",
        "nbytes": "int",
    }
    expected = {
        "groups": [group],
        "oldest_file_ms": "int",
        "newest_file_ms": "int",
        "packable_nbytes": "int",
        "packable_segment_count": "int",
        "superseded_nbytes": "int",
    }
    assert same_in_order(shape(folder, "stats"), expected)


def test_gaps(folder: CacheFolder) -> None:
    expected = {
        "series": "str",
        "span": SPAN,
        "bar_counts": {"not in archive": "int"},
        "gaps": [{"start_ms": "int", "end_ms": "int", "bar_count": "int", "reason": "str"}],
        "untraded_tail": "NoneType",
    }
    assert same_in_order(shape(folder, "gaps"), [expected])


def test_list_gaps_and_verify_of_a_settled_contract(folder: CacheFolder) -> None:
    SeriesStore(folder, HOURS).put(regular_table(HOURS, MARCH, volume=0, count=0, taker_buy_volume=0), MARCH)
    tail = {"start_ms": "int", "end_ms": "int", "bar_count": "int", "last_traded_ms": "NoneType"}
    for verb in ("list", "gaps"):
        assert [one["untraded_tail"] for one in shape(folder, verb)] == [tail]
    assert same_in_order(shape(folder, "verify"), [FINDING])


def test_verify(folder: CacheFolder) -> None:
    damage(folder)
    (folder.root / ".download-x").mkdir()
    past_s = time.time() - 10 * 86_400
    os.utime(folder.root / ".download-x", (past_s, past_s))
    of_the_cache = FINDING | {"series": "NoneType", "span": "NoneType"}
    assert same_in_order(shape(folder, "verify", status=1), [of_the_cache, FINDING])


def test_verify_since(folder: CacheFolder) -> None:
    damage(folder)
    expected = {"began": "str", "segment_count": "int", "left_out_count": "int", "findings": [FINDING]}
    assert same_in_order(shape(folder, "verify", "--since", "2023-01-01", status=1), expected)


def test_repair(folder: CacheFolder) -> None:
    damage(folder)
    assert same_in_order(shape(folder, "repair", status=1), [FINDING | {"lost": [SPAN], "nbytes": "int"}])
    expected = {
        "quarantined": ["str"],
        "renamed": [],
        "fetched": ["str"],
        "failures": [],
        "leftovers": [],
        "unrepaired": {},
        "moved": [],
        "phantoms": [],
    }
    assert same_in_order(shape(folder, "repair", "--yes", "--vision-url", SAMPLES), expected)


def test_repair_of_what_no_source_has(folder: CacheFolder, tmp_path: Path) -> None:
    damage(folder)
    (tmp_path / "empty").mkdir()
    expected = {
        "quarantined": ["str"],
        "renamed": [],
        "fetched": [],
        "failures": ["str"],
        "leftovers": [],
        "unrepaired": {str(HOURS): [SPAN]},
        "moved": [],
        "phantoms": [],
    }
    assert same_in_order(shape(folder, "repair", "--yes", "--vision-url", tmp_path / "empty", status=1), expected)


def test_quarantine(folder: CacheFolder) -> None:
    damage(folder)
    shape(folder, "repair", "--yes", "--vision-url", SAMPLES)
    expected = {
        "series": "str",
        "path": "str",
        "file_name": "str",
        "reason": "str",
        "since_ms": "int",
        "nbytes": "int",
    }
    assert same_in_order(shape(folder, "quarantine"), [expected])


DIFFERENCE = {
    "added": ["int"],
    "removed": [],
    "changed": ["int"],
    "added_count": "int",
    "removed_count": "int",
    "changed_count": "int",
    "columns": ["str"],
    "cells": [
        {"open_ms": "int", "column": "str", "before": "float", "after": "float"},
        {"open_ms": "int", "column": "str", "before": "int", "after": "int"},
    ],
}


def test_comparison(folder: CacheFolder) -> None:
    span = Span.of("2023-03-24", "2023-03-25")
    source = Source(Origin.VISION_MONTHLY, MONTH, span.start_ms, span.end_ms, sha256="0" * 64)
    table = regular_table(HOURS, span).rows(0, 10)
    SeriesStore(folder, HOURS).put(table, span, sources=[source])
    expected = {
        "series": "str",
        "span": SPAN,
        "against": "str",
        "other": "str",
        "agreement": "str",
        "cached_from": ["str"],
        "bar_count": "int",
        "difference": DIFFERENCE,
        "is_stored": "bool",
        "message": "str",
    }
    words = ["BTCUSDT", "--start", "2023-03-24", "--end", "2023-03-25", "--vision-url", str(SAMPLES)]
    assert same_in_order(shape(folder, "audit", "--against", "days", *words, status=1), [expected])
    assert same_in_order(shape(folder, "repair", "--prefer", "days", *words, status=1), [expected])


def test_audit(folder: CacheFolder) -> None:
    table = regular_table(HOURS, Span.of("2023-02-28T20:00Z", "2023-03-01T04:00Z"))
    source = Source(Origin.VISION_MONTHLY, MONTH, MARCH.start_ms, MARCH.end_ms, sha256="0" * 64)
    SeriesStore(folder, HOURS).put(table.rows(4, 8), MARCH, sources=[source])
    expected = {
        "series": "str",
        "archive": "str",
        "change": "str",
        "difference": DIFFERENCE,
        "is_stored": "bool",
        "message": "str",
    }
    assert same_in_order(shape(folder, "audit", "--vision-url", SAMPLES, status=1), [expected])


def test_pack(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    for period in days_of(Span.of("2023-01-01", "2023-01-21")):
        SeriesStore(folder, HOURS).put(regular_table(HOURS, period.span), period.span)
    expected = {
        "series": "str",
        "merges": [{"span": SPAN, "segment_count": "int", "bar_count": "int"}],
        "packed": [],
        "removed": ["str"],
        "removed_nbytes": "int",
        "refusals": [],
    }
    assert same_in_order(shape(folder, "pack"), [expected])
    assert same_in_order(shape(folder, "pack", "--yes"), [expected | {"packed": ["str"]}])


def test_prune(folder: CacheFolder) -> None:
    expected: dict[str, Any] = {
        "is_done": "bool",
        "prunings": [
            {
                "series": "str",
                "span": SPAN,
                "segments": ["str"],
                "kept": [SPAN],
                "bar_count": "int",
                "nbytes": "int",
            }
        ],
        "leftovers": [],
        "quarantine": [],
        "refusals": [],
    }
    assert same_in_order(shape(folder, "prune", "--before", "2023-03-10"), expected)
    damage(folder)
    shape(folder, "repair", "--no-fetch", "--yes", status=1)
    (folder.root / ".download-x").mkdir()
    os.utime(folder.root / ".download-x", (0, 0))
    file = {"path": "str", "nbytes": "int"}
    expected |= {"prunings": [], "leftovers": [file], "quarantine": [file]}
    assert same_in_order(shape(folder, "prune", "--leftovers", "--quarantine"), expected)


def test_prune_of_everything(folder: CacheFolder) -> None:
    (found,) = shape(folder, "prune", "BTCUSDT")["prunings"]
    assert (found["span"], found["kept"]) == ("NoneType", [])


def test_export(folder: CacheFolder, tmp_path: Path) -> None:
    expected = {
        "path": "str",
        "series": "str",
        "span": SPAN,
        "bar_count": "int",
        "nbytes": "int",
        "inexact_cell_count": "int",
    }
    assert same_in_order(shape(folder, "export", "--to", tmp_path / "out"), [expected])


def test_lock_and_check_lock(folder: CacheFolder, tmp_path: Path) -> None:
    line = {"series": "str", "span": SPAN, "bar_count": "int", "sha256": "str", "is_unavailable": "bool"}
    assert same_in_order(shape(folder, "lock", "-"), [line])
    file = tmp_path / "data.lock"
    written = {"path": "str", "span_count": "int", "bar_count": "int", "unavailable": {}}
    assert same_in_order(shape(folder, "lock", file), written)
    bars = {"sha256": "str", "bar_count": "int"}
    expected = {"series": "str", "span": SPAN, "verdict": "str", "expected": bars, "found": bars, "message": "str"}
    assert same_in_order(shape(folder, "check-lock", file), [expected])
    run_here("cache", "prune", "BTCUSDT", "--yes", "--cache", folder.root)
    assert same_in_order(shape(folder, "check-lock", file, status=1), [expected | {"found": "NoneType"}])
