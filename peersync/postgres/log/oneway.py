"""One-way databases: one that only receives, and one that only gives.

Rows go one way, words go both ways: positions, heartbeats and membership cross every link, so all
that is decided from what members have said (what is stable, who is away) is decided as ever. A
database that only receives keeps its own changes out of the log; here they give way to whatever
comes in for their row, and are kept as conflicts (`source_wins`). One that only gives applies
transactions without their changes, and relays none (docs/decisions/0013).

Owns how a database comes to be one and says so, and what becomes of the changes it withholds. A
way back is no matter of this module: its rows are not the others' any more, so it is taken in
anew (rebaseline).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import asyncpg

from peersync.core.errors import BadRequest
from peersync.core.words import counted
from peersync.postgres.log.members import Replica, read_members, read_replica
from peersync.postgres.log.publish import announce
from peersync.postgres.sqlfiles import queries
from peersync.wire.messages import Direction

_SQL: Final = queries("members")
_BASELINE: Final = queries("baseline")
DIRECTIONS: Final = ("both", "receive", "give")
WORDS: Final = {
    "receive": "it only receives: what is changed here is given to nobody",
    "give": "it only gives: the changes of others are not applied here",
}

_LAST: Final = "SELECT coalesce(max(id), 0) FROM peersync.withheld"
_WHAT: Final = """CASE {0} WHEN 'I' THEN 'inserted' WHEN 'U' THEN 'updated'
                   WHEN 'D' THEN 'deleted' ELSE 'truncated away' END"""
# What came for a row last, a TRUNCATE for all of its table; what is withheld of those rows goes.
_GIVE_WAY: Final = f"""
WITH came AS MATERIALIZED (
    SELECT DISTINCT ON (s.tbl, i.key) s.tbl, s.schema_name, s.table_name, i.key, i.n, i.origin,
           i.position, i.ordinal, i.shape, i.op, i.image
      FROM {{table}} AS i JOIN {{shapes}} USING (shape)
     WHERE i.key IS NOT NULL AND i.op <> 'F' OR i.op = 'T'
     ORDER BY s.tbl, i.key, i.n DESC
), gone AS (
    DELETE FROM peersync.withheld AS w USING (SELECT DISTINCT tbl, key FROM came) AS c
     WHERE w.tbl = c.tbl
       AND (c.key IS NULL OR w.key = c.key
            AND pg_catalog.hashtextextended(w.key, 0) = pg_catalog.hashtextextended(c.key, 0))
    RETURNING w.*
), ours AS (
    SELECT DISTINCT ON (g.tbl, g.key) g.* FROM gone AS g
     WHERE g.key IS NOT NULL ORDER BY g.tbl, g.key, g.id DESC
), told AS (
    INSERT INTO peersync.conflict (
           tbl, schema_name, table_name, key, kind, strategy, winner, reason,
           kept_origin, kept_hlc, kept_op, kept_shape, kept_image,
           in_origin, in_position, in_ordinal, in_hlc, in_op, in_shape, in_image)
    SELECT i.tbl, i.schema_name, i.table_name, o.key,
           CASE WHEN i.op IN ('D', 'T') THEN 'delete_origin_differs'
                WHEN o.op = 'D' AND i.op = 'I' THEN 'insert_deleted'
                WHEN o.op = 'D' THEN 'update_missing'
                WHEN i.op = 'I' THEN 'insert_exists' ELSE 'update_origin_differs' END,
           'source_wins', 'incoming',
           pg_catalog.format('%s %s the row, %s %s it; %s''s stands because this database '
                             'only receives', own.node_name, {_WHAT.format("o.op")},
                             inn.node_name, {_WHAT.format("i.op")}, inn.node_name),
           r.origin, peersync.micros(o.at), o.op, o.shape,
           CASE WHEN o.op <> 'D' THEN o.image END,
           i.origin, i.position, i.ordinal,
           coalesce(t.hlc, (SELECT k.hlc FROM peersync.transaction AS k
                             WHERE k.origin = i.origin AND k.position = i.position), 0),
           i.op, i.shape, i.image
      FROM ours AS o
     CROSS JOIN LATERAL (SELECT c.* FROM came AS c
                          WHERE c.tbl = o.tbl AND (c.key = o.key OR c.key IS NULL)
                          ORDER BY c.key IS NULL LIMIT 1) AS i
     CROSS JOIN peersync.replica AS r
      JOIN peersync.member AS own ON own.origin = r.origin
      LEFT JOIN peersync.member AS inn ON inn.origin = i.origin
      LEFT JOIN peersync_tx AS t ON t.origin = i.origin AND t.position = i.position
     WHERE NOT (o.op = 'D' AND i.op IN ('D', 'T'))
       AND NOT coalesce(o.shape = i.shape AND o.op IN ('I', 'U') AND i.op IN ('I', 'U')
                        AND o.image COLLATE "C" = i.image, false)
    RETURNING id)
SELECT (SELECT count(*) FROM told) AS conflicts, (SELECT coalesce(max(id), 0) FROM gone) AS last"""


async def read_direction(conn: asyncpg.Connection) -> Direction | None:
    """None where this database takes part in nothing; it may have no schema yet."""
    if not await conn.fetchval("SELECT pg_catalog.to_regclass('peersync.replica')"):
        return None
    replica = await read_replica(conn)
    return None if replica is None else cast("Direction", replica.direction)


async def set_direction(conn: asyncpg.Connection, direction: str) -> Replica:
    """Makes this database one-way, from the next change on; what is committed is given before.

    Raises BadRequest where it is no active member, or one-way already in another way.
    """
    async with conn.transaction():
        replica = await read_replica(conn)
        if replica is None or replica.state != "active":
            raise BadRequest("this database is no active member of a group")
        if replica.direction == direction:
            return replica
        if replica.direction != "both":
            raise BadRequest(
                f"this database is one-way: {WORDS[replica.direction]}",
                detail="Its rows are not those of the others any more: they are taken anew first.",
                hint="peersync rebaseline PEER --both-ways",
            )
        if direction == "give" and (waiting := await conn.fetchval(_BASELINE["waiting"])):
            raise BadRequest(
                f"{counted(waiting, 'change')} of others wait in quarantine here; nothing was "
                "changed",
                hint="peersync quarantine list, peersync tables list",
            )
        await _say(conn, replica.origin, direction)
        await conn.execute(_SQL["set_direction"], direction)
    changed = await read_replica(conn)
    assert changed is not None
    return changed


async def tell_direction(conn: asyncpg.Connection, replica: Replica) -> bool:
    """Says what this database does where the others were told otherwise; whether it was so."""
    members = await read_members(conn)
    told = next((m.direction for m in members if m.origin == replica.origin), "both")
    if told == replica.direction:
        return False
    async with conn.transaction():
        await _say(conn, replica.origin, replica.direction)
    return True


async def _say(conn: asyncpg.Connection, origin: int, direction: str) -> None:
    """A heartbeat with a word in it: nobody has to answer it."""
    await announce(conn, "b", {"direction": direction})
    await conn.execute(_SQL["note_direction"], origin, direction)


async def note_direction(
    conn: asyncpg.Connection, origin: int, info: Mapping[str, Any] | None
) -> None:
    """What a heartbeat says of its origin, inside the transaction that applies it."""
    direction = (info or {}).get("direction")
    if direction in DIRECTIONS:
        await conn.execute(_SQL["note_direction"], origin, direction)


def refuse_one_way(replica: Replica) -> None:
    """BadRequest where nobody can join from this database: its rows are not the group's."""
    if replica.direction != "both":
        raise BadRequest(
            "nobody can join from the source: its rows are not those of the others",
            detail=WORDS[replica.direction],
            hint="Join from another member.",
        )


def refuse_rows_of(source: str, direction: str) -> None:
    """BadRequest for rows that may be older than ours, or are the source's own business.

    The vector of a database that only gives claims what it was told of, and has none of it in its
    rows; one that only receives has rows which it gives to nobody.
    """
    if direction != "both":
        raise BadRequest(
            f"{source} only {direction}s: its rows are not those of the others, "
            "and would take the place of newer ones here",
            hint="Nothing was changed. Take the rows from another member. To take them all the "
            "same: --source-wins",
        )


async def last_withheld(conn: asyncpg.Connection) -> int:
    """The highest id of what is withheld; 0 for nothing."""
    found: int = await conn.fetchval(_LAST)
    return found


async def give_way(conn: asyncpg.Connection, table: str, shapes: str) -> tuple[int, int]:
    """What is withheld of the rows that are staged in `table` is told of, and forgotten.

    Gives (conflicts, the highest id of what was withheld). The heads of the transactions are
    staged; so is at least the last change of each row. Rows that are to be merged (`F`) come later.
    """
    row = await conn.fetchrow(_GIVE_WAY.format(table=table, shapes=shapes))
    return row["conflicts"], row["last"]
