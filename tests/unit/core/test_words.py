"""Counted things read well."""

from __future__ import annotations

import pytest

from peersync.core.words import counted


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 tables"), (1, "1 table"), (2, "2 tables"), (21, "21 tables")]
)
def test_only_one_has_no_s(number: int, text: str) -> None:
    assert counted(number, "table") == text
