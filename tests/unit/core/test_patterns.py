"""Patterns name the tables that psql would find with them."""

from __future__ import annotations

import pytest

from peersync.core.errors import BadRequest
from peersync.core.names import TableName
from peersync.core.patterns import Patterns


@pytest.mark.parametrize(
    ("pattern", "schema", "name", "found"),
    [
        ("*", "public", "orders", True),
        ("orders", "public", "orders", True),
        ("orders", "archive", "orders", True),
        ("public.orders", "archive", "orders", False),
        ("public.order_*", "public", "order_lines", True),
        ("public.order_*", "public", "orders", False),
        ("Orders", "public", "orders", True),
        ("Orders", "public", "Orders", False),
        ('"Orders"', "public", "Orders", True),
        ('"a.b"."c*"', "a.b", "c*", True),
        ('"a.b"."c*"', "a.b", "cd", False),
        ('"say ""hi"""', "public", 'say "hi"', True),
        ("t?", "public", "t1", True),
        ("t?", "public", "t12", False),
        ("a+", "public", "aa", False),
        ('"two\nlines"', "public", "two\nlines", True),
        ("*", "public", "two\nlines", True),
    ],
)
def test_a_pattern_means_what_psql_means(pattern: str, schema: str, name: str, found: bool) -> None:
    assert Patterns([pattern]).match(TableName(schema, name)) is found


def test_exclude_wins_over_include() -> None:
    patterns = Patterns(["public.*"], ["*.log_*"])
    assert patterns.match(TableName("public", "orders"))
    assert not patterns.match(TableName("public", "log_2026"))
    assert not patterns.match(TableName("other", "orders"))


@pytest.mark.parametrize("text", ["", "a.b.c", '"open', ".x", "x."])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        Patterns([text])
