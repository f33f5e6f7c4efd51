"""What a complete sync costs, when it counts as a success, and when a peer is passed over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from peersync.agent.orchestration.outcome import (
    LONGEST_SKIP_S,
    PeerStatus,
    cost_of,
    overall,
    skipped_until,
)
from peersync.cli.complete_cmd import money
from peersync.config.orchestration import Complete

NOW = datetime(2026, 11, 22, tzinfo=UTC)
ENDED = [s for s in get_args(PeerStatus) if s not in ("waiting", "running")]


@given(st.integers(0, 10**15), st.decimals(0, 10**6, places=3))
def test_a_cost_is_exact_to_a_millionth(wire_bytes: int, price: Decimal) -> None:
    cost = cost_of(wire_bytes, float(price))
    exact = Fraction(wire_bytes) * Fraction(price) / 10**9
    assert abs(Fraction(cost) - exact) <= Fraction(1, 2_000_000)
    assert float(f"{float(cost):.6f}") == float(cost)


def test_a_cost_is_shown_with_two_to_six_decimals() -> None:
    shown = [money(cost, "EUR") for cost in (0.0, 12.5, 0.000133, 1234.56789)]
    assert shown == ["0.00 EUR", "12.50 EUR", "0.000133 EUR", "1234.56789 EUR"]
    assert money(0.5, "") == "0.50"


@given(st.lists(st.sampled_from(ENDED), min_size=1))
def test_a_run_is_a_success_only_where_nothing_failed_and_something_was_done(
    peers: list[PeerStatus],
) -> None:
    tried = set(peers) - {"skipped"}
    assert (overall(peers) == "success") == (tried == {"success"})
    assert (overall(peers) == "error") == (tried == {"error"})


def test_a_run_in_which_a_peer_is_passed_over_after_errors_is_no_success() -> None:
    assert overall(["success", "skipped"], left=True) == "partial"
    assert overall(["error", "skipped"], left=True) == "error"
    assert overall(["success", "skipped"]) == "success"


def test_a_peer_is_passed_over_twice_as_long_after_each_further_error_up_to_a_day() -> None:
    settings = Complete(skip_after_errors=3, skip_for_s=900.0)
    until = [skipped_until(failures, NOW, settings) for failures in range(2, 7)]
    assert until == [None, *(NOW + timedelta(seconds=900 * 2**n) for n in range(4))]
    assert skipped_until(10_000, NOW, settings) == NOW + timedelta(seconds=LONGEST_SKIP_S)
    assert skipped_until(5, NOW, Complete(skip_for_s=0.0)) is None
