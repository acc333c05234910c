"""When a bar is closed."""

from __future__ import annotations

import numpy as np

from ckvd.model.market import Interval
from ckvd.rest.answer import closed_count
from support.models import HOUR_MS, MINUTE_MS, ms

NOW_MS = ms(2024, 6, 1, 12)


def test_a_bar_that_was_ended_early_is_closed_when_its_hour_is_over() -> None:
    open_ms = NOW_MS - HOUR_MS
    opens, closes = np.array([open_ms]), np.array([open_ms + 40 * MINUTE_MS])
    assert closed_count(opens, closes, Interval.H1, NOW_MS - 1) == 0
    assert closed_count(opens, closes, Interval.H1, NOW_MS) == 1


def test_a_late_bar_is_closed_when_its_own_close_time_is_over() -> None:
    open_ms = NOW_MS - 30 * MINUTE_MS
    opens, closes = np.array([open_ms]), np.array([open_ms + HOUR_MS - 1])
    assert closed_count(opens, closes, Interval.H1, open_ms + HOUR_MS - 1) == 0
    assert closed_count(opens, closes, Interval.H1, open_ms + HOUR_MS) == 1
