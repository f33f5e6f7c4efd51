"""What fails for a while is tried again for a while, and what can't pass is not."""

from __future__ import annotations

import pytest

from peersync.core.backoff import Backoff
from peersync.core.errors import (
    DatabaseUnreachable,
    DiskFull,
    DumpRestarted,
    PeersyncError,
    PeerUnreachable,
    RefusedInput,
    RowsChanged,
)
from peersync.core.retries import ATTEMPTS, Retries, may_be_resumed


def retries() -> Retries:
    return Retries(lambda: Backoff(maximum_s=8.0, total_s=100.0))


def test_a_failure_that_may_pass_is_tried_again_a_few_times_with_longer_pauses() -> None:
    asked = retries()
    pauses = [asked.pause_s(RowsChanged("changed"), 0.0, 1.0) for _ in range(ATTEMPTS)]
    assert pauses[-1] is None
    given = [pause for pause in pauses if pause is not None]
    assert len(given) == ATTEMPTS - 1
    assert given == sorted(set(given))


def test_a_dump_that_was_begun_anew_is_followed_at_once() -> None:
    assert retries().pause_s(DumpRestarted("anew"), 0.0, 1.0) == 0.0


@pytest.mark.parametrize(
    "error", [PeerUnreachable("gone"), DiskFull("full"), RefusedInput("no"), ValueError("a bug")]
)
def test_what_does_not_pass_is_not_tried_again(error: Exception) -> None:
    assert retries().pause_s(error, 0.0, 1.0) is None


def test_a_silent_database_is_waited_for_by_time_and_takes_no_attempt_away() -> None:
    asked = retries()
    for second in range(2 * ATTEMPTS):
        assert asked.pause_s(DatabaseUnreachable("silent"), second, second) is not None
    assert asked.pause_s(RowsChanged("changed"), 0.0, 99.0) is not None
    assert asked.pause_s(DatabaseUnreachable("silent"), 199.0, 200.0) is None


def test_an_attempt_that_went_well_for_long_begins_a_new_patience() -> None:
    asked = retries()
    asked.pause_s(DatabaseUnreachable("silent"), 0.0, 1.0)
    assert asked.pause_s(DatabaseUnreachable("silent"), 2.0, 500.0) == 0.5


def test_chunks_are_kept_for_what_may_end_otherwise() -> None:
    assert may_be_resumed(PeerUnreachable("gone"))
    assert may_be_resumed(None)
    refused: PeersyncError = RefusedInput("no")
    assert not may_be_resumed(refused)
