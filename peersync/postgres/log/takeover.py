"""What the final transaction of a full sync does about the log of the database that it changes.

Rows with changes that the source has not seen are told apart from all others, so that they stay
as they are. And where this database joins a group, it takes over, together with the rows, all
that its source knows: members, log, clock. Both only make sense inside that transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg

from peersync.core.errors import DatabaseError
from peersync.core.names import TableName, quote_ident
from peersync.postgres.load import TableLoad
from peersync.postgres.log.logcopy import LogStage
from peersync.postgres.log.members import encode_vector
from peersync.postgres.log.oneway import refuse_rows_of
from peersync.postgres.log.reissue import Reissue, Unsent, fields_type
from peersync.postgres.sqlfiles import queries
from peersync.wire.messages import Baseline, GroupBaseline

_SQL: Final = queries("baseline")
Keys = dict[TableName, list[dict[str, str]]]


def refuse_strangers(
    connection: psycopg.Connection, baseline: Baseline, log: LogStage | None
) -> bool:
    """Whether this database has a log, so that it may have unsent changes.

    Raises DatabaseError where rows of somebody else's would get in without any log of them: the
    other members would never see them.
    """
    row = connection.execute(_SQL["state"].encode()).fetchone()
    if row is None:
        return False
    group, state = row
    theirs = baseline.group.group if baseline.group else None
    if state == "joining" and log is not None:
        return True
    if state == "joining" or theirs != group:
        raise DatabaseError(
            "this database takes part in periodic sync, and the source is no member of its group",
            detail="The other members would not see what a full sync changes here.",
            hint="Join the two: peersync merge PEER. Or leave the group first: peersync leave",
        )
    return True


def refuse_one_way_source(baseline: Baseline) -> None:
    """BadRequest where the source has become one-way since the plan was made."""
    group = baseline.group
    source = next((m for m in group.members if m.origin == group.origin), None) if group else None
    if source is not None:
        refuse_rows_of(source.node_name, source.direction)


def unsent_keys(connection: psycopg.Connection, vector: Mapping[int, int]) -> Keys:
    """The keys, as {column: text}, of rows with changes that a vector does not cover.

    Raises DatabaseError where such a change can't be told by keys: a TRUNCATE, or a deleted row
    of a table without a key.
    """
    cursor = psycopg.RawCursor(connection)
    rows = cursor.execute(_SQL["unsent_state"], (encode_vector(vector),)).fetchall()
    return _by_table(connection, [(TableName(r[0], r[1]), r[2], r[3], r[4]) for r in rows])


def forget_withheld(
    connection: psycopg.Connection, loads: Sequence[TableLoad], *, mirror: bool
) -> None:
    """What a database that only receives has changed gives way to the rows that are written."""
    oids = [load.table.oid for load in loads]
    psycopg.RawCursor(connection).execute(_SQL["forget_withheld"], (oids, mirror))


def reissued_keys(
    connection: psycopg.Connection, reissue: Reissue, loads: Sequence[TableLoad]
) -> Keys:
    """The same where this database joins: of what it has changed, and will send as new."""
    reissue.collect()
    if reissue.returns:
        reissue.decide(loads)
    return _by_table(connection, reissue.unsent())


def _by_table(connection: psycopg.Connection, unsent: Unsent) -> Keys:
    found: Keys = {}
    for table, op, columns, keys in unsent:
        if op == "T" or (not columns and op != "I"):
            raise _not_by_key(table, op)
        if columns:
            found.setdefault(table, []).extend(_parse(connection, columns, keys))
    return found


def of_relations(
    connection: psycopg.Connection, keys: Keys, loads: Sequence[TableLoad]
) -> dict[TableName, list[tuple[str, ...]]]:
    """The keys by the relations that a full sync writes, which are partitions, not their root."""
    oids = [load.table.oid for load in loads]
    roots = psycopg.RawCursor(connection).execute(_SQL["roots"], (oids,)).fetchall()
    named = {oid: TableName(schema, name) for oid, schema, name in roots}
    found = {}
    for load in loads:
        mine = keys.get(named.get(load.table.oid, load.table.name))
        if mine and load.loaded and not load.created:
            key = load.merge.key
            found[load.table.name] = merge_key(mine, key.columns if key else ())
    return found


def _not_by_key(table: TableName, op: str) -> DatabaseError:
    what = "was truncated" if op == "T" else "has no key, and rows of it were changed"
    return DatabaseError(
        f"table {table} {what} here, and the source has not seen that",
        hint="Nothing was changed. Let periodic sync send it first (peersync sync now --wait); "
        "while joining: start again. Of a database that only receives, nothing is sent: "
        "--source-wins",
    )


def _parse(
    connection: psycopg.Connection, columns: list[str], keys: list[str]
) -> list[dict[str, str]]:
    name = fields_type(connection, len(columns))
    rows = psycopg.RawCursor(connection).execute(
        f"SELECT (k.r).* FROM (SELECT key::{name} AS r"
        " FROM pg_catalog.unnest($1::text[]) AS key OFFSET 0) AS k",
        (keys,),
    )
    return [dict(zip(columns, row, strict=True)) for row in rows]


def join_group(connection: psycopg.Connection, group: GroupBaseline, stage: LogStage) -> None:
    """Makes this database, whose rows are now the source's, a member that knows what they have."""
    shapes, transactions = stage.table("shape").sql, stage.table("transaction").sql
    for statement in (
        _TAKE_SHAPES.format(shapes=shapes),
        _TAKE_TABLES.format(shapes=shapes),
        _TAKE_TRANSACTIONS.format(transactions=transactions),
        _TAKE_ENTRIES.format(shapes=shapes, entries=stage.table("entry").sql),
        _TAKE_BASES.format(bases=stage.table("base").sql),
        _TAKE_STRATEGIES.format(strategies=stage.table("strategy").sql),
    ):
        connection.execute(statement.encode())
    cursor: psycopg.RawCursor[Any] = psycopg.RawCursor(connection)
    for m in group.members:
        cursor.execute(
            _SQL["take_member"],
            (
                m.origin,
                m.node_id,
                m.node_name,
                m.state,
                m.applied,
                m.applied_hlc,
                m.floor,
                encode_vector(m.seen),
                m.sponsor,
                m.joined_at,
                m.expired_by,
                m.expired_at,
                m.direction,
            ),
        )
    cursor.execute(_SQL["become_member"], (group.group, group.hlc))
    if cursor.rowcount != 1:
        raise DatabaseError(
            "this database is not joining any more",
            hint="Nothing was changed. Start again: peersync join PEER",
        )
    cursor.execute(_SQL["settle_waiting"])
    # what is sent again was not caught by a trigger, which would have told
    cursor.execute(_SQL["tell_agent"])


def merge_key(keys: list[dict[str, str]], columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The keys in the order of the columns by which a full sync matches rows.

    Raises DatabaseError where it matches by others than the log does.
    """
    if keys and set(keys[0]) != set(columns):
        listed = ", ".join(quote_ident(name) for name in keys[0])
        raise DatabaseError(
            f"its rows have unsent changes, which are told by ({listed}), and this sync matches "
            f"rows by ({', '.join(quote_ident(name) for name in columns)})"
        )
    return [tuple(key[name] for name in columns) for key in keys]


_TAKE_SHAPES: Final = """
INSERT INTO peersync.shape (shape, schema_name, table_name, columns, types, key)
SELECT s.shape, s.schema_name, s.table_name, s.columns, s.types, s.key
  FROM {shapes} AS s
 WHERE NOT EXISTS (SELECT FROM peersync.shape AS h WHERE h.shape = s.shape)
"""
_TAKE_TABLES: Final = """
INSERT INTO peersync.synced_table (schema_name, table_name, state, reason)
SELECT DISTINCT s.schema_name, s.table_name, 'unknown', 'it is not captured here'
  FROM {shapes} AS s
    ON CONFLICT (schema_name, table_name) DO NOTHING
"""
_TAKE_TRANSACTIONS: Final = """
INSERT INTO peersync.transaction (origin, position, hlc, kind, changes, bytes, at, seen, info)
SELECT origin, position, hlc, kind, changes, bytes, at, seen, info FROM {transactions}
    ON CONFLICT (origin, position) DO NOTHING
"""
_TAKE_ENTRIES: Final = """
INSERT INTO peersync.relayed (origin, position, ordinal, at, tbl, shape, op, key, image, old)
SELECT e.origin, e.position, e.ordinal, e.at, t.tbl, e.shape, e.op, e.key, e.image, e.old
  FROM {entries} AS e
  JOIN (SELECT DISTINCT ON (shape) shape, schema_name, table_name FROM {shapes}) AS s USING (shape)
  JOIN peersync.synced_table AS t USING (schema_name, table_name)
    ON CONFLICT (origin, position, ordinal) DO NOTHING
"""
# Without them the next conflict of such a row would be folded from another row than elsewhere.
_TAKE_BASES: Final = """
INSERT INTO peersync.row_base (tbl, key, shape, image)
SELECT t.tbl, b.key, b.shape, b.image
  FROM {bases} AS b JOIN peersync.synced_table AS t USING (schema_name, table_name)
    ON CONFLICT (tbl, hashtextextended(key, 0), hashtextextended(key, 1))
    DO UPDATE SET shape = excluded.shape, image = excluded.image
"""
# Different ones give different rows. The capture that a strategy needs is made right after.
_TAKE_STRATEGIES: Final = """
UPDATE peersync.synced_table AS t SET strategy = s.strategy
  FROM {strategies} AS s
 WHERE (s.schema_name, s.table_name) = (t.schema_name, t.table_name)
"""
