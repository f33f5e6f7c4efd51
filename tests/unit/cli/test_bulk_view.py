"""The lines of `peersync bulk-sync`, to the letter."""

from __future__ import annotations

import pytest

from peersync.agent.orchestration.bulk_outcome import BulkDatabase
from peersync.cli.bulk_view import line_of, price, took
from peersync.core.results import ErrorRecord

DOWN = ErrorRecord("database-unreachable", "crm does not answer", "connection\nrefused", "start it")


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (
            BulkDatabase(database="shop", status="success", peers=3, rows=1204, duration_s=23.4),
            "✓ shop – 3 peers, 1,204 rows (23.4 s)",
        ),
        (
            BulkDatabase(database="shop", status="success", peers=1, rows=1, duration_s=61),
            "✓ shop – 1 peer, 1 row (1 min 1 s)",
        ),
        (
            BulkDatabase(database="shop", status="skipped", reason="no auto-sync peers"),
            "○ shop – no auto-sync peers",
        ),
        (
            BulkDatabase(database="crm", status="error", error=DOWN),
            "✗ crm – crm does not answer (connection refused)",
        ),
        (
            BulkDatabase(database="crm", status="not_run", reason="the bulk sync was interrupted"),
            "○ crm – not run: the bulk sync was interrupted",
        ),
        (
            BulkDatabase(database="crm", status="error", error=ErrorRecord("failed", "a\x1b[2Jb")),
            "✗ crm – a\\x1b[2Jb",
        ),
    ],
)
def test_a_database_has_one_line(one: BulkDatabase, line: str) -> None:
    assert line_of(one) == line


def test_a_price_has_two_to_six_decimals() -> None:
    assert price(1.5, "EUR") == "1.50 EUR"
    assert price(0.000123, "") == "0.000123"
    assert price(12.0000004, "EUR") == "12.00 EUR"


def test_seconds_become_minutes_where_they_would_be_sixty() -> None:
    assert [took(59.94), took(59.96), took(0)] == ["59.9 s", "1 min", "0.0 s"]
