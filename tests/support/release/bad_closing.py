"""Wrong ways to close a resource, each found in real code. A pytest plugin that puts one in place of the right way.

    python -m pytest -p support.release.bad_closing --closing wait_for tests/utils -k deaf

Each is right except for one thing, and names the test that notices. Some of them never end: a test that hangs ends
the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckvd.utils import async_cleanup, config
from ckvd.utils.async_cleanup import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import pytest

HANG_S = 2.0

Held = asyncio.CancelledError | None


@dataclass(frozen=True, slots=True)
class Swap:
    """A wrong function, the function that it replaces, and the test that notices."""

    function: Any
    original: str
    noticed_by: str


BAD: dict[str, Swap] = {}


def swaps(original: str, noticed_by: str) -> Callable[[Any], Any]:
    """Mark a function that replaces one of the module."""

    def mark(bad: Any) -> Any:
        BAD[bad.__name__] = Swap(bad, original, noticed_by)
        return bad

    return mark


_call_closer = async_cleanup._call_closer
_report = async_cleanup._report
_watch = async_cleanup._watch


# Whole patterns that are wrong.


async def _logging_failures(label: str, closing: Coroutine[Any, Any, None]) -> None:
    try:
        await closing
    except Exception as error:  # noqa: BLE001
        warn("closing %s failed: %s", label, repr(error))


async def _shield_around_wait_for(resource: object, label: str, timeout_s: float) -> None:
    async def shielded() -> None:
        await asyncio.shield(asyncio.wait_for(_call_closer(resource, label), timeout_s))

    await _logging_failures(label, shielded())


@swaps("_close_within", "test_the_cancellation_is_held_until_the_closer_has_ended")
async def shield_around_wait_for(resource: object, label: str, timeout_s: float) -> None:
    await _shield_around_wait_for(resource, label, timeout_s)


@swaps("_close_within", "test_a_closer_deaf_to_its_cancellation_is_left_behind_and_kept_until_it_ends")
async def shield_around_wait_for_a_deaf_closer(resource: object, label: str, timeout_s: float) -> None:
    await _shield_around_wait_for(resource, label, timeout_s)


@swaps("_close_within", "test_a_loop_that_stalls_meanwhile_does_not_abort_a_healthy_closer")
async def shield_around_wait_for_on_a_stalled_loop(resource: object, label: str, timeout_s: float) -> None:
    await _shield_around_wait_for(resource, label, timeout_s)


@swaps("_close_within", "test_a_closer_that_never_ends_is_cancelled_when_its_time_is_up")
async def wait_for_around_shield(resource: object, label: str, timeout_s: float) -> None:
    async def waiting() -> None:
        await asyncio.wait_for(asyncio.shield(_call_closer(resource, label)), timeout_s)

    await _logging_failures(label, waiting())


@swaps("_close_within", "test_a_closer_deaf_to_its_cancellation_is_left_behind_and_kept_until_it_ends")
async def wait_for(resource: object, label: str, timeout_s: float) -> None:
    await _logging_failures(label, asyncio.wait_for(_call_closer(resource, label), timeout_s))


@swaps("_close_within", "test_a_timeout_while_leaving_is_a_timeout")
async def swallowing_all(resource: object, label: str, timeout_s: float) -> None:
    with contextlib.suppress(BaseException):
        await asyncio.wait_for(_call_closer(resource, label), timeout_s)


# The right pattern, with one part missing or wrong.


def _start(resource: object, label: str) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(_call_closer(resource, label), name=f"closing {label}")
    task.add_done_callback(_report)
    return task


async def _end(task: asyncio.Task[None], grace_s: float) -> Held:
    if task.done():
        return None
    task.cancel()
    held = await _watch(task, grace_s)
    if not task.done():
        warn("%s is left behind", task.get_name())
    return held


@swaps("_close_within", "test_a_closer_that_never_ends_is_cancelled_when_its_time_is_up")
async def without_a_timeout(resource: object, label: str, timeout_s: float) -> Held:
    return await _watch(_start(resource, label), 3600.0)


@swaps("_close_within", "test_a_closer_that_only_refers_to_itself_survives_being_left_behind")
async def without_a_strong_reference(resource: object, label: str, timeout_s: float) -> Held:
    task = _start(resource, label)
    held = await _watch(task, timeout_s)
    later = await _end(task, config.CLEANUP_GRACE_S)
    return held or later


@swaps("_report", "test_a_closer_deaf_to_its_cancellation_is_left_behind_and_kept_until_it_ends")
def without_reading_the_exception(task: asyncio.Task[None]) -> None:
    async_cleanup._closing.discard(task)


@swaps("_close_within", "test_a_cancelled_closer_gets_a_grace_to_tidy_up")
async def without_a_grace(resource: object, label: str, timeout_s: float) -> Held:
    task = _start(resource, label)
    async_cleanup._closing.add(task)
    held = await _watch(task, timeout_s)
    task.cancel()
    return held


@swaps("_close_within", "test_a_closer_that_never_ends_is_cancelled_when_its_time_is_up")
async def without_a_cancel(resource: object, label: str, timeout_s: float) -> Held:
    task = _start(resource, label)
    async_cleanup._closing.add(task)
    return await _watch(task, timeout_s)


@swaps("_watch", "test_a_loop_that_stalls_meanwhile_does_not_abort_a_healthy_closer")
async def without_one_more_turn(task: asyncio.Task[None], timeout_s: float) -> Held:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    held: Held = None
    while not task.done() and (left := deadline - loop.time()) > 0:
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError as error:
            held = held or error.with_traceback(None)
    return held


@swaps("_watch", "test_the_cancellation_is_held_until_the_closer_has_ended")
async def without_holding_the_cancellation(task: asyncio.Task[None], timeout_s: float) -> None:
    await asyncio.wait({task}, timeout=timeout_s)


@swaps("_watch", "test_cancelled_while_leaving_reaches_the_caller_after_all_is_closed")
async def forgetting_the_cancellation(task: asyncio.Task[None], timeout_s: float) -> None:
    await _watch(task, timeout_s)


@swaps("_watch", "test_cancelled_again_and_again_leaves_no_orphan")
async def uncancelling(task: asyncio.Task[None], timeout_s: float) -> Held:
    held = await _watch(task, timeout_s)
    caller = asyncio.current_task()
    if held is not None and caller is not None:
        caller.uncancel()
    return held


@swaps("_watch", "test_the_cancellation_is_held_until_the_closer_has_ended")
async def cancelling_when_cancelled(task: asyncio.Task[None], timeout_s: float) -> Held:
    try:
        await asyncio.wait({task}, timeout=timeout_s)
    except asyncio.CancelledError as error:
        task.cancel()
        return error.with_traceback(None)
    return None


@swaps("_call_closer", "test_the_first_closer_that_the_type_has_is_called")
async def looking_closers_up_on_the_instance(resource: Any, label: str) -> None:
    for name in ("aclose", "close"):
        closer = getattr(resource, name, None)
        if closer is not None:
            result = closer()
            if inspect.isawaitable(result):
                await result
            return


@swaps("_call_closer", "test_a_well_behaved_closer_has_ended_when_leaving_ends")
async def awaiting_whatever_is_returned(resource: Any, label: str) -> None:
    closer = next(filter(None, (getattr(type(resource), name, None) for name in ("aclose", "close"))))
    await closer(resource)


@swaps("_call_closer", "test_a_well_behaved_closer_has_ended_when_leaving_ends")
async def awaiting_coroutines_only(resource: Any, label: str) -> None:
    closer = next(filter(None, (getattr(type(resource), name, None) for name in ("aclose", "close"))))
    result = closer(resource)
    if inspect.iscoroutine(result):
        await result


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--closing", choices=list(BAD), required=True)


def pytest_configure(config: pytest.Config) -> None:
    swap = BAD[config.getoption("--closing")]
    setattr(async_cleanup, swap.original, swap.function)


def pytest_runtest_setup() -> None:
    faulthandler.dump_traceback_later(HANG_S, exit=True)


def pytest_sessionfinish() -> None:
    faulthandler.cancel_dump_traceback_later()
