"""What every test gets: real data where there is some, and nobody who leaves anything behind."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from support import leaks
from support.places import SHARED_DATA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# How long an example takes says more about the machine than about the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("CKVD_TEST_BRIEF"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="CKVD_TEST_BRIEF is set, and this takes long"))


def pytest_collection_finish() -> None:
    # What was imported is there to stay. Without it, the collection after each test takes a tenth of the time.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def freeze_what_modules_leave() -> Iterator[None]:
    """What outlives a module (reports, late imports) need not be looked through after each later test."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _leave_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaks a descriptor, map, thread or task, or of which asyncio or a finalizer complains."""
    failed_count = request.session.testsfailed
    with leaks.watch() as watch:
        yield
        # The values of the other fixtures are kept here until the very end.
        request.node.funcargs.clear()
        # A test that failed holds all it had, in its traceback.
        has_failed = request.session.testsfailed > failed_count
    if watch.findings and not has_failed:
        pytest.fail("left behind:\n  " + "\n  ".join(watch.findings), pytrace=False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real archives, answers and listings, which is kept beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data not present: ../shared/data")
    return SHARED_DATA
