"""A conflict that a rebaseline leaves open: the other side is what the others have."""

from __future__ import annotations

import asyncpg
import pytest

from peersync.core.errors import BadRequest, RowMoved
from peersync.postgres.log.conflicts import get_conflict, resolve
from tests.integration.operators_rig import connect, join_group, publish, put_conflict
from tests.plugins.clusters import MakeDatabase


async def made_by_a_return(conn: asyncpg.Connection, incoming: str | None) -> int:
    """As `postgres.log.reissue` leaves it."""
    replica = await join_group(conn)
    await publish(conn)
    number = await put_conflict(
        conn, replica.origin, "item", "(1)", None, incoming, winner="kept", state="open"
    )
    await conn.execute(
        "UPDATE peersync.conflict SET kept_op = NULL, kept_shape = NULL, kept_hlc = NULL,"
        " kept_position = NULL WHERE id = $1",
        number,
    )
    return number


async def test_what_the_others_have_is_kept_without_writing(make_database: MakeDatabase) -> None:
    conn = await connect(make_database(18, migrated=True))
    try:
        await conn.execute("CREATE TABLE public.item (id int PRIMARY KEY, name text)")
        await conn.execute("INSERT INTO public.item VALUES (1, 'theirs')")
        number = await made_by_a_return(conn, "(1,mine)")
        shown = await get_conflict(conn, number)
        assert (shown.kept.op, shown.kept.row) == ("none", None)
        assert shown.incoming.row == {"id": "1", "name": "mine"}

        await conn.execute("UPDATE public.item SET name = 'newer' WHERE id = 1")
        settled = await resolve(conn, number, choice="keep", values={}, force=False, by="me")
        assert (settled.state, settled.written) == ("resolved", False)
        assert await conn.fetchval("SELECT name FROM public.item") == "newer"
        assert (await get_conflict(conn, number)).state == "resolved"
    finally:
        await conn.close()


async def test_mine_is_taken_unless_the_row_was_changed_since(make_database: MakeDatabase) -> None:
    conn = await connect(make_database(18, migrated=True))
    try:
        await conn.execute("CREATE TABLE public.item (id int PRIMARY KEY, name text)")
        await conn.execute("INSERT INTO public.item VALUES (1, 'theirs')")
        number = await made_by_a_return(conn, "(1,mine)")
        settled = await resolve(conn, number, choice="take", values={}, force=False, by="me")
        assert (settled.state, settled.written) == ("resolved", True)
        assert await conn.fetchval("SELECT name FROM public.item") == "mine"

        await conn.execute("UPDATE peersync.conflict SET state = 'open' WHERE id = $1", number)
        await conn.execute("UPDATE public.item SET name = 'newer' WHERE id = 1")
        with pytest.raises(RowMoved):
            await resolve(conn, number, choice="take", values={}, force=False, by="me")
    finally:
        await conn.close()


async def test_a_truncate_that_was_not_taken_is_closed(make_database: MakeDatabase) -> None:
    conn = await connect(make_database(18, migrated=True))
    try:
        await conn.execute("CREATE TABLE public.item (id int PRIMARY KEY, name text)")
        number = await made_by_a_return(conn, None)
        await conn.execute(
            "UPDATE peersync.conflict SET key = NULL, in_op = 'T' WHERE id = $1", number
        )
        with pytest.raises(BadRequest, match="no row") as refused:
            await resolve(conn, number, choice="take", values={}, force=False, by="me")
        assert f"conflicts resolve {number} --keep" in (refused.value.hint or "")
        settled = await resolve(conn, number, choice="keep", values={}, force=False, by="me")
        assert settled.state == "resolved"
    finally:
        await conn.close()
