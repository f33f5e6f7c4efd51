"""Which types round what they read, and which do not."""

from __future__ import annotations

import pytest

from peersync.agent.fit import may_round


@pytest.mark.parametrize(
    ("there", "here", "rounds"),
    [
        ("numeric", "numeric(10,2)", True),
        ("numeric(10,4)", "numeric(10,2)", True),
        ("numeric(5,2)", "numeric(10,2)", False),
        ("integer", "numeric(10,2)", False),
        ("bigint", "numeric(10,-2)", True),
        ("numeric(10,2)", "numeric", False),
        ("double precision", "real", True),
        ("real", "double precision", False),
        ("numeric", "double precision", True),
        ("bigint", "double precision", True),
        ("timestamp with time zone", "date", True),
        ("date", "timestamp without time zone", False),
        ("timestamp(6) without time zone", "timestamp(0) without time zone", True),
        ("interval", "interval year", True),
        ("text", "character varying(3)", False),
        ("text", "jsonb", False),
    ],
)
def test_a_type_that_rounds_what_it_reads_is_known(there: str, here: str, rounds: bool) -> None:
    assert may_round(there, here) is rounds
