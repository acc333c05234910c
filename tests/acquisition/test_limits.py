"""The limits of an ingest compose: none of them keeps another from being used up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ckvd
from ckvd.acquisition.limits import IngestLimits


@given(st.integers(1, 1000))
def test_every_transfer_has_its_connections_and_a_place_in_the_backlog(transfers: int) -> None:
    limits = IngestLimits(transfers)
    # An archive and the CHECKSUM of another one may be under way for each transfer.
    assert limits.connections >= 2 * transfers
    # What is fetched may wait to be stored while all transfers go on.
    assert limits.backlog_archives > transfers
    # A thread never waits for a group that the backlog has no room for.
    assert limits.backlog_archives >= limits.threads
    assert limits.backlog_nbytes >= limits.threads * limits.group_nbytes
    assert limits.group_archives >= 1


@pytest.mark.parametrize("concurrency", [0, -1])
def test_a_client_that_would_never_fetch_anything_is_refused(concurrency: int) -> None:
    with pytest.raises(ValueError, match=f"concurrency is {concurrency}: expected at least 1"):
        ckvd.VisionDataClient(concurrency=concurrency)
