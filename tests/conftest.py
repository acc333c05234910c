"""What every test gets: real data where there is some, and nobody who leaves anything behind."""

from __future__ import annotations

import gc
import logging
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import leaks
from support.places import SHARED_DATA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# Set where the same tests run on another interpreter as well.
IS_BRIEF = bool(os.environ.get("CKVD_TEST_BRIEF"))

# How long an example takes says more about the machine than about the code. A run repeats the examples of the one
# before, so that what fails was changed; `make search` looks for new ones.
settings.register_profile("whole", deadline=None, derandomize=True)
settings.register_profile("brief", deadline=None, derandomize=True, max_examples=20)
settings.register_profile("search", deadline=None, max_examples=1000)
_SEARCHES = bool(os.environ.get("CKVD_TEST_SEARCH"))
settings.load_profile("search" if _SEARCHES else "brief" if IS_BRIEF else "whole")


def pytest_collection_finish() -> None:
    """Have Hypothesis make its random source before anything is frozen: it would take a frozen one for lost."""
    given(st.none())(lambda _: None)()


# In development mode asyncio complains of steps that take long, as some tests mean them to.
logging.getLogger("asyncio").addFilter(lambda record: not record.msg.startswith("Executing %s took"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if IS_BRIEF:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="CKVD_TEST_BRIEF is set, and this takes long"))


@pytest.fixture(scope="module", autouse=True)
def _let_shared_fixtures_go() -> Iterator[None]:
    """At the end of a module, collect what its own fixtures leave in cycles: their finalizers may complain."""
    yield
    if _shared_fixtures:
        _shared_fixtures.clear()
        gc.unfreeze()
        gc.collect()


_shared_fixtures: set[str] = set()


def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    if fixturedef.scope != "function" and fixturedef.argname != _let_shared_fixtures_go.__name__:
        _shared_fixtures.add(fixturedef.argname)


@pytest.fixture(autouse=True)
def _leave_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaks a descriptor, map, thread or task, or of which asyncio or a finalizer complains."""
    # The collection after the test need not look through what was there before: it would take a tenth of all time.
    gc.freeze()
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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Three workers for two processors: many tests wait, for time to pass or for processes of their own."""
    return (os.cpu_count() or 1) * 3 // 2 or 1
