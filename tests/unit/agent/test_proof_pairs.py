"""Two columns are compared where both servers write one value alike, and never otherwise."""

from __future__ import annotations

import pytest

from peersync.agent.proof.pairs import compared_as
from peersync.core.names import TableName
from peersync.postgres.catalog import UserType
from peersync.postgres.digest import Shape
from peersync.postgres.rowform import base_type, row_hash
from peersync.wire.messages import TypeInfo

THERE = {
    "public.mood": TypeInfo(name="public.mood", kind="enum", parts=("a", "b")),
    "public.posint": TypeInfo(name="public.posint", kind="domain", parts=("integer", "CHECK …")),
}
HERE = {
    "public.mood": UserType("enum", ("b", "a")),
    "public.label": UserType("domain", ("text NOT NULL",)),
}


@pytest.mark.parametrize(
    ("there", "here", "how"),
    [
        ("integer", "integer", "type"),
        ("integer", "bigint", "number"),
        ("smallint", "oid", None),
        ("character varying(10)", "character varying(20)", "type"),
        ("character varying(10)", "text", "text"),
        ("name", "text", "text"),
        ("public.citext", "text", "text"),
        ("public.mood", "text", "text"),
        ("public.mood", "public.mood", "type"),
        ("public.posint", "integer", "text"),
        ("text", "public.label", "text"),
        ("public.posint", "text", None),
        ("character(5)", "character(5)", "type"),
        ("character(5)", "character(6)", None),
        ("character(5)[]", "character(8)[]", None),
        ("bit(3)[]", "bit(4)[]", None),
        ("numeric(9,2)[]", "numeric(9,3)[]", None),
        ("numeric(9,2)[]", "numeric(7,2)[]", "type"),
        ("character varying(5)[]", "character varying(8)[]", "type"),
        ("character(5)", "text", None),
        ("bit(3)", "bit(4)", None),
        ("numeric(10,2)", "numeric(12,2)", "type"),
        ("numeric(10,2)", "numeric(10,3)", None),
        ("numeric(10,2)", "numeric", None),
        ("numeric", "integer", None),
        ("timestamp(3) with time zone", "timestamp with time zone", "type"),
        ("timestamp without time zone", "timestamp with time zone", None),
        ("json", "jsonb", None),
        ("real", "double precision", None),
        ("integer[]", "bigint[]", None),
    ],
)
def test_types_that_differ(there: str, here: str, how: str | None) -> None:
    assert compared_as(there, here, THERE, HERE) == how


def test_a_type_without_its_length() -> None:
    assert base_type("timestamp(3) with time zone") == "timestamp with time zone"
    assert base_type("numeric(10,-2)") == "numeric"
    assert base_type('public."odd(1) name"') != "public.integer"


def test_what_postgresql_hashes_blindly_is_not_hashed_as_it_is() -> None:
    types = ("bigint", "numeric(3,1)", "integer[]", "public.mood", "bpchar", "character(4)")
    columns = tuple(f"c{n}" for n in range(len(types)))
    sql = row_hash(Shape(TableName("public", "t"), columns, types, ("c0",)))
    assert 'hashint8extended(t."c0", (t."c0" >> 32) #' in sql
    assert 'numeric_out(t."c1")' in sql
    assert 'array_out(t."c2")' in sql
    assert all(f'concat(t."c{n}")' in sql for n in (3, 4))
    assert 'hashbpcharextended(t."c5"' in sql
