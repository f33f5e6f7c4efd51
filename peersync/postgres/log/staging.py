"""Where incoming changes wait inside the session that applies them.

Owns the temporary tables of that session, how rows get into them, and what makes one change a
row of them: the last one of each key, and nothing from before a TRUNCATE. Python holds none of
it: rows pass from the wire to COPY, the rest is SQL.

The statements are here and not in `sql/queries`, because the tables exist in a session only.
Keys compare by their bytes (COLLATE "C"): a key is equal or it is not, and sorting by a
language costs ten times as much. Values are kept out of line and uncompressed: they live for
one transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import msgspec

from peersync.core.errors import ProtocolError
from peersync.core.names import TableName, quote_literal
from peersync.core.order.change import Transaction
from peersync.core.order.plan import Run
from peersync.postgres.log.members import encode_vector
from peersync.postgres.log.refused import CREATE as CREATE_REFUSED
from peersync.wire.feed import COLUMNS, TransactionHead

IN: Final = "peersync_in"
AGAIN: Final = "peersync_again"
FRAME: Final = "peersync_frame"
ANALYZE_FROM: Final = 2_000  # rows; below, the planner's guess from the number of pages will do

_LOST_S: Final = 1.0  # the driver itself says it sooner, where it notices

# A number of a row costs more than the row where each is fetched by itself. A time that came over
# the wire is read where it is kept, which few runs do: to read it is the dearest part of a COPY.
_CHANGES: Final = """(
    n bigint GENERATED ALWAYS AS IDENTITY (CACHE 1000), origin bigint, position bigint,
    ordinal bigint, at text, shape bigint, op "char", key text COLLATE "C",
    image text COLLATE "C", old text
)"""
_PLAIN: Final = "; ".join(
    f"ALTER TABLE {{0}} ALTER {column} SET STORAGE EXTERNAL, ALTER {column} SET STATISTICS {target}"
    for column, target in (("image", 0), ("old", 0), ("key", 10))
)
CREATE: Final = ";\n".join(
    [
        f"CREATE TEMP TABLE {IN} {_CHANGES}",
        f"CREATE TEMP TABLE {AGAIN} {_CHANGES}",
        f"CREATE TEMP TABLE {FRAME} {_CHANGES}",
        *(_PLAIN.format(table) for table in (IN, AGAIN, FRAME)),
        """CREATE TEMP TABLE peersync_tx (
    origin bigint, position bigint, hlc bigint, kind "char", changes int, at timestamptz,
    seen jsonb, info jsonb)""",
        """CREATE TEMP TABLE peersync_kept (
    origin bigint, position bigint, ordinal bigint, hlc bigint, tbl int, key text COLLATE "C",
    op "char", shape bigint)""",
        """CREATE TEMP TABLE peersync_clash (
    n bigint, key text COLLATE "C", origin bigint, position bigint, ordinal bigint, hlc bigint,
    op "char", shape bigint, kept_wins boolean)""",
        CREATE_REFUSED,
    ]
)

# ON COMMIT DELETE ROWS would cut every table and its TOAST at each commit: 10 ms for one row.
STAGES: Final = (IN, "peersync_tx", AGAIN, "peersync_kept", "peersync_clash")

# Prepared once: their plans are the same for one row and for a million.
PREPARED: Final = {
    "put_transactions": """
INSERT INTO peersync_tx
SELECT $1::bigint, w.position, w.hlc, w.kind::"char", w.changes, w.at::timestamptz,
       $7::jsonb -> w.seen, $8::jsonb -> w.position::text
  FROM unnest($2::text::bigint[], $3::text::bigint[], $4::text::text[], $5::text::int[],
              ARRAY(SELECT json_array_elements_text($6::json)), $9::text::int[])
       AS w (position, hlc, kind, changes, at, seen)""",
    **{
        f"survey_{table}": f"""
SELECT i.shape, count(*) AS changes, min(i.n) AS low, max(i.n) AS high,
       min(i.origin) AS origin, max(i.origin) AS other,
       min(i.position) AS first, max(i.position) AS last,
       max(i.n) FILTER (WHERE i.op = 'T') AS truncated,
       count(*) FILTER (WHERE i.op = 'D') AS deletes,
       count(*) FILTER (WHERE i.op IN ('I', 'U')) AS writes,
       count(*) FILTER (WHERE i.op = 'X') AS unbuilt,
       count(*) FILTER (WHERE i.op NOT IN ('I', 'U', 'D', 'T', 'X')) AS strange,
       count(*) FILTER (WHERE i.op = 'U' AND i.key IS NULL) AS pairs,
       count(*) FILTER (WHERE i.key IS NULL) AS keyless
  FROM {table} AS i GROUP BY i.shape"""
        for table in (IN, AGAIN)
    },
}


@dataclass(frozen=True)
class Group:
    """The staged changes of one shape. `truncated`: place of its last TRUNCATE.

    `origin` to `other` and `first` to `last` are the ranges of origins and positions.
    """

    shape: int
    changes: int
    low: int
    high: int
    origin: int
    other: int
    first: int
    last: int
    truncated: int | None
    deletes: int
    writes: int
    unbuilt: int
    strange: int
    pairs: int
    keyless: int


async def copy_in(conn: asyncpg.Connection, table: str, rows: AsyncIterable[bytes]) -> int:
    """Rows of a feed as they came; gives how many.

    Where the server goes while it was too slow to read, the driver waits for it for ever: it is
    told to stop waiting a moment after the connection is lost.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as limit:

            def give_up(_: object) -> None:
                with suppress(RuntimeError):  # the COPY has ended meanwhile
                    limit.reschedule(loop.time() + _LOST_S)

            conn.add_termination_listener(give_up)
            try:
                status: str = await conn.copy_to_table(
                    table, source=rows, columns=list(COLUMNS), format="text"
                )
            finally:
                conn.remove_termination_listener(give_up)
    except TimeoutError as error:
        if not limit.expired():
            raise  # of who sends the rows
        raise asyncpg.ConnectionDoesNotExistError("the connection was lost in a COPY") from error
    return int(status.rpartition(" ")[2])


async def take_from_frame(conn: asyncpg.Connection, origin: int, first: int, last: int) -> int:
    """One run of a frame that has several."""
    listed = ", ".join(COLUMNS)
    status: str = await conn.execute(
        f"INSERT INTO {IN} ({listed}) SELECT {listed} FROM {FRAME} "
        f"WHERE origin = {origin} AND position BETWEEN {first} AND {last} ORDER BY n"
    )
    return int(status.rpartition(" ")[2])


def transaction_rows(
    transactions: Sequence[Transaction], heads: Mapping[tuple[int, int], TransactionHead]
) -> tuple[Any, ...]:
    """The heads of a run, for their versions and what each had seen: put_transactions' $1 to $9.

    Arrays as texts: the driver looks at each element of an array again and again.
    """
    seens: dict[int, tuple[int, str]] = {}  # the same dict many times over: encoded once
    for t in transactions:
        if id(t.seen) not in seens:
            seens[id(t.seen)] = (len(seens), encode_vector(t.seen))
    told = [heads[t.origin, t.position] for t in transactions]
    return (
        transactions[0].origin,
        _array([t.position for t in transactions]),
        _array([t.hlc for t in transactions]),
        "{" + ",".join([t.kind for t in transactions]) + "}",
        _array([t.changes for t in transactions]),
        _json([head.at for head in told]),
        "[" + ",".join([text for _, text in seens.values()]) + "]",
        _json({str(head.position): head.info for head in told if head.info is not None}),
        _array([seens[id(t.seen)][0] for t in transactions]),
    )


def check(groups: Collection[Group], shapes: Collection[int], run: Run) -> None:
    """ProtocolError unless all that is staged was announced, and all that was announced is."""
    staged = sum(group.changes for group in groups)
    if staged != run.changes:
        raise ProtocolError(f"a peer announced {run.changes} changes and sent {staged}")
    for group in groups:
        if group.shape not in shapes or group.strange:
            raise ProtocolError(f"a peer sent changes that nothing describes: shape {group.shape}")
        if (group.origin, group.other) != (run.origin, run.origin) or (
            group.first < run.first or group.last > run.last
        ):
            raise ProtocolError("a peer sent changes of a transaction that it did not announce")


def shapes_sql(tables: Mapping[int, tuple[int, TableName]]) -> str:
    """(shape, tbl, schema_name, table_name) as a FROM item: there are few."""
    rows = ", ".join(
        f"({shape}::bigint, {tbl}, {quote_literal(name.schema)}, {quote_literal(name.name)})"
        for shape, (tbl, name) in tables.items()
    )
    return f"(VALUES {rows}) AS s (shape, tbl, schema_name, table_name)"


def compact_sql(shapes: str, groups: Collection[Group]) -> list[str]:
    """Statements that leave one change a row: the last, and none from before a TRUNCATE."""
    found = []
    if any(group.truncated is not None for group in groups):
        found.append(
            f"DELETE FROM {IN} AS i USING {shapes}, (SELECT s.tbl, max(i.n) AS n FROM {IN} AS i "
            f"JOIN {shapes} USING (shape) WHERE i.op = 'T' GROUP BY s.tbl) AS t "
            "WHERE s.shape = i.shape AND t.tbl = s.tbl AND i.n < t.n"
        )
    if sum(group.changes - group.keyless for group in groups) > 1:
        found.append(
            f"DELETE FROM {IN} AS i USING {shapes}, (SELECT s.tbl, i.key, max(i.n) AS n "
            f"FROM {IN} AS i JOIN {shapes} USING (shape) WHERE i.key IS NOT NULL "
            "GROUP BY s.tbl, i.key HAVING count(*) > 1) AS d "
            "WHERE s.shape = i.shape AND s.tbl = d.tbl AND i.key = d.key AND i.n < d.n"
        )
    keyless = [group for group in groups if group.keyless]
    if any(group.pairs for group in keyless):
        found += [
            f"INSERT INTO {IN} (origin, position, ordinal, at, shape, op, image) "
            f"SELECT origin, position, ordinal, at, shape, 'D', old FROM {IN} "
            "WHERE op = 'U' AND key IS NULL AND old IS NOT NULL",
            f"UPDATE {IN} SET op = 'I', old = NULL WHERE op = 'U' AND key IS NULL",
        ]
    if keyless:
        nth = (
            f"(SELECT n, shape, op, image, row_number() OVER "
            f"(PARTITION BY shape, op, image ORDER BY n) AS nth FROM {IN} "
            "WHERE key IS NULL AND op IN ('I', 'D'))"
        )
        found.append(
            f"DELETE FROM {IN} WHERE n IN (SELECT unnest(ARRAY[a.n, d.n]) FROM {nth} AS a "
            f"JOIN {nth} AS d ON a.shape = d.shape AND a.nth = d.nth "
            "AND a.image = d.image WHERE a.op = 'I' AND d.op = 'D')"
        )
    return found


def _array(numbers: Sequence[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
