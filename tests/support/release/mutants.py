"""Faults in the code of release, each of one line, and the test that notices each. A pytest plugin that makes one.

    python -m pytest -p support.release.mutants --mutant settling_without_pinned_maps tests/utils

A mutant is text of a module that is replaced by other text. The module is compiled anew, and the functions that are
in use get the code of the new ones, so whoever has imported them uses the mutant too. `bad_closing` has whole ways
to close that are wrong.
"""

from __future__ import annotations

import faulthandler
import importlib
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

HANG_S = 20.0


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault.

    Attributes
    ----------
    module : str
        Without the name of the package.
    right, wrong : str
        Text that occurs once in the module, and what stands there instead.
    noticed_by : str
        The file of a test, below `tests`, and a part of its name.
    """

    module: str
    right: str
    wrong: str
    noticed_by: tuple[str, str]

    def source(self) -> tuple[str, str]:
        """The file of the module, and its text with the fault."""
        path = importlib.import_module(f"ckvd.{self.module}").__file__
        assert path is not None
        text = Path(path).read_text(encoding="utf-8")
        assert text.count(self.right) == 1, (
            f"expected {self.right!r} once in {path}, found {text.count(self.right)}"
        )
        return path, text.replace(self.right, self.wrong)

    def make(self) -> None:
        """Make the fault in this process."""
        module = importlib.import_module(f"ckvd.{self.module}")
        path, text = self.source()
        changed = types.ModuleType(module.__name__)
        changed.__file__ = path
        exec(compile(text, path, "exec", dont_inherit=True), changed.__dict__)
        assert _replace(module, vars(changed)), "nothing has changed"


def _replace(old: Any, new: dict[str, Any]) -> int:
    """Put the code of new functions into old ones, and new constants in place of old ones; count them."""
    count = 0
    for name, value in new.items():
        before = vars(old).get(name)
        functions = _functions(before), _functions(value)
        if all(functions):
            for one, other in zip(*functions, strict=True):
                count += one.__code__ != other.__code__ or one.__defaults__ != other.__defaults__
                one.__code__, one.__defaults__ = other.__code__, other.__defaults__
                one.__kwdefaults__ = other.__kwdefaults__
        elif isinstance(value, type) and isinstance(before, type) and value.__module__ == before.__module__:
            count += _replace(before, dict(vars(value)))
        elif isinstance(value, (int, float, str, tuple)) and value != before and not name.startswith("__"):
            setattr(old, name, value)
            count += 1
    return count


def _functions(value: object) -> list[types.FunctionType]:
    """The functions behind a name of a module or class."""
    if isinstance(value, property):
        return [function for function in (value.fget, value.fset) if isinstance(function, types.FunctionType)]
    function = getattr(value, "__wrapped__", getattr(value, "__func__", value))
    return [function] if isinstance(function, types.FunctionType) else []


CLEANUP = "utils.async_cleanup"
OF_CLEANUP, OF_CLOSERS = "utils/test_async_cleanup.py", "utils/test_closers.py"
OF_CANCELLATION, OF_TIMEOUTS = "utils/test_cancellation.py", "utils/test_cleanup_timeouts.py"
OF_COLLECTION, OF_LIFECYCLE = "utils/test_forced_collection.py", "test_lifecycle.py"
OF_CACHE, OF_NETWORK = "cache/test_kline_cache_cleanup.py", "network/test_closing.py"
OF_DATA = "api/crypto_kline_vision_data/test_data_cleanup.py"
OF_REST = "rest_data_client/test_rest_cleanup.py"
OF_VISION = "api/vision_data_client/test_vision_cleanup.py"
GIVES_BACK = (OF_CACHE, "gives_back_the_memory")

MUTANTS: dict[str, Mutant] = {
    # --- Order -----------------------------------------------------------------------------------------------
    "awaiting_between_capture_and_closing": Mutant(
        CLEANUP,
        "    pinned = _close_files(files, others, logger)",
        "    await __import__('asyncio').sleep(0)\n    pinned = _close_files(files, others, logger)",
        (OF_CLEANUP, "between_the_call_and_the_closing"),
    ),
    "awaiting_before_capture": Mutant(
        CLEANUP,
        "    files, others = _capture(instance, resources)\n",
        "    await __import__('asyncio').sleep(0)\n    files, others = _capture(instance, resources)\n",
        (OF_CLEANUP, "between_the_call_and_the_closing"),
    ),
    "closing_files_last": Mutant(
        CLEANUP,
        "    pinned = _close_files(files, others, logger)  # Nothing was awaited so far.\n"
        "    closed, held = await _close_others(others)\n",
        "    closed, held = await _close_others(others)\n    pinned = _close_files(files, others, logger)\n",
        (OF_CLEANUP, "every_attribute_is_none_and_every_file_closed"),
    ),
    "keeping_the_attributes": Mutant(
        CLEANUP,
        "        setattr(instance, attribute, None)\n",
        "        pass\n",
        (OF_CLEANUP, "leaving_twice_closes_once"),
    ),
    "closing_what_is_external": Mutant(
        CLEANUP,
        "        if is_external or resource is None:",
        "        if resource is None:",
        (OF_CLEANUP, "external_resources_are_dropped"),
    ),
    "closing_the_last_first": Mutant(
        CLEANUP, "others.pop(0)", "others.pop()", (OF_CLEANUP, "closed_in_the_order_given")
    ),
    "keeping_what_was_closed": Mutant(
        CLEANUP, "handle, label = files.pop(0)", "handle, label = files.pop(0); _closing.add(handle)",
        (OF_CLEANUP, "freed_at_once"),
    ),
    "closing_only_files_synchronously": Mutant(
        CLEANUP,
        "        closer is not None\n        and callable",
        "        False\n        and callable",
        (OF_CLEANUP, "between_the_call_and_the_closing"),
    ),
    "closing_clients_before_their_requests": Mutant(
        CLEANUP, '("aclose", "request")', '("aclose",)', (OF_CLEANUP, "closed_after_what_stands_before_it")
    ),
    "forgetting_what_a_synchronous_close_returns": Mutant(
        CLEANUP, "        others[:0] = late", "        pass", (OF_CLEANUP, "returns_an_awaitable_is_awaited")
    ),
    "raising_without_a_loop": Mutant(
        CLEANUP, "    if not is_asyncio_running():", "    if False:", (OF_CLEANUP, "without_an_event_loop_closers")
    ),
    "leaving_a_client_without_a_loop_as_with_one": Mutant(
        "lifecycle", "        if is_asyncio_running():", "        if True:", (OF_NETWORK, "where_no_event_loop")
    ),
    # --- Files -----------------------------------------------------------------------------------------------
    "no_give_back_on_close": Mutant(CLEANUP, "            give_back(handle)", "            pass", GIVES_BACK),
    "giving_back_private_changes": Mutant(
        CLEANUP, "            if view.readonly:", "            if True:", (OF_CLEANUP, "private_changes")
    ),
    "a_pinned_map_is_an_error": Mutant(
        CLEANUP,
        "    except BufferError:\n",
        "    except ZeroDivisionError:\n",
        (OF_CLEANUP, "while_a_view_of_it_is_alive"),
    ),
    "a_pinned_map_is_closed": Mutant(
        CLEANUP,
        '"%s is pinned: views of it are alive, and it is unmapped with the last", label)\n        return False',
        '"%s is pinned: views of it are alive, and it is unmapped with the last", label)\n        return True',
        (OF_CLEANUP, "while_a_view_of_it_is_alive"),
    ),
    "a_file_that_cannot_be_closed_raises": Mutant(
        CLEANUP,
        "    except Exception as error:  # noqa: BLE001 - logged, and the cleanup continues\n"
        '        warn("closing %s failed: %s", label, repr(error))\n        return isinstance',
        "    except ZeroDivisionError as error:\n"
        '        warn("closing %s failed: %s", label, repr(error))\n        return isinstance',
        (OF_CLEANUP, "fails_however_it_is_asked"),
    ),
    "a_socket_is_always_closed": Mutant(
        CLEANUP, " and not _has_descriptor(handle)", "", (OF_CLEANUP, "a_socket_is_open")
    ),
    "what_has_no_close_is_closed": Mutant(
        CLEANUP,
        '    if not callable(getattr(type(handle), "close", None)):\n        return False',
        '    if not callable(getattr(type(handle), "close", None)):\n        return True',
        (OF_CLEANUP, "what_has_no_close or memmap"),
    ),
    "an_asynchronous_file_is_not_awaited": Mutant(
        CLEANUP,
        "        yield from close_resource_with_timeout(late, label, timeout_s).__await__()",
        "        yield from ()",
        (OF_CLEANUP, "an_asynchronous_file_is_closed"),
    ),
    "an_asynchronous_file_is_closed_whatever_happens": Mutant(
        CLEANUP, "        return late.has_ended", "        return True", (OF_TIMEOUTS, "close_file")
    ),
    # --- Timeouts --------------------------------------------------------------------------------------------
    **{
        f"another_{name.lower()}": Mutant(
            "utils.config", f"{name}: Final = {right}", f"{name}: Final = {wrong}", (OF_TIMEOUTS, "documented")
        )
        for name, right, wrong in [
            ("RESOURCE_CLEANUP_TIMEOUT", 0.1, 0.2),
            ("HTTP_CLIENT_CLEANUP_TIMEOUT", 0.2, 0.1),
            ("FILE_CLEANUP_TIMEOUT", 0.3, 3.0),
            ("CLEANUP_GRACE_S", 0.05, 0.5),
        ]
    },
    "no_forced_collection_by_default": Mutant(
        "utils.config",
        "ENABLE_FORCED_GC: bool = True",
        "ENABLE_FORCED_GC: bool = False",
        (OF_TIMEOUTS, "documented"),
    ),
    "a_share_of_0.9": Mutant(
        "utils.config",
        "FORCED_GC_TIME_SHARE: Final = 0.05",
        "FORCED_GC_TIME_SHARE: Final = 0.9",
        (OF_COLLECTION, "the_share_is_the_one or take_their_share"),
    ),
    "a_client_has_the_time_of_any_resource": Mutant(
        CLEANUP,
        "        usual_s = config.HTTP_CLIENT_CLEANUP_TIMEOUT",
        "        usual_s = config.RESOURCE_CLEANUP_TIMEOUT",
        (OF_TIMEOUTS, "close_thing-DeafClient"),
    ),
    "a_file_has_the_time_of_any_resource": Mutant(
        CLEANUP,
        "        usual_s = config.FILE_CLEANUP_TIMEOUT",
        "        usual_s = config.RESOURCE_CLEANUP_TIMEOUT",
        (OF_TIMEOUTS, "leave-DeafFile"),
    ),
    "any_resource_has_the_time_of_a_file": Mutant(
        CLEANUP,
        "        usual_s = config.RESOURCE_CLEANUP_TIMEOUT",
        "        usual_s = config.FILE_CLEANUP_TIMEOUT",
        (OF_TIMEOUTS, "leave-Deaf-"),
    ),
    "an_asynchronous_file_has_the_time_of_any_resource": Mutant(
        CLEANUP,
        "type(late.handle).__name__, config.FILE_CLEANUP_TIMEOUT",
        "type(late.handle).__name__, config.RESOURCE_CLEANUP_TIMEOUT",
        (OF_TIMEOUTS, "close_file"),
    ),
    "cleanup_client_has_the_time_of_any_resource": Mutant(
        CLEANUP,
        "max(config.HTTP_CLIENT_CLEANUP_TIMEOUT, _timeout_for(client))",
        "_timeout_for(client)",
        (OF_TIMEOUTS, "cleanup_client-Deaf-"),
    ),
    "the_time_that_is_given_is_ignored": Mutant(
        CLEANUP,
        "_timeout_for(resource) if timeout is None else timeout)",
        "_timeout_for(resource))",
        (OF_TIMEOUTS, "close_within_a_time"),
    ),
    "the_outer_budget_does_not_cover_the_inner": Mutant(
        CLEANUP, "if is_nested else usual_s", "if False else usual_s", (OF_DATA, "may_take_its_time")
    ),
    "a_budget_without_the_grace_of_each": Mutant(
        CLEANUP,
        "        if not is_external and _has_closer(resource) and not _is_file(resource):\n"
        "            budget_s += _timeout_for(resource) + config.CLEANUP_GRACE_S",
        "        if not is_external and _has_closer(resource) and not _is_file(resource):\n"
        "            budget_s += _timeout_for(resource)",
        (OF_TIMEOUTS, "the_outer_budget_covers"),
    ),
    "a_budget_for_what_is_external": Mutant(
        CLEANUP,
        "        if not is_external and _has_closer(resource) and not _is_file(resource):\n            budget_s",
        "        if _has_closer(resource) and not _is_file(resource):\n            budget_s",
        (OF_TIMEOUTS, "the_outer_budget_covers"),
    ),
    "closing_from_another_loop_without_a_timeout": Mutant(
        CLEANUP,
        "    held = await _watch(task, timeout_s)\n",
        "    held = await _watch(task, timeout_s if _other_loop(resource) is None else 3.0)\n",
        (OF_TIMEOUTS, "loop_is_stalled"),
    ),
    "ending_requests_of_another_loop_without_a_timeout": Mutant(
        "network.in_flight",
        "await asyncio.wait((ending,), timeout=RESOURCE_CLEANUP_TIMEOUT)",
        "await asyncio.wait((ending,), timeout=3.0)",
        ("network/test_in_flight.py", "loop_that_is_stalled"),
    ),
    "ending_requests_without_a_timeout": Mutant(
        "network.in_flight",
        "await asyncio.wait(tasks, timeout=_END_TIMEOUT_S)",
        "await asyncio.wait(tasks, timeout=3.0)",
        ("network/test_in_flight.py", "ignores_cancellation"),
    ),
    "closing_here_what_belongs_elsewhere": Mutant(
        CLEANUP,
        "    if (owner := _other_loop(resource)) is not None:",
        "    if (owner := None) is not None:",
        (OF_CLOSERS, "is_closed_there"),
    ),
    # --- Cancellation ----------------------------------------------------------------------------------------
    "forgetting_a_cancellation": Mutant(
        CLEANUP, "            first = first or error.with_traceback(None)", "            pass",
        (OF_CANCELLATION, "reaches_the_caller"),
    ),
    "raising_the_last_cancellation": Mutant(
        CLEANUP,
        "            first = first or error.with_traceback(None)",
        "            first = error.with_traceback(None)",
        (OF_CANCELLATION, "again_and_again"),
    ),
    "keeping_the_traceback_of_a_cancellation": Mutant(
        CLEANUP, "            first = first or error.with_traceback(None)", "            first = first or error",
        (OF_CANCELLATION, "pins_nothing"),
    ),
    "a_cycle_of_a_cancellation_and_its_frame": Mutant(
        CLEANUP,
        "            del held  # An exception and a frame",
        "            pass  # An exception and a frame",
        (OF_CANCELLATION, "pins_nothing"),
    ),
    # --- Collection: evidence --------------------------------------------------------------------------------
    "settling_without_pinned_maps": Mutant(
        CLEANUP, "settle(pinned + closed)", "settle(closed)", (OF_COLLECTION, "by_leaving_asynchronously")
    ),
    "settling_without_closed_resources": Mutant(
        CLEANUP, "settle(pinned + closed)", "settle(pinned)", (OF_COLLECTION, "a_client_in_a_cycle")
    ),
    "not_settling_files": Mutant(
        CLEANUP,
        "    settle(_close_files(files, [], logger))",
        "    _close_files(files, [], logger)",
        (OF_COLLECTION, "a_map_in_a_cycle"),
    ),
    "collecting_though_switched_off": Mutant(
        CLEANUP, " or not config.ENABLE_FORCED_GC", "", (OF_COLLECTION, "switching_it_off")
    ),
    "collecting_without_suspects": Mutant(
        CLEANUP,
        "            if self._suspects and self._is_full_due():",
        "            if self._is_full_due():",
        (OF_COLLECTION, "a_map_in_a_cycle_of_the_caller"),
    ),
    "suspects_never_cleared": Mutant(
        CLEANUP,
        "            self._suspects = weakref.WeakValueDictionary()\n            self._survivors",
        "            self._survivors",
        (OF_COLLECTION, "what_survived_a_full_collection"),
    ),
    "waiting_for_another_thread": Mutant(
        CLEANUP,
        "self._lock.acquire(blocking=False)",
        "self._lock.acquire(timeout=7)",
        (OF_COLLECTION, "another_thread_does_not_wait or finalizer"),
    ),
    "the_lock_is_never_released": Mutant(
        CLEANUP, "            self._lock.release()", "            pass", (OF_COLLECTION, "a_later_exit")
    ),
    # --- Collection: the share -------------------------------------------------------------------------------
    "time_is_never_spent": Mutant(
        CLEANUP, "            self._credit_s -= took_s\n", "", (OF_COLLECTION, "take_their_share")
    ),
    "time_is_never_earned": Mutant(
        CLEANUP,
        "earned_s = self._credit_s + config.FORCED_GC_TIME_SHARE * (now_s - self._earned_until_s)",
        "earned_s = self._credit_s",
        (OF_COLLECTION, "take_their_share or a_later_exit"),
    ),
    "time_is_earned_again_and_again": Mutant(
        CLEANUP,
        "min(earned_s, most_s), now_s",
        "min(earned_s, most_s), self._earned_until_s",
        (OF_COLLECTION, "take_their_share"),
    ),
    "time_is_earned_without_an_end": Mutant(
        CLEANUP,
        "min(earned_s, most_s), now_s",
        "earned_s, now_s",
        (OF_COLLECTION, "time_in_which_nothing_waited"),
    ),
    "time_is_earned_while_nothing_waits": Mutant(
        CLEANUP,
        "self._needed_s() if before_count else 0.0)",
        "self._needed_s())",
        (OF_COLLECTION, "time_in_which_nothing_waited"),
    ),
    "no_advance": Mutant(
        CLEANUP,
        "max(self._cost_s - config.FORCED_GC_ADVANCE_S, 0.0)",
        "self._cost_s",
        (OF_COLLECTION, "a_map_in_an_old_cycle"),
    ),
    "an_advance_for_every_collection": Mutant(
        CLEANUP,
        "max(self._cost_s - config.FORCED_GC_ADVANCE_S, 0.0)",
        "0.0",
        (OF_COLLECTION, "a_long_collection_waits"),
    ),
    "the_first_collection_is_free": Mutant(
        CLEANUP, "self._block_cost_s = _BLOCK_COST_S", "self._block_cost_s = 0.0",
        (OF_COLLECTION, "a_long_collection_waits"),
    ),
    "a_heap_never_grows": Mutant(
        CLEANUP,
        "            self._cost_s = self._block_cost_s * self._blocks()\n",
        "            self._cost_s = self._cost_s or self._block_cost_s * self._blocks()\n",
        (OF_COLLECTION, "a_heap_that_has_grown"),
    ),
    # --- Collection: the guarantee ---------------------------------------------------------------------------
    "unbounded_patience": Mutant(
        CLEANUP,
        "        return self._maps.is_short() or self._descriptors.is_short()",
        "        return False",
        (OF_COLLECTION, "a_quarter_of_what_there_is"),
    ),
    "unbounded_patience_with_maps": Mutant(
        CLEANUP, "self._maps.is_short() or ", "", (OF_COLLECTION, "a_quarter_of_what_there_is")
    ),
    "unbounded_patience_with_descriptors": Mutant(
        CLEANUP, " or self._descriptors.is_short()", "", (OF_COLLECTION, "a_quarter_of_what_there_is")
    ),
    "unbounded_patience_with_the_youngest": Mutant(
        CLEANUP, "PATIENCE: Final = (24, 12)", "PATIENCE: Final = (10**9, 12)", (OF_COLLECTION, "young_garbage")
    ),
    "unbounded_patience_with_the_middle": Mutant(
        CLEANUP, "PATIENCE: Final = (24, 12)", "PATIENCE: Final = (24, 10**9)", (OF_COLLECTION, "young_garbage")
    ),
    "no_patience_at_the_limit": Mutant(
        CLEANUP,
        " and count - self._kept_count >= capacity // 8",
        "",
        (OF_COLLECTION, "six_times"),
    ),
    "no_patience_before_the_limit": Mutant(
        CLEANUP, "count >= capacity // 4 and ", "", (OF_COLLECTION, "six_times")
    ),
    "what_is_kept_is_not_counted": Mutant(
        CLEANUP, "        self._kept_count = len(self.holders)", "        pass", (OF_COLLECTION, "six_times")
    ),
    "every_map_takes_a_descriptor": Mutant(
        CLEANUP,
        "        if _holds_descriptor(resource):",
        "        if True:",
        (OF_COLLECTION, "a_map_without_a_descriptor"),
    ),
    # --- Who owns what ---------------------------------------------------------------------------------------
    "a_rest_client_closes_the_session_of_its_caller": Mutant(
        "rest.rest_data_client",
        '("_client", "HTTP client", self._client_is_external)',
        '("_client", "HTTP client", False)',
        (OF_REST, "session_of_the_caller_open"),
    ),
    "a_vision_client_closes_the_session_of_its_caller": Mutant(
        "api.vision_data_client",
        '("_client", "HTTP client", self._client_is_external)',
        '("_client", "HTTP client", False)',
        (OF_VISION, "session_of_the_caller_open"),
    ),
    "a_transport_closes_the_session_of_its_caller": Mutant(
        "network.transport",
        '("_session", "HTTP session", self._session_is_external)',
        '("_session", "HTTP session", False)',
        (OF_REST, "session_of_the_caller_open"),
    ),
    "a_transport_holds_the_connections_of_its_caller": Mutant(
        "network.transport",
        "        return self._session is not None and self._release_session is not None",
        "        return self._session is not None",
        (OF_REST, "open_when_nobody_closes_it"),
    ),
    "a_finalizer_closes_the_session_of_its_caller": Mutant(
        "network.transport",
        "        if session is not None and self._release_session is not None:\n"
        '            self._release_session(cast("OwnSession", session))',
        "        if session is not None:\n            session._closed = True",
        (OF_REST, "open_when_nobody_closes_it"),
    ),
    "a_client_closes_the_rest_client_of_its_caller": Mutant(
        "api.crypto_kline_vision_data",
        '("_rest", "REST client", self._rest_is_external)',
        '("_rest", "REST client", False)',
        (OF_DATA, "clients_of_the_caller_open"),
    ),
    "a_client_closes_the_vision_client_of_its_caller": Mutant(
        "api.crypto_kline_vision_data",
        '("_vision", "Vision client", self._vision_is_external)',
        '("_vision", "Vision client", False)',
        (OF_DATA, "clients_of_the_caller_open"),
    ),
    "a_finalizer_closes_the_rest_client_of_its_caller": Mutant(
        "api.crypto_kline_vision_data",
        "rest = None if self._rest_is_external else self._rest",
        "rest = self._rest",
        (OF_DATA, "open_when_nobody_closes_it"),
    ),
    "a_finalizer_closes_the_vision_client_of_its_caller": Mutant(
        "api.crypto_kline_vision_data",
        "vision = None if self._vision_is_external else self._vision",
        "vision = self._vision",
        (OF_DATA, "open_when_nobody_closes_it"),
    ),
    # --- Finalizers ------------------------------------------------------------------------------------------
    "a_finalizer_that_is_silent": Mutant(
        "lifecycle",
        "        warnings.warn(f",
        "        (lambda *_, **__: None)(f",
        (OF_LIFECYCLE, "unclosed_transport and on_its_loop"),
    ),
    "a_finalizer_that_only_warns": Mutant(
        "lifecycle",
        "        self.release()\n        warnings",
        "        warnings",
        (OF_LIFECYCLE, "unclosed_transport and on_its_loop"),
    ),
    "a_part_that_warns_too": Mutant(
        "lifecycle", "        self._is_part = True", "        pass", (OF_LIFECYCLE, "a_part_leaves_its_release")
    ),
    "warning_without_connections": Mutant(
        "lifecycle",
        "        if self._is_part or not self.is_connected:",
        "        if self._is_part:",
        (OF_LIFECYCLE, "unclosed_transport and without_having"),
    ),
    # --- The log ---------------------------------------------------------------------------------------------
    "telling_below_debug": Mutant(
        CLEANUP, "return logger if logger.isEnabledFor(_DEBUG) else None", "return logger",
        (OF_CLEANUP, "told_below_debug or told_at_debug"),
    ),
    "telling_nothing": Mutant(
        CLEANUP,
        "return logger if logger.isEnabledFor(_DEBUG) else None",
        "return None",
        (OF_CLEANUP, "told_at_debug"),
    ),
    "an_error_is_not_logged": Mutant(
        CLEANUP,
        "    _logger().warning(message, *arguments, stacklevel=2)",
        "    pass",
        (OF_CLOSERS, "error_is_logged"),
    ),
}  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutant", choices=list(MUTANTS), required=True)


def pytest_configure(config: pytest.Config) -> None:
    MUTANTS[config.getoption("--mutant")].make()


def pytest_runtest_setup() -> None:
    faulthandler.dump_traceback_later(HANG_S, exit=True)


def pytest_sessionfinish() -> None:
    faulthandler.cancel_dump_traceback_later()
