"""What an operator does with a conflict: look at both rows, write the other one back, decide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import asyncpg
import pytest

from peersync.core.errors import BadRequest, NotFound, RowMoved
from peersync.postgres.log.capture import enrol
from peersync.postgres.log.conflicts import (
    get_conflict,
    list_conflicts,
    resolve,
    restore,
)
from peersync.postgres.log.literal import parse_record
from peersync.postgres.log.members import Replica
from peersync.postgres.log.settling import Meant
from tests.integration.operators_rig import (
    ALL,
    captured,
    connect,
    join_group,
    put_conflict,
    tbl_of,
)
from tests.plugins.clusters import Database, MakeDatabase

TABLE = """
CREATE TABLE public."Odd items" (
    "K" int, part text, name varchar(20), tags text[], raw bytea,
    n int GENERATED ALWAYS AS IDENTITY, double int GENERATED ALWAYS AS ("K" * 2) STORED,
    PRIMARY KEY ("K", part));
"""
OLD = '(1,"a b","old, one","{x,NULL,""y z""}","\\\\x00ff",1,2)'
NEW = '(1,"a b",new,{},,1,2)'
KEY = '(1,"a b")'


class Rig(NamedTuple):
    conn: asyncpg.Connection
    replica: Replica
    database: Database


@pytest.fixture(params=[15, 18])
async def rig(request: pytest.FixtureRequest, make_database: MakeDatabase) -> AsyncIterator[Rig]:
    database = make_database(request.param, migrated=True)
    conn = await connect(database)
    try:
        await conn.execute(TABLE)
        replica = await join_group(conn)
        await conn.execute("INSERT INTO public.\"Odd items\" VALUES (1, 'a b', 'new', '{}', NULL)")
        yield Rig(conn, replica, database)
    finally:
        await conn.close()


async def image(conn: asyncpg.Connection) -> str | None:
    text: str | None = await conn.fetchval('SELECT x::text FROM public."Odd items" AS x')
    return text


async def test_both_rows_are_shown_by_column_with_what_differs(rig: Rig) -> None:
    conn, replica, _ = rig
    number = await put_conflict(conn, replica.origin, "Odd items", KEY, OLD, NEW)
    (listed,) = await list_conflicts(conn, Meant().parameters, limit=5)
    assert (listed.id, listed.kept.row, listed.kept.node, listed.incoming.node) == (
        number, None, "server-a", "server-b",
    )  # fmt: skip
    view = await get_conflict(conn, number)
    assert view.kept.row == {
        "K": "1", "part": "a b", "name": "old, one", "tags": '{x,NULL,"y z"}', "raw": "\\x00ff",
        "n": "1", "double": "2",
    }  # fmt: skip
    assert view.differs == ("name", "tags", "raw")
    assert view.incoming.at == "1970-01-01T00:00:03.000+00:00"


async def test_a_restored_row_is_a_new_change_for_everybody(rig: Rig) -> None:
    conn, replica, _ = rig
    number = await put_conflict(conn, replica.origin, "Odd items", KEY, OLD, NEW)
    settled = await restore(conn, number, side=None, force=False, by="ann")
    assert settled.written and settled.before and settled.after
    assert (settled.before["name"], settled.after["name"]) == ("new", "old, one")
    assert await image(conn) == OLD
    assert (await captured(conn, "Odd items"))[-1] == ("U", OLD)
    view = await get_conflict(conn, number)
    assert (view.state, view.settled_by) == ("restored", "ann")


async def test_a_deleted_row_comes_back_and_goes_again(rig: Rig) -> None:
    conn, replica, _ = rig
    lost_delete = await put_conflict(conn, replica.origin, "Odd items", KEY, None, NEW)
    settled = await restore(conn, lost_delete, side=None, force=False, by="ann")
    assert settled.after is None
    assert await image(conn) is None
    assert (await captured(conn, "Odd items"))[-1] == ("D", None)
    lost_row = await put_conflict(conn, replica.origin, "Odd items", KEY, None, OLD, winner="kept")
    await restore(conn, lost_row, side=None, force=False, by="ann")
    assert await image(conn) == OLD


async def test_a_row_that_moved_on_is_not_overwritten_without_force(rig: Rig) -> None:
    conn, replica, _ = rig
    number = await put_conflict(conn, replica.origin, "Odd items", KEY, OLD, NEW)
    await conn.execute("UPDATE public.\"Odd items\" SET name = 'later'")
    with pytest.raises(RowMoved) as caught:
        await restore(conn, number, side=None, force=False, by="ann")
    assert "--force" in str(caught.value.hint)
    settled = await restore(conn, number, side=None, force=True, by="ann")
    assert settled.before is not None
    assert settled.before["name"] == "later"
    assert await image(conn) == OLD


async def test_what_is_so_already_is_not_written_again(rig: Rig) -> None:
    conn, replica, _ = rig
    number = await put_conflict(conn, replica.origin, "Odd items", KEY, OLD, NEW)
    settled = await restore(conn, number, side="incoming", force=False, by="ann")
    assert not settled.written
    assert len(await captured(conn, "Odd items")) == 1


async def test_an_open_conflict_is_decided_by_a_person(rig: Rig) -> None:
    conn, replica, _ = rig
    numbers = [
        await put_conflict(conn, replica.origin, "Odd items", KEY, OLD, NEW, state="open")
        for _ in range(3)
    ]
    with pytest.raises(BadRequest, match="not decided"):
        await restore(conn, numbers[0], side=None, force=False, by="ann")
    taken = await resolve(conn, numbers[0], choice="take", values={}, force=False, by="ann")
    assert not taken.written
    await resolve(
        conn, numbers[1], choice="set", values={"name": "mine", "raw": None}, force=False, by="ann"
    )
    assert await conn.fetchval('SELECT name FROM public."Odd items"') == "mine"
    with pytest.raises(RowMoved):
        await resolve(conn, numbers[2], choice="keep", values={}, force=False, by="ann")
    await resolve(conn, numbers[2], choice="keep", values={}, force=True, by="ann")
    assert await image(conn) == OLD
    assert await list_conflicts(conn, Meant(state="open").parameters, limit=5) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [({"nope": "1"}, "no column 'nope'"), ({"K": "2"}, "key"), ({"double": "2"}, "made by")],
)
async def test_columns_that_cannot_be_set_are_named(
    rig: Rig, values: dict[str, str | None], message: str
) -> None:
    conn, replica, _ = rig
    number = await put_conflict(conn, replica.origin, "Odd items", KEY, OLD, NEW, state="open")
    with pytest.raises(BadRequest, match=message):
        await resolve(conn, number, choice="set", values=values, force=False, by="ann")


async def test_a_value_that_does_not_fit_changes_nothing(rig: Rig) -> None:
    conn, replica, _ = rig
    number = await put_conflict(conn, replica.origin, "Odd items", KEY, OLD, NEW, state="open")
    long = {"name": "x" * 21}
    with pytest.raises(asyncpg.StringDataRightTruncationError):
        await resolve(conn, number, choice="set", values=long, force=False, by="ann")
    assert await image(conn) == NEW
    assert (await get_conflict(conn, number)).state == "open"


async def test_two_who_settle_the_same_conflict_meet(rig: Rig) -> None:
    conn, replica, database = rig
    number = await put_conflict(conn, replica.origin, "Odd items", KEY, OLD, NEW, state="open")
    second = await connect(database)
    try:
        results = await asyncio.gather(
            resolve(conn, number, choice="keep", values={}, force=False, by="ann"),
            resolve(second, number, choice="take", values={}, force=False, by="bob"),
            return_exceptions=True,
        )
    finally:
        await second.close()
    assert [type(result) for result in results if isinstance(result, Exception)] == [BadRequest]
    view = await get_conflict(conn, number)
    assert view.settled_by in ("ann", "bob")


async def test_nothing_is_written_where_it_would_not_reach_the_peers(rig: Rig) -> None:
    conn, replica, _ = rig
    number = await put_conflict(conn, replica.origin, "Odd items", KEY, OLD, NEW)
    await conn.execute(
        "UPDATE peersync.synced_table SET state = 'excluded' WHERE tbl = $1",
        await tbl_of(conn, "Odd items"),
    )
    with pytest.raises(BadRequest, match="would not reach the peers"):
        await restore(conn, number, side=None, force=False, by="ann")
    await enrol(conn, ALL, lock_timeout_s=5)
    assert (await restore(conn, number, side=None, force=False, by="ann")).written


async def test_an_id_that_there_is_not(rig: Rig) -> None:
    with pytest.raises(NotFound) as caught:
        await get_conflict(rig[0], 999)
    assert "conflicts list" in str(caught.value.hint)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "plain",
        'q"uo"te',
        "back\\slash",
        "a,b",
        "(x)",
        "line\nbreak",
        " ",
        "{1,2}",
        "ü€😀",
        "NULL",
    ],
)
async def test_a_record_is_read_as_the_server_wrote_it(rig: Rig, value: str) -> None:
    text = await rig[0].fetchval("SELECT ROW($1::text, NULL::int, 'end'::text)::text", value)
    assert parse_record(text) == [value, None, "end"]
