"""Rates as people write them."""

from __future__ import annotations

import pytest

from peersync.cli.rate import parse_rate


@pytest.mark.parametrize(
    ("text", "bytes_s"),
    [
        ("0", 0),
        ("10MB", 10_000_000),
        ("10mb/s", 10_000_000),
        ("1.5 MiB", 1_572_864),
        ("80Mbit", 10_000_000),
        ("500k", 500_000),
        ("2GiB/s", 2 << 30),
        ("65536", 65536),
    ],
)
def test_rates_are_understood(text: str, bytes_s: int) -> None:
    assert parse_rate(text) == bytes_s


@pytest.mark.parametrize("text", ["", "fast", "-1MB", "10XB", "1", "1e9", "9999999999TB", "MB"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_rate(text)
