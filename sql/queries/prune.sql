-- Takes what nobody needs any more out of the log, in pieces, and says how large it is.

-- name: try_prune
-- Whether this session may prune now; whoever takes a baseline keeps it out.
SELECT pg_catalog.pg_try_advisory_lock(x'70737963'::int, pg_catalog.hashtext('prune'));

-- name: quarantined
-- Whether any change waits, for a person or for its table.
SELECT EXISTS (SELECT FROM peersync.quarantine WHERE state = 'waiting');

-- name: supersede
-- What waits for a row, or a table, that something newer has changed or emptied since: applied later,
-- it would undo that, and once the newer change has left the log nobody could tell. One that waits
-- itself does not count. Where changes are merged, only a later one of ours that counts as having
-- seen it takes its place.
WITH q AS MATERIALIZED (
    SELECT q.id, q.origin, q.position, q.hlc, q.tbl, q.key, q.cause, s.strategy IN ('newer_wins', 'manual') AS plain
      FROM peersync.quarantine AS q LEFT JOIN peersync.synced_table AS s USING (tbl)
     WHERE q.state = 'waiting'
), e AS MATERIALIZED (
    SELECT e.origin, e.position, e.hlc, e.tbl, e.key, e.op FROM peersync.entry AS e
     WHERE e.tbl IN (SELECT q.tbl FROM q)
       AND NOT EXISTS (SELECT FROM peersync.quarantine AS w
                        WHERE w.origin = e.origin AND w.position = e.position AND w.ordinal = e.ordinal
                          AND w.state IN ('waiting', 'skipped'))
), newer AS (
    SELECT q.*, e.origin AS by_origin, e.position AS by_position, e.hlc AS by_hlc
      FROM q JOIN e ON e.tbl = q.tbl AND e.key = q.key WHERE e.op <> 'T'
     UNION ALL
    SELECT q.*, e.origin, e.position, e.hlc FROM q JOIN e ON e.tbl = q.tbl WHERE e.op = 'T'
)
UPDATE peersync.quarantine
   SET state = 'superseded', settled_at = clock_timestamp(), settled_by = 'a later change'
 WHERE state = 'waiting' AND id IN (
       SELECT n.id
         FROM newer AS n
        CROSS JOIN peersync.replica AS r
        WHERE n.by_origin <> n.origin AND (n.by_hlc, n.by_origin) > (n.hlc, n.origin)
          AND CASE WHEN n.plain THEN n.by_origin = r.origin OR n.cause = 'table'
                   ELSE n.by_origin = r.origin
                        AND (SELECT coalesce((t.seen ->> n.origin::text)::bigint, 0)
                               FROM peersync.transaction AS t
                              WHERE t.origin = n.by_origin AND t.position = n.by_position) >= n.position END);

-- name: end_prune
-- Lets the next one.
SELECT pg_catalog.pg_advisory_unlock(x'70737963'::int, pg_catalog.hashtext('prune'));

-- name: plans
-- Pins how the log is read (it may have grown from nothing since anybody counted its rows), and
-- does not wait for the disk: what a crash brings back is deleted again.
SELECT pg_catalog.set_config(name, value, true)
  FROM (VALUES ('enable_seqscan', 'off'), ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'),
               ('jit', 'off'), ('synchronous_commit', 'off')) AS s (name, value);

-- name: based
-- Whether any row was in conflict whose strategy needs more than the newest change.
SELECT EXISTS (SELECT FROM peersync.row_base) AS based;

-- name: held_parked
-- Where the log has to stay because changes wait for a table: all of it where the strategy needs all
-- changes of a row; and what is newer than a TRUNCATE that waits, which must not take those rows.
WITH w AS MATERIALIZED (
    SELECT s.tbl, 0 AS hlc FROM peersync.synced_table AS s
     WHERE s.parked IS NOT NULL AND s.strategy NOT IN ('newer_wins', 'manual')
     UNION ALL
    SELECT q.tbl, min(q.hlc) FROM peersync.quarantine AS q
     WHERE q.state = 'waiting' AND q.op = 'T' GROUP BY q.tbl)
SELECT e.origin, min(e.position) AS position
  FROM w JOIN peersync.entry AS e ON e.tbl = w.tbl AND e.hlc >= w.hlc
  JOIN peersync.member AS m ON m.origin = e.origin AND m.floor < e.position
 GROUP BY e.origin;

-- name: based_changes
-- The transactions that have changed the rows with a base, in no order.
WITH e AS MATERIALIZED (
    SELECT t.origin, t.position, t.hlc, t.seen, c.tbl, c.key, c.op
      FROM peersync.transaction AS t JOIN peersync.change AS c ON c.xid = t.xid
      JOIN peersync.member AS m ON m.origin = t.origin AND m.floor < t.position
     WHERE c.tbl IN (SELECT b.tbl FROM peersync.row_base AS b)
     UNION ALL
    SELECT t.origin, t.position, t.hlc, t.seen, r.tbl, r.key, r.op
      FROM peersync.transaction AS t JOIN peersync.relayed AS r USING (origin, position)
      JOIN peersync.member AS m ON m.origin = t.origin AND m.floor < t.position
     WHERE r.tbl IN (SELECT b.tbl FROM peersync.row_base AS b))
SELECT DISTINCT b.tbl, b.key, coalesce(s.strategy, 'newer_wins') AS strategy,
       e.origin, e.position, e.hlc, e.seen::text AS seen
  FROM peersync.row_base AS b
  JOIN (SELECT tbl, key, origin, position, hlc, seen FROM e WHERE op <> 'T'
         UNION ALL
        SELECT t.tbl, b.key, t.origin, t.position, t.hlc, t.seen
          FROM e AS t JOIN peersync.row_base AS b ON b.tbl = t.tbl WHERE t.op = 'T') AS e
    ON e.tbl = b.tbl AND e.key = b.key
  LEFT JOIN peersync.synced_table AS s ON s.tbl = b.tbl;

-- name: unpublished_rows
-- The rows with a base that have a committed change without a position.
SELECT DISTINCT b.tbl, b.key
  FROM peersync.change AS c JOIN peersync.row_base AS b ON b.tbl = c.tbl AND (c.key = b.key OR c.op = 'T')
 WHERE NOT EXISTS (SELECT FROM peersync.transaction AS t WHERE t.xid = c.xid);

-- name: rebase
-- A row without the changes that the log still holds, after some of them have gone into it.
-- $1 tbl, $2 key, $3 shape, $4 image
UPDATE peersync.row_base SET shape = $3, image = $4, since = pg_catalog.clock_timestamp()
 WHERE tbl = $1 AND key = $2
   AND pg_catalog.hashtextextended(key, 0) = pg_catalog.hashtextextended($2, 0);

-- name: lock
-- Nothing is published or applied from now to the end of this transaction.
SELECT pg_catalog.pg_advisory_xact_lock(x'70737963'::int, pg_catalog.hashtext('publish'));

-- name: delete_bases
-- Forgets the bases of rows of which the log has no change above the floors.
DELETE FROM peersync.row_base AS b
 WHERE NOT EXISTS (SELECT FROM peersync.entry AS e JOIN peersync.member AS m USING (origin)
                    WHERE e.tbl = b.tbl AND (e.key = b.key OR e.op = 'T') AND e.position > m.floor)
   AND NOT EXISTS (SELECT FROM peersync.change AS c
                    WHERE c.tbl = b.tbl AND (c.key = b.key OR c.op = 'T')
                      AND NOT EXISTS (SELECT FROM peersync.transaction AS t WHERE t.xid = c.xid));

-- name: raise_floor
-- From now on nobody is given what is below; so it may be deleted piece by piece.
-- $1 origin, $2 position
UPDATE peersync.member SET floor = $2 WHERE origin = $1 AND floor < $2;

-- name: doomed
-- The first transactions below the floor that are still here.
-- $1 origin, $2 how many
SELECT t.position, t.xid::text, t.changes
  FROM peersync.member AS m
 CROSS JOIN LATERAL (SELECT t.* FROM peersync.transaction AS t
                      WHERE t.origin = m.origin AND t.position <= m.floor
                      ORDER BY t.position LIMIT $2::integer) AS t
 WHERE m.origin = $1
 ORDER BY t.position;

-- name: delete_changes
-- Some changes of one large own transaction; the highest id of them, null when none is left.
-- $1 xid, $2 the id after which, $3 how many
WITH gone AS (
    DELETE FROM peersync.change AS c
     WHERE c.xid = $1::text::xid8 AND c.id > $2
       AND c.id <= (SELECT max(id) FROM (SELECT id FROM peersync.change
                                          WHERE xid = $1::text::xid8 AND id > $2
                                          ORDER BY id LIMIT $3::integer) AS part)
    RETURNING c.id)
SELECT max(id) FROM gone;

-- name: delete_relayed
-- Some changes of one large transaction of another origin; the highest ordinal, null for none.
-- $1 origin, $2 position, $3 the ordinal after which, $4 how many
WITH gone AS (
    DELETE FROM peersync.relayed AS c
     WHERE c.origin = $1 AND c.position = $2 AND c.ordinal > $3
       AND c.ordinal <= (SELECT max(ordinal) FROM (SELECT ordinal FROM peersync.relayed
                                                    WHERE origin = $1 AND position = $2 AND ordinal > $3
                                                    ORDER BY ordinal LIMIT $4::integer) AS part)
    RETURNING c.ordinal)
SELECT max(ordinal) FROM gone;

-- name: delete_transactions
-- Some transactions in a row, with their changes.
-- $1 origin, $2 the first position, $3 the last
WITH gone AS (
    DELETE FROM peersync.transaction AS t
     WHERE t.origin = $1 AND t.position >= $2 AND t.position <= $3
    RETURNING t.xid
), own AS (
    DELETE FROM peersync.change AS c USING gone AS g WHERE c.xid = g.xid
)
DELETE FROM peersync.relayed AS r WHERE r.origin = $1 AND r.position >= $2 AND r.position <= $3;

-- name: thin_withheld
-- Of a row that only this database has changed, what lies between its first and its last change.
DELETE FROM peersync.withheld AS w
 WHERE w.key IS NOT NULL
   AND EXISTS (SELECT FROM peersync.withheld AS o
                WHERE o.tbl = w.tbl AND o.key = w.key AND o.id < w.id
                  AND pg_catalog.hashtextextended(o.key, 0) = pg_catalog.hashtextextended(w.key, 0))
   AND EXISTS (SELECT FROM peersync.withheld AS o
                WHERE o.tbl = w.tbl AND o.key = w.key AND o.id > w.id
                  AND pg_catalog.hashtextextended(o.key, 0) = pg_catalog.hashtextextended(w.key, 0));

-- name: size
-- How large the log is, what is not published yet left aside.
SELECT count(*) AS transactions, coalesce(sum(changes), 0)::bigint AS changes,
       pg_catalog.pg_total_relation_size('peersync.change')
       + pg_catalog.pg_total_relation_size('peersync.relayed')
       + pg_catalog.pg_total_relation_size('peersync.transaction') AS size_bytes
  FROM peersync.transaction;

-- name: waits_for
-- Members that have not said that they have all changes here, and the age of the oldest in seconds.
-- $1 this database's origin
SELECT m.origin, m.node_id, m.node_name, max(extract(epoch FROM clock_timestamp() - t.at))::float8 AS age_s
  FROM peersync.member AS m
 CROSS JOIN peersync.member AS o
 CROSS JOIN LATERAL (SELECT t.at FROM peersync.transaction AS t
                      WHERE t.origin = o.origin AND t.changes > 0
                        AND t.position > coalesce((m.seen ->> o.origin::text)::bigint, 0)
                      ORDER BY t.position LIMIT 1) AS t
 WHERE m.state IN ('member', 'joining') AND m.origin <> $1 AND o.origin <> m.origin
 GROUP BY m.origin, m.node_id, m.node_name
 ORDER BY age_s DESC;
