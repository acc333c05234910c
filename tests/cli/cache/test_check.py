"""`ckvd cache verify`, `repair`, `quarantine` and `audit`."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from cli.cache.run import HOURS, MARCH, damage, run, run_json
from support.places import SAMPLES

if TYPE_CHECKING:
    from pathlib import Path

    from ckvd.cache import CacheFolder


def test_verify_and_repair_find_and_fix(folder: CacheFolder) -> None:
    assert run(folder, "verify").endswith("0 errors, 0 warnings, 1 note\n")
    path = damage(folder)
    (finding,) = run_json(folder, "verify", status=1)
    assert finding["trouble"] == "damaged"
    assert run_json(folder, "verify", "--quick") == []
    plan = run(folder, "repair", status=1)
    assert f"would set aside {path}" in plan
    assert "add --yes" in plan
    assert path.exists()
    done = run(folder, "repair", "--vision-url", str(SAMPLES), "--yes")
    assert "fetched data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2023-03.zip" in done
    run(folder, "verify")
    (aside,) = run_json(folder, "quarantine")
    assert aside["file_name"] == path.name
    assert "would be restored" in run(folder, "quarantine", "--restore", "all")
    run(folder, "quarantine", "--restore", path.name, "--yes")
    assert path.exists()
    run(folder, "quarantine", "--restore", path.name, "--yes", status=1)


def test_repair_without_fetching_tells_what_is_lost(folder: CacheFolder) -> None:
    damage(folder)
    document = run_json(folder, "repair", "--no-fetch", "--yes", status=1)
    assert document["unrepaired"] == {str(HOURS): [[MARCH.start_ms, MARCH.end_ms]]}


def test_audit_compares_with_the_source(folder: CacheFolder, tmp_path: Path) -> None:
    assert run(folder, "audit", "--vision-url", str(SAMPLES)).endswith("2 unchanged\n")
    assert "1 unchanged" in run(folder, "audit", "BTCUSDT", "--days", "--vision-url", str(SAMPLES))
    mirror = shutil.copytree(SAMPLES, tmp_path / "mirror")
    (mirror / "data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2023-03.zip").unlink()
    found = run_json(folder, "audit", "BTCUSDT", "--vision-url", str(mirror), status=1)
    assert found[0]["change"] == "gone"
