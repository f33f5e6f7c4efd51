"""Conditions on rows are compared as they are meant, whatever is in a name or a value."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from peersync.config.filters import Filter
from peersync.core.errors import BadRequest, PeersyncError, SchemaMismatch
from peersync.core.names import TableName
from peersync.postgres.catalog import read_catalog
from peersync.postgres.conninfo import resolve
from peersync.postgres.filters import read_shapes, table_copy
from peersync.postgres.narrow import narrowed
from peersync.postgres.pool import Database as Pool
from peersync.postgres.sqlfiles import queries
from peersync.wire.narrow import Narrow, Newer, RowCondition
from tests.plugins.clusters import Database, MakeDatabase

for module in ("catalog", "filters", "narrow"):
    queries(module)  # read now: later, the loop would wait for a file

NAME = TableName("public", "odd")
ODD = 'the "column"; DROP TABLE odd; --'
NASTY = (
    "plain", "o'clock", "back\\slash", "\\' OR true --", "E'x'", "$$", "a\nb", "'; --", "ü€", "%s",
    "{}", "$1", "NULL", "",
)  # fmt: skip


@pytest.fixture
def odd(make_database: MakeDatabase) -> Database:
    database = make_database(18)
    quoted = ODD.replace('"', '""')
    values = ", ".join(
        f"({n}, E'{v.replace(chr(92), chr(92) * 2).replace(chr(39), chr(39) * 2)}')"
        for n, v in enumerate(NASTY)
    )
    database.psql(
        f'CREATE TABLE odd (id int PRIMARY KEY, "{quoted}" text, ok bool, at time, j json);'
        f"INSERT INTO odd VALUES {values}; UPDATE odd SET ok = id % 2 = 0"
    )
    return database


async def rows_of(
    database: Database, narrow: Narrow, *filters: Filter, conforming: str = "on"
) -> list[Any]:
    """The ids that would travel."""
    pool = Pool("odd", resolve(database.conninfo()))
    try:
        async with pool.acquire("a test") as conn, conn.transaction(readonly=True):
            await conn.execute(f"SET LOCAL standard_conforming_strings = {conforming}")
            catalog = await read_catalog(conn)
            shapes = await read_shapes(conn, filters, catalog)
            shapes = await narrowed(conn, shapes, catalog, narrow, [NAME])
            copy = table_copy(catalog.tables[NAME], shapes[NAME])
            return [row["id"] for row in await conn.fetch(f"{copy.select} ORDER BY id")]
    finally:
        await pool.close()


def one(column: str, value: Any, op: Any = "=") -> Narrow:
    return Narrow(conditions=(RowCondition(column=column, op=op, value=value),))


@pytest.mark.parametrize("conforming", ["on", "off"])
async def test_a_value_is_itself_and_a_name_too(odd: Database, conforming: str) -> None:
    for number, value in enumerate(NASTY):
        assert await rows_of(odd, one(ODD, value), conforming=conforming) == [number]
    every = one(ODD, tuple(NASTY[:-1]), "in")
    assert await rows_of(odd, every, conforming=conforming) == list(range(len(NASTY) - 1))


async def test_numbers_and_truth_take_the_type_of_the_column(odd: Database) -> None:
    assert await rows_of(odd, one("id", 3, "<")) == [0, 1, 2]
    assert await rows_of(odd, one("id", "3", ">=")) == list(range(3, len(NASTY)))
    assert await rows_of(odd, one("ok", False)) == list(range(1, len(NASTY), 2))


async def test_what_the_owner_keeps_back_stays_back(odd: Database) -> None:
    hidden = Filter(table="public.odd", where="id < 5 OR id = 9", exclude_columns=("ok",))
    assert await rows_of(odd, one("id", 4, ">="), hidden) == [4, 9]
    with pytest.raises(SchemaMismatch, match=r"public\.odd has no column ok"):
        await rows_of(odd, one("ok", True), hidden)


@pytest.mark.parametrize(
    ("narrow", "words"),
    [
        (one("id", "three"), "invalid input syntax"),
        (one("j", "{}"), "operator does not exist"),
        (one("nobody", 1), "has no column nobody"),
        (Narrow(newer=Newer(column="id", span_s=60)), "is integer, which is no time"),
        (Narrow(newer=Newer(column="at", span_s=60)), "which is no time"),
    ],
)  # fmt: skip
async def test_what_can_not_be_compared_is_refused(
    odd: Database, narrow: Narrow, words: str
) -> None:
    with pytest.raises((BadRequest, SchemaMismatch)) as refused:
        await rows_of(odd, narrow)
    error: PeersyncError = refused.value
    assert words in error.message
    assert error.hint


@pytest.mark.parametrize(
    "sent",
    [
        b'{"conditions":[{"column":"a","op":"= 1 OR true --","value":1}]}',
        b'{"conditions":[{"column":"a","op":"in","value":1}]}',
        b'{"conditions":[{"column":"a","op":"in","value":[]}]}',
        b'{"conditions":[{"column":"a","op":"=","value":[1]}]}',
        b'{"conditions":[{"column":"a","value":null}]}',
        b'{"conditions":[{"column":"a","value":{"b":1}}]}',
        b'{"conditions":[{"column":"","value":1}]}',
        b'{"conditions":[{"column":"a","value":"\\u0000"}]}',
        b'{"conditions":[{"column":"a","value":1e999}]}',
        b'{"newer":{"column":"a","span_s":0}}',
    ],
)
def test_what_a_peer_may_not_ask_does_not_even_arrive(sent: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        msgspec.json.decode(sent, type=Narrow)
