"""What a returning member keeps of its own changes that nobody has fetched.

It comes back with the source's rows and a new origin. Each of its unsent changes is either made
again, as a change of now, or loses to what the source has. It may only win where that can be
known: where the source's log still has everything that this database had not seen, the version
decides, as in any conflict. Where the log was cut in between, an insert of a new row is made again
and everything else stays as the source has it: otherwise a row that all others have deleted would
come back everywhere. What loses is kept as an open conflict, with its image; what it wins over, as
a conflict that has ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import psycopg

from peersync.core.names import TableName, quote_ident, quote_literal
from peersync.postgres.load import TableLoad
from peersync.postgres.log.logcopy import LogStage
from peersync.postgres.log.members import encode_vector
from peersync.wire.messages import GroupBaseline

Unsent = list[tuple[TableName, str, list[str], list[str]]]  # table, op, key columns, keys


class Reissue:
    """One return, inside the final transaction: `collect`, `decide`, `unsent`, then `finish`."""

    def __init__(
        self, connection: psycopg.Connection, group: GroupBaseline, stage: LogStage
    ) -> None:
        self._connection = connection
        self._group = group
        self._stage = stage

    def collect(self) -> None:
        """Gathers the unsent changes, the last of each row."""
        cuts = quote_literal(encode_vector({m.origin: m.applied for m in self._group.members}))
        self._run(_COLLECT.format(cuts=cuts))
        self._run(_NOT_BY_KEY)

    @property
    def returns(self) -> bool:
        """Whether this database was a member before, under another origin."""
        return self._connection.execute(_EARLIER.encode()).fetchone() == (True,)

    def decide(self, loads: Iterable[TableLoad]) -> None:
        """Says which of them lose. Before any row is written.

        A change that was sent before this database was set back is there already: it is known by
        the moment at which it was captured, which no backup sets back. Where the source's log does
        not keep it, one that would count twice is left to a person.
        """
        entries, shapes = self._stage.table("entry").sql, self._stage.table("shape").sql
        self._run(_ALREADY_THERE.format(entries=entries, shapes=shapes))
        theirs = {m.origin: m.applied_hlc for m in self._group.members}
        cuts = quote_literal(encode_vector({m.origin: m.applied for m in self._group.members}))
        self._run(_UNSURE.format(cuts=cuts, clocks=quote_literal(encode_vector(theirs))))
        self._run(_INSERTED.format(entries=entries))
        floors = quote_literal(encode_vector({m.origin: m.floor for m in self._group.members}))
        whole = self._connection.execute(_WHOLE.format(floors=floors).encode()).fetchone()
        if whole == (True,):
            transactions = self._stage.table("transaction").sql
            self._run(
                _LOSE_TO_NEWER.format(entries=entries, transactions=transactions, shapes=shapes)
            )
            return
        self._run("UPDATE peersync_reissue SET loses = true WHERE op <> 'I'")
        for load in loads:
            key = load.merge.key if load.loaded and not load.created else None
            if key is not None:
                columns = ", ".join(f"s.{quote_ident(column)}" for column in key.columns)
                logged = psycopg.RawCursor(self._connection).execute(_KEY_SQL, (load.table.oid,))
                self._run(
                    _LOSE_TO_ROWS.format(
                        stage=load.stage.sql,
                        schema=quote_literal(load.table.name.schema),
                        name=quote_literal(load.table.name.name),
                        key=(logged.fetchone() or (None,))[0] or f"ROW({columns})::text",
                    )
                )

    def unsent(self) -> Unsent:
        """What is made again, in the form of the query `unsent_state`."""
        rows = self._connection.execute(_UNSENT.encode()).fetchall()
        return [(TableName(r[0], r[1]), r[2], r[3], r[4]) for r in rows]

    def finish(self, *, mirrored: bool) -> None:
        """Forgets the earlier log, makes the winners changes of now, and keeps the losers.

        `mirrored`: rows without a key that only this database had are gone; those that will be
        sent as new are put back.
        """
        if mirrored:
            self._put_bags_back()
        losers = _KEEP_LOSERS.format(source=self._group.origin)
        for statement in (losers, _KEEP_BEATEN, *_FORGET, _MAKE_AGAIN):
            self._run(statement)

    def _put_bags_back(self) -> None:
        rows = self._connection.execute(_BAGS.encode()).fetchall()
        for table, shape, size, columns, values in rows:
            self._run(
                f"INSERT INTO {table} ({', '.join(columns)}) OVERRIDING SYSTEM VALUE "
                f"SELECT {', '.join(values)} FROM ("
                f"SELECT r.image::{fields_type(self._connection, size)} AS r"
                f" FROM peersync_reissue AS r WHERE r.shape = {int(shape)}"
                " AND r.key IS NULL AND NOT r.loses OFFSET 0) AS f"
            )

    def _run(self, statement: str) -> None:
        self._connection.execute(statement.encode())


def fields_type(connection: psycopg.Connection, size: int) -> str:
    """The type that record literals of so many fields are read with, made where it is missing."""
    name = f"peersync.fields_{size}"
    if connection.execute("SELECT to_regtype(%s)", (name,)).fetchone() == (None,):
        fields = ", ".join(f"c{number} text" for number in range(1, size + 1))
        connection.execute(f"CREATE TYPE {name} AS ({fields})".encode())
    return name


# Tables without a key, as they are here, with what a row of each shape is written by.
_BAGS: Final = """
SELECT pg_catalog.format('%I.%I', h.schema_name, h.table_name), h.shape,
       pg_catalog.cardinality(h.columns), w.columns, w.fields
  FROM (SELECT DISTINCT shape FROM peersync_reissue
         WHERE key IS NULL AND NOT loses AND image IS NOT NULL) AS r
 CROSS JOIN LATERAL (SELECT * FROM peersync.shape AS s WHERE s.shape = r.shape LIMIT 1) AS h
 CROSS JOIN LATERAL (
    SELECT pg_catalog.array_agg(pg_catalog.quote_ident(u.name) ORDER BY u.n) AS columns,
           pg_catalog.array_agg(pg_catalog.format('(f.r).c%s::%s', u.n,
               pg_catalog.format_type(a.atttypid, a.atttypmod)) ORDER BY u.n) AS fields
      FROM pg_catalog.unnest(h.columns) WITH ORDINALITY AS u (name, n)
      JOIN pg_catalog.pg_attribute AS a
        ON a.attrelid = pg_catalog.to_regclass(
               pg_catalog.format('%I.%I', h.schema_name, h.table_name))
       AND a.attname = u.name AND NOT a.attisdropped AND a.attgenerated = '') AS w
"""
# A database that a peer contradicted was set back as a whole machine, or is a copy of one that
# runs: it may have given numbers that the others know for other transactions.
_COLLECT: Final = """
CREATE TEMP TABLE peersync_reissue ON COMMIT DROP AS
SELECT DISTINCT ON (c.tbl, coalesce(c.key, c.id::text))
       c.*, t.schema_name, t.table_name, coalesce(t.strategy, 'newer_wins') AS strategy,
       pg_catalog.first_value(c.op) OVER row_from_first AS first_op,
       pg_catalog.first_value(c.at) OVER row_from_first AS first_at,
       c.unsure AS loses, NULL::bigint AS rival,
       NULL::bigint AS rival_position, NULL::bigint AS rival_hlc, NULL::"char" AS rival_op,
       NULL::bigint AS rival_shape, NULL::text AS rival_image
  FROM (SELECT c.id, x.hlc, c.at, c.tbl, c.shape, c.op, c.key, c.image, c.old,
               x.position <= cut.position AS unsure
          FROM peersync.transaction AS x JOIN peersync.change AS c ON c.xid = x.xid
         CROSS JOIN LATERAL (
            SELECT coalesce(({cuts}::jsonb ->> x.origin::text)::bigint, 0) AS position) AS cut
         WHERE x.position > cut.position
            OR EXISTS (SELECT FROM peersync.member AS m
                        WHERE m.origin = x.origin AND m.info ? 'contradicted')
        UNION ALL
        SELECT c.id, peersync.micros(c.at), c.at, c.tbl, c.shape, c.op, c.key, c.image, c.old,
               false
          FROM peersync.change AS c
         WHERE NOT pg_catalog.pg_visible_in_snapshot(
                   c.xid, (SELECT published FROM peersync.replica))
        UNION ALL
        SELECT w.id, peersync.micros(w.at), w.at, w.tbl, w.shape, w.op, w.key, w.image, w.old,
               false
          FROM peersync.withheld AS w) AS c
  JOIN peersync.synced_table AS t USING (tbl)
WINDOW row_from_first AS (PARTITION BY c.tbl, coalesce(c.key, c.id::text) ORDER BY c.id)
 ORDER BY c.tbl, coalesce(c.key, c.id::text), c.id DESC
"""
# A TRUNCATE, or a row of a table without a key that is gone: the source has those rows again.
_NOT_BY_KEY: Final = """
UPDATE peersync_reissue SET loses = true WHERE op = 'T' OR (key IS NULL AND op <> 'I')
"""
_EARLIER: Final = """
SELECT EXISTS (SELECT FROM peersync.member AS m, peersync.replica AS r
                WHERE m.node_id = r.node_id AND m.origin <> r.origin)
"""
# Nothing that this database had not seen has left the source's log.
_WHOLE: Final = """
SELECT coalesce(pg_catalog.bool_and(f.value::text::bigint <= coalesce(m.applied, 0)), true)
  FROM pg_catalog.jsonb_each({floors}::jsonb) AS f
  LEFT JOIN peersync.member AS m ON m.origin = f.key::bigint
 WHERE NOT EXISTS (SELECT FROM peersync.replica AS r, peersync.member AS own
                    WHERE own.node_id = r.node_id AND own.origin = f.key::bigint)
"""
_ALREADY_THERE: Final = """
DELETE FROM peersync_reissue AS r
 USING {entries} AS e
  JOIN (SELECT DISTINCT ON (shape) shape, schema_name, table_name FROM {shapes}) AS s USING (shape)
 WHERE (s.schema_name, s.table_name) = (r.schema_name, r.table_name)
   AND e.key IS NOT DISTINCT FROM r.key AND e.at = r.at AND e.op = r.op
"""
# The source has more of this database than it has itself, so it was set back: what it captured by
# the time of the last that the source has may be among that.
_UNSURE: Final = """
UPDATE peersync_reissue AS r SET loses = true, unsure = true
 WHERE (r.key IS NULL OR r.strategy NOT IN ('newer_wins', 'manual'))
   AND peersync.micros(r.at) <= (
       SELECT max(({clocks}::jsonb ->> m.origin::text)::bigint)
         FROM peersync.member AS m JOIN peersync.replica AS own USING (node_id)
        WHERE m.applied < ({cuts}::jsonb ->> m.origin::text)::bigint)
"""
# An insert that was updated since is an insert: nobody has the row that the update would need.
_INSERTED: Final = """
UPDATE peersync_reissue AS r SET op = 'I', old = NULL
 WHERE r.first_op = 'I' AND r.op = 'U' AND r.key IS NOT NULL
   AND NOT EXISTS (SELECT FROM {entries} AS e WHERE e.key = r.key AND e.at = r.first_at)
"""
# The newest change that the others have made of the row, or a TRUNCATE, if that is newer. What a
# strategy would make of several changes is not known here: then a person decides.
_LOSE_TO_NEWER: Final = """
WITH theirs AS (
    SELECT s.schema_name, s.table_name, e.key, e.origin, e.position, e.ordinal, t.hlc, e.op,
           e.shape, e.image
      FROM {entries} AS e
      JOIN {transactions} AS t USING (origin, position)
      JOIN (SELECT DISTINCT ON (shape) shape, schema_name, table_name FROM {shapes}) AS s
           USING (shape)
      LEFT JOIN peersync.member AS m ON m.origin = e.origin
     WHERE e.position > coalesce(m.applied, 0)),
rival AS (
    SELECT DISTINCT ON (both_made.id) both_made.*
      FROM (SELECT r.id, t.origin, t.position, t.ordinal, t.hlc, t.op, t.shape, t.image
              FROM peersync_reissue AS r
              JOIN theirs AS t USING (schema_name, table_name, key)
            UNION ALL
            SELECT r.id, t.origin, t.position, t.ordinal, t.hlc, t.op, t.shape, t.image
              FROM peersync_reissue AS r
              JOIN (SELECT * FROM theirs WHERE op = 'T') AS t USING (schema_name, table_name))
           AS both_made
     ORDER BY both_made.id, both_made.hlc DESC, both_made.origin DESC, both_made.ordinal DESC)
UPDATE peersync_reissue AS r
   SET loses = r.loses OR rival.hlc > r.hlc OR r.strategy NOT IN ('newer_wins', 'manual'),
       rival = rival.origin, rival_position = rival.position,
       rival_hlc = rival.hlc, rival_op = rival.op, rival_shape = rival.shape,
       rival_image = rival.image
  FROM rival WHERE rival.id = r.id
"""
_LOSE_TO_ROWS: Final = """
UPDATE peersync_reissue AS r SET loses = true
  FROM {stage} AS s
 WHERE r.schema_name = {schema} AND r.table_name = {name} AND r.key = {key}
"""
# As the log writes it.
_KEY_SQL: Final = "SELECT peersync.key_sql(peersync.capture_facts($1::bigint::oid), 's')"
_UNSENT: Final = """
SELECT r.schema_name, r.table_name, r.op::text, coalesce(h.key, '{}'), pg_catalog.array_agg(r.key)
  FROM peersync_reissue AS r
  LEFT JOIN LATERAL (SELECT key FROM peersync.shape AS s WHERE s.shape = r.shape LIMIT 1) AS h
         ON true
 WHERE NOT r.loses
 GROUP BY r.schema_name, r.table_name, r.op, h.key
"""
_KEEP_LOSERS: Final = """
INSERT INTO peersync.conflict
       (tbl, schema_name, table_name, key, kind, strategy, winner, reason, state,
        kept_origin, kept_position, kept_hlc, kept_op, kept_shape, kept_image,
        in_origin, in_position, in_ordinal, in_hlc, in_op, in_shape, in_image)
SELECT r.tbl, r.schema_name, r.table_name, r.key,
       CASE r.op WHEN 'I' THEN 'insert_exists' WHEN 'D' THEN 'delete_origin_differs'
                 ELSE 'update_origin_differs' END,
       'rebaseline', 'kept',
       CASE WHEN r.unsure
            THEN 'it may have been sent before this server was set back, or copied'
            WHEN r.op = 'T' OR r.key IS NULL
            THEN 'what it removed can''t be told apart from what the others have'
            WHEN r.rival IS NULL
            THEN 'this server was away too long to tell whose change is newer'
            WHEN r.rival_hlc <= r.hlc
            THEN 'both changed it, and ' || r.strategy || ' can''t merge what comes back'
            ELSE 'the change of the others is newer' END,
       'open', coalesce(r.rival, {source}), r.rival_position, r.rival_hlc, r.rival_op,
       r.rival_shape, r.rival_image,
       (SELECT origin FROM peersync.replica), 0, r.id, r.hlc, r.op, r.shape, r.image
  FROM peersync_reissue AS r WHERE r.loses
"""
_KEEP_BEATEN: Final = """
INSERT INTO peersync.conflict
       (tbl, schema_name, table_name, key, kind, strategy, winner, reason, state,
        kept_origin, kept_position, kept_hlc, kept_op, kept_shape, kept_image,
        in_origin, in_position, in_ordinal, in_hlc, in_op, in_shape, in_image)
SELECT r.tbl, r.schema_name, r.table_name, r.key,
       CASE r.op WHEN 'I' THEN 'insert_exists' WHEN 'D' THEN 'delete_origin_differs'
                 ELSE 'update_origin_differs' END,
       'rebaseline', 'incoming', 'the change of this server is newer',
       CASE r.strategy WHEN 'manual' THEN 'open' ELSE 'resolved' END, r.rival, r.rival_position,
       r.rival_hlc, r.rival_op, r.rival_shape, r.rival_image,
       (SELECT origin FROM peersync.replica), 0, r.id, r.hlc, r.op, r.shape, r.image
  FROM peersync_reissue AS r WHERE NOT r.loses AND r.rival IS NOT NULL
"""
_FORGET: Final = (
    "DELETE FROM peersync.change",
    "DELETE FROM peersync.transaction",
    "DELETE FROM peersync.relayed",
    "DELETE FROM peersync.withheld",
    "DELETE FROM peersync.row_base",
    "DELETE FROM peersync.member WHERE origin <> (SELECT origin FROM peersync.replica)",
)
_MAKE_AGAIN: Final = """
INSERT INTO peersync.change (at, tbl, shape, op, key, image, old)
SELECT r.at, r.tbl, r.shape, r.op, r.key, r.image, r.old
  FROM peersync_reissue AS r WHERE NOT r.loses ORDER BY r.id
"""
