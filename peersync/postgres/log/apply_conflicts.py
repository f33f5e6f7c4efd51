"""Which of two changes of a row the row is to have, for a whole run at once.

A change that comes in is in conflict with a kept one of another origin that it had not seen. The
one with the higher version wins on every node: what is decided here depends on versions only,
never on what arrived first. Only what lies above the run's least `seen` can be in conflict, so the
log is not searched by key: the window above it is read, in the order of its index.

Owns the statements that find such pairs, tell of them, and drop the losers. All of it is SQL. A
table's strategy is looked at for one thing only: `manual` leaves its conflicts open.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import asyncpg

from peersync.postgres.log.staging import AGAIN, ANALYZE_FROM, IN

_MAX = (1 << 63) - 1
_MOST_KEYS = 200_000  # staged rows; beyond, their keys are no hash table in memory

# A log that grows faster than it is analyzed must not be read whole: along its indexes only.
_METHODS = ("enable_hashjoin", "enable_mergejoin", "enable_seqscan")
_BY_INDEX = "; ".join(f"SET LOCAL {method} = off" for method in _METHODS)
_AS_USUAL = "; ".join(f"SET LOCAL {method} = on" for method in _METHODS)

_KEPT = f"""
INSERT INTO peersync_kept (origin, position, ordinal, hlc, tbl, key, op, shape)
SELECT k.origin, k.position, k.ordinal, k.hlc, k.tbl, k.key, k.op, k.shape
  FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS w (origin, after, upto)
 CROSS JOIN LATERAL (
       SELECT t.origin, t.position, c.id AS ordinal, t.hlc, c.tbl, c.key, c.op, c.shape
         FROM peersync.transaction AS t JOIN peersync.change AS c ON c.xid = t.xid
        WHERE t.origin = w.origin AND t.position > w.after AND t.position <= w.upto
        UNION ALL
       SELECT t.origin, t.position, r.ordinal, t.hlc, r.tbl, r.key, r.op, r.shape
         FROM peersync.transaction AS t
         JOIN peersync.relayed AS r ON r.origin = t.origin AND r.position = t.position
        WHERE t.origin = w.origin AND t.position > w.after AND t.position <= w.upto
          AND t.xid IS NULL) AS k
 WHERE k.tbl = ANY ($4::int[])
   AND (k.op = 'T' OR k.key IS NOT NULL AND (k.tbl = ANY ($5::int[]) OR $6
        OR k.key COLLATE "C" IN (SELECT i.key FROM {IN} AS i WHERE i.key IS NOT NULL)))"""

# A kept change without `seen` beside it (of a parked table's, long after) clashes if it is newer.
_CLASH = f"""
INSERT INTO peersync_clash
SELECT DISTINCT ON (c.n, c.key) c.n, c.key, c.origin, c.position, c.ordinal, c.hlc, c.op, c.shape,
       (c.hlc, c.origin, c.position, c.ordinal) > (t.hlc, c.in_origin, c.in_position, c.in_ordinal)
  FROM (SELECT i.n, i.key, i.origin AS in_origin, i.position AS in_position,
               i.ordinal AS in_ordinal,
               k.origin, k.position, k.ordinal, k.hlc, k.op, k.shape
          FROM {IN} AS i JOIN {{shapes}} USING (shape)
          JOIN peersync_kept AS k ON k.tbl = s.tbl AND k.key = i.key
         WHERE i.key IS NOT NULL AND k.op <> 'T'
         UNION ALL
        SELECT i.n, coalesce(i.key, k.key), i.origin, i.position, i.ordinal,
               k.origin, k.position, k.ordinal, k.hlc, k.op, k.shape
          FROM {IN} AS i JOIN {{shapes}} USING (shape)
          JOIN peersync_kept AS k ON k.tbl = s.tbl
         WHERE i.key IS NOT NULL AND k.op = 'T'
            OR i.op = 'T' AND k.op <> 'T' AND NOT EXISTS (
               SELECT FROM {IN} AS later JOIN {{others}} ON o.shape = later.shape
                WHERE o.tbl = k.tbl AND later.key = k.key)) AS c
  JOIN peersync_tx AS t ON t.origin = c.in_origin AND t.position = c.in_position
 WHERE c.origin <> c.in_origin
   AND CASE WHEN t.seen IS NULL THEN (c.hlc, c.origin) > (t.hlc, c.in_origin)
            ELSE c.position > coalesce((t.seen ->> c.origin::text)::bigint, 0) END
 ORDER BY c.n, c.key, c.hlc DESC, c.origin DESC, c.position DESC, c.ordinal DESC"""

_WHAT = """CASE {0} WHEN 'I' THEN 'inserted' WHEN 'U' THEN 'updated'
                   WHEN 'D' THEN 'deleted' ELSE 'truncated away' END"""
_RECORD = f"""
INSERT INTO peersync.conflict (
       tbl, schema_name, table_name, key, kind, strategy, winner, reason, state,
       kept_origin, kept_position, kept_hlc, kept_op, kept_shape, kept_image,
       in_origin, in_position, in_ordinal, in_hlc, in_op, in_shape, in_image)
SELECT s.tbl, s.schema_name, s.table_name, c.key,
       CASE WHEN i.op IN ('D', 'T') THEN 'delete_origin_differs'
            WHEN c.op IN ('D', 'T') AND i.op = 'I' THEN 'insert_deleted'
            WHEN c.op IN ('D', 'T') THEN 'update_missing'
            WHEN i.op = 'I' THEN 'insert_exists' ELSE 'update_origin_differs' END,
       CASE WHEN y.strategy = 'manual' THEN y.strategy ELSE 'newer_wins' END,
       CASE WHEN c.kept_wins THEN 'kept' ELSE 'incoming' END,
       format('%s %s the row, %s %s it, neither saw the other; %s''s stands because %s%s',
              kn.node_name, {_WHAT.format("c.op")}, inn.node_name, {_WHAT.format("i.op")},
              CASE WHEN c.kept_wins THEN kn.node_name ELSE inn.node_name END,
              CASE WHEN c.hlc = t.hlc
                   THEN 'both are of the same time and its origin''s number is higher'
                   ELSE format('it is %s s newer', round(abs(c.hlc - t.hlc) / 1000000.0, 6)) END,
              CASE WHEN y.strategy = 'manual' THEN ', until a person decides' ELSE '' END),
       CASE WHEN y.strategy = 'manual' THEN 'open' ELSE 'resolved' END,
       c.origin, c.position, c.hlc, c.op, c.shape, k.image,
       i.origin, i.position, i.ordinal, t.hlc, i.op, i.shape, i.image
  FROM peersync_clash AS c
  JOIN {IN} AS i ON i.n = c.n
  JOIN peersync_tx AS t ON t.origin = i.origin AND t.position = i.position
  JOIN {{shapes}} ON s.shape = i.shape
  LEFT JOIN peersync.synced_table AS y ON y.tbl = s.tbl
  LEFT JOIN peersync.member AS kn ON kn.origin = c.origin
  LEFT JOIN peersync.member AS inn ON inn.origin = i.origin
 CROSS JOIN LATERAL (
       SELECT CASE WHEN e.op IN ('D', 'T') THEN NULL ELSE e.image END AS image
         FROM peersync.entry AS e
        WHERE e.origin = c.origin AND e.position = c.position AND e.ordinal = c.ordinal) AS k
 WHERE NOT (c.op IN ('D', 'T') AND i.op IN ('D', 'T'))
   AND NOT coalesce(c.shape = i.shape AND c.op IN ('I', 'U') AND i.op IN ('I', 'U')
                    AND k.image COLLATE "C" = i.image, false)"""

_DROP = f"""
DELETE FROM {IN} AS i USING peersync_clash AS c
 WHERE i.n = c.n AND c.kept_wins AND i.op <> 'T'"""

# What is written a second time: the winner of each pair, whichever it is.
_AGAIN = f"""
INSERT INTO {AGAIN} (origin, position, ordinal, at, shape, op, key, image)
SELECT v.origin, v.position, v.ordinal, coalesce(k.at::text, i.at),
       CASE WHEN c.kept_wins AND c.op NOT IN ('D', 'T') OR i.op = 'T' THEN c.shape ELSE i.shape END,
       CASE WHEN c.kept_wins AND c.op IN ('D', 'T') THEN 'D'
            WHEN c.kept_wins THEN c.op WHEN i.op = 'T' THEN 'D' ELSE i.op END, c.key,
       CASE WHEN NOT c.kept_wins THEN i.image WHEN c.op IN ('I', 'U') THEN k.image END
  FROM peersync_clash AS c JOIN {IN} AS i ON i.n = c.n
  CROSS JOIN LATERAL (
    SELECT CASE WHEN c.kept_wins THEN c.origin ELSE i.origin END AS origin,
           CASE WHEN c.kept_wins THEN c.position ELSE i.position END AS position,
           CASE WHEN c.kept_wins THEN c.ordinal ELSE i.ordinal END AS ordinal) AS v
  LEFT JOIN LATERAL (
    SELECT e.at, e.image FROM peersync.entry AS e
     WHERE e.origin = c.origin AND e.position = c.position AND e.ordinal = c.ordinal) AS k
         ON c.kept_wins"""


async def keep_window(
    conn: asyncpg.Connection,
    after: Mapping[int, int],
    upto: Mapping[int, int] | None,
    tables: Collection[int],
    cleared: Collection[int],
    staged: int,
) -> int:
    """Reads what the log holds above `after`, up to `upto`, of these tables; gives how many.

    `cleared`: tables of which every kept entry counts, because the run truncates them.
    """
    await conn.execute(_BY_INDEX)
    status: str = await conn.execute(
        _KEPT,
        list(after),
        list(after.values()),
        [_MAX if upto is None else upto[origin] for origin in after],
        list(tables),
        list(cleared),
        staged > _MOST_KEYS,
    )
    await conn.execute(_AS_USUAL)
    found = int(status.rpartition(" ")[2])
    if found > ANALYZE_FROM:
        await conn.execute("ANALYZE peersync_kept")
    return found


async def find_clashes(conn: asyncpg.Connection, shapes: str) -> int:
    """Pairs the staged changes with the highest kept one that is in conflict with each."""
    others = shapes.replace(" AS s (", " AS o (")
    status: str = await conn.execute(_CLASH.format(shapes=shapes, others=others))
    found = int(status.rpartition(" ")[2])
    if found > ANALYZE_FROM:
        await conn.execute("ANALYZE peersync_clash")
    return found


async def record_clashes(conn: asyncpg.Connection, shapes: str) -> int:
    """Tells of each pair whose two sides differ; gives how many."""
    status: str = await conn.execute(_RECORD.format(shapes=shapes))
    return int(status.rpartition(" ")[2])


async def drop_losers(conn: asyncpg.Connection) -> None:
    """Staged changes that lost are not written: the row has what it is to have."""
    await conn.execute(_DROP)


async def stage_winners(conn: asyncpg.Connection) -> int:
    """Stages the winner of each pair to be written, over whatever the row has now."""
    status: str = await conn.execute(_AGAIN)
    return int(status.rpartition(" ")[2])


async def forget_window(conn: asyncpg.Connection) -> None:
    await conn.execute(
        f"DELETE FROM peersync_kept; DELETE FROM peersync_clash; DELETE FROM {AGAIN}"
    )
