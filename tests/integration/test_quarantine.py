"""Changes that were refused: tried again, edited, skipped."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from peersync.core.errors import BadRequest, NotFound
from peersync.postgres.log.quarantine import (
    edit,
    get_quarantined,
    list_quarantine,
    retry,
    skip,
    waiting,
)
from tests.integration.operators_rig import (
    captured,
    connect,
    join_group,
    put_entry,
    put_quarantined,
    tbl_of,
)
from tests.plugins.clusters import Database

TABLES = """
CREATE TABLE public.items (id int PRIMARY KEY, code text UNIQUE, note varchar(10));
CREATE TABLE public.bag (a int, b text);
"""


@pytest.fixture
async def conn(database: Database) -> AsyncIterator[asyncpg.Connection]:
    opened = await connect(database)
    try:
        await opened.execute(TABLES)
        await join_group(opened)
        await opened.execute("INSERT INTO public.items VALUES (1, 'A', 'mine')")
        await opened.execute("INSERT INTO public.bag VALUES (1, 'x'), (1, 'x')")
        yield opened
    finally:
        await opened.close()


async def rows(conn: asyncpg.Connection, table: str = "items") -> list[str]:
    found = await conn.fetch(f"SELECT x::text AS row FROM public.{table} AS x ORDER BY 1")
    return [row["row"] for row in found]


async def state(conn: asyncpg.Connection, number: int) -> tuple[str, str | None, int]:
    view = await get_quarantined(conn, number)
    return view.state, view.settled_by, view.tries


async def test_a_refused_row_is_shown_with_the_reason(conn: asyncpg.Connection) -> None:
    number = await put_quarantined(conn, "items", "I", "(2)", '(2,A,"")', position=3)
    (listed,) = await list_quarantine(conn, tables=None, all_states=False, limit=9)
    assert (listed.id, listed.node, listed.op, listed.row) == (number, "server-b", "insert", None)
    view = await get_quarantined(conn, number)
    assert view.row == {"id": "2", "code": "A", "note": ""}
    assert (view.sqlstate, view.reason[:13]) == ("23505", "duplicate key")


async def test_it_is_applied_as_sent_once_nothing_is_in_the_way(conn: asyncpg.Connection) -> None:
    number = await put_quarantined(conn, "items", "I", "(2)", "(2,A,new)", position=3)
    before = await captured(conn, "items")
    tried = await retry(conn, number, by="ann")
    assert (tried.result, tried.sqlstate) == ("refused", "23505")
    assert tried.reason is not None
    assert "(code)=(A) already exists" in tried.reason
    assert (await state(conn, number))[2] == 2
    await conn.execute("UPDATE public.items SET code = 'B'")
    tried = await retry(conn, number, by="ann")
    assert (tried.result, tried.before, tried.after) == (
        "applied", None, {"id": "2", "code": "A", "note": "new"},
    )  # fmt: skip
    assert await rows(conn) == ["(1,B,mine)", "(2,A,new)"]
    assert len(await captured(conn, "items")) == len(before) + 1  # the UPDATE, not the retry
    assert await conn.fetchval("SHOW session_replication_role") == "origin"
    assert await state(conn, number) == ("applied", "ann", 2)


async def test_what_was_changed_here_since_is_not_overwritten(conn: asyncpg.Connection) -> None:
    number = await put_quarantined(conn, "items", "U", "(1)", "(1,C,theirs)", position=3)
    tried = await retry(conn, number, by="ann")  # our own insert is not even published yet
    assert tried.result == "superseded"
    assert await rows(conn) == ["(1,A,mine)"]
    assert (await state(conn, number))[0] == "superseded"


async def test_what_the_log_has_newer_of_the_row_stands(conn: asyncpg.Connection) -> None:
    number = await put_quarantined(conn, "items", "I", "(5)", "(5,E,old)", position=3)
    await put_entry(conn, "items", "I", "(5)", "(5,E,newer)", position=4, hlc=6_000_000)
    assert (await retry(conn, number, by="ann")).result == "superseded"
    assert len(await rows(conn)) == 1


async def test_changes_of_a_row_are_retried_in_their_order(conn: asyncpg.Connection) -> None:
    late = await put_quarantined(
        conn, "items", "U", "(7)", "(7,G,second)", position=4, hlc=6_000_000
    )
    early = await put_quarantined(conn, "items", "I", "(7)", "(7,G,first)", position=3)
    assert await waiting(conn, None) == [early, late]
    assert (await retry(conn, late, by="ann")).result == "applied"
    assert (await retry(conn, early, by="ann")).result == "superseded"
    assert await rows(conn) == ["(1,A,mine)", "(7,G,second)"]


async def test_a_delete_and_rows_without_a_key(conn: asyncpg.Connection) -> None:
    gone = await put_quarantined(conn, "bag", "D", None, "(1,x)", position=3)
    come = await put_quarantined(conn, "bag", "I", None, '(2,"")', position=4)
    for number in (gone, come):
        assert (await retry(conn, number, by="ann")).result == "applied"
    assert await rows(conn, "bag") == ["(1,x)", '(2,"")']


async def test_an_edited_row_is_a_change_of_ours_that_goes_to_all(
    conn: asyncpg.Connection,
) -> None:
    number = await put_quarantined(conn, "items", "I", "(2)", "(2,A,new)", position=3)
    tried = await edit(conn, number, {"code": "A2", "note": None}, by="ann")
    assert tried.after == {"id": "2", "code": "A2", "note": None}
    assert (await captured(conn, "items"))[-1] == ("I", "(2,A2,)")
    assert (await state(conn, number))[:2] == ("applied", "ann")


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"nope": "1"}, BadRequest),
        ({"id": "x"}, BadRequest),
        ({"note": "longer than ten"}, asyncpg.DataError),
        ({"code": "A"}, asyncpg.UniqueViolationError),
    ],
)
async def test_an_edit_that_is_refused_changes_nothing(
    conn: asyncpg.Connection, values: dict[str, str | None], error: type[Exception]
) -> None:
    number = await put_quarantined(conn, "items", "I", "(2)", "(2,B,new)", position=3)
    with pytest.raises(error):
        await edit(conn, number, values, by="ann")
    assert (await state(conn, number))[0] == "waiting"
    assert len(await rows(conn)) == 1


async def test_what_is_skipped_is_said_and_stays_visible(conn: asyncpg.Connection) -> None:
    number = await put_quarantined(conn, "items", "I", "(2)", "(2,A,new)", position=3)
    tried = await skip(conn, number, by="ann")
    assert tried.reason is not None
    assert "insert of server-b will never be applied here" in tried.reason
    assert await list_quarantine(conn, tables=None, all_states=False, limit=9) == []
    (listed,) = await list_quarantine(conn, tables=None, all_states=True, limit=9)
    assert (listed.state, listed.settled_by) == ("skipped", "ann")
    with pytest.raises(BadRequest, match="skipped by ann"):
        await retry(conn, number, by="bob")
    with pytest.raises(NotFound):
        await skip(conn, number + 1, by="bob")


async def test_changes_of_a_parked_table_wait_for_the_table(conn: asyncpg.Connection) -> None:
    number = await put_quarantined(
        conn, "items", "I", "(2)", "(2,B,new)", position=3, cause="table"
    )
    await conn.execute(
        "UPDATE peersync.synced_table SET parked = 'column x is missing' WHERE tbl = $1",
        await tbl_of(conn, "items"),
    )
    with pytest.raises(BadRequest, match="column x is missing"):
        await retry(conn, number, by="ann")


async def test_a_truncate_does_not_take_rows_that_came_later(conn: asyncpg.Connection) -> None:
    number = await put_quarantined(conn, "bag", "T", None, None, position=3)
    await conn.execute("SELECT peersync.publish()")  # our rows are newer now
    with pytest.raises(BadRequest, match="rows of it were changed since"):
        await retry(conn, number, by="ann")
    assert len(await rows(conn, "bag")) == 2
