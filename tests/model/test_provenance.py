"""Reasons are stored so that older versions and later ones can read them."""

from __future__ import annotations

import json

import pytest

from ckvd.model.provenance import Absence, Reason, join_absences

# The words of version 1.
OLD_WORDS = {
    "halted",
    "not in archive",
    "not yet published",
    "before listing",
    "after delisting",
    "archive damaged",
    "not fetched",
}
OLD_ANSWERS = {"halted", "before listing", "after delisting"}


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("is_listing_read", [True, False])
def test_an_absence_is_stored_and_read_again(reason: Reason, is_listing_read: bool) -> None:
    absence = Absence(1000, 2000, reason, 3000, is_listing_read)
    assert Absence.of_json(json.loads(json.dumps(absence.to_json()))) == absence


@pytest.mark.parametrize("reason", Reason)
def test_an_older_version_knows_the_word_and_whether_it_is_an_answer(reason: Reason) -> None:
    word = Absence(1000, 2000, reason).to_json()["reason"]
    assert word in OLD_WORDS
    assert (word in OLD_ANSWERS) is reason.is_answer


def test_what_an_older_version_wrote_is_written_likewise() -> None:
    record = {"start_ms": 1000, "end_ms": 2000, "reason": "not in archive", "recheck_ms": 5}
    absence = Absence.of_json(record)
    assert absence == Absence(1000, 2000, Reason.NOT_IN_ARCHIVE, 5)
    assert absence.to_json() == record


def test_an_exact_word_of_a_later_version_is_read_as_the_word_beside_it() -> None:
    record = {"start_ms": 0, "end_ms": 1, "reason": "halted", "exact_reason": "eaten by a bear", "is_new": 1}
    assert Absence.of_json(record).reason is Reason.HALTED


def test_neighbouring_absences_of_one_reason_are_joined() -> None:
    before, after = Reason.BEFORE_ARCHIVES, Reason.AFTER_ARCHIVES
    absences = [Absence(30, 40, after, 7), Absence(0, 10, before, 9), Absence(10, 20, before, 8)]
    absences.append(Absence(40, 50, after, 0))
    assert join_absences(absences) == (Absence(0, 20, before, 8), Absence(30, 50, after, 7))
    assert join_absences([]) == ()
