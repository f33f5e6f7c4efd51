-- Reads the log for a peer. All of it runs in one REPEATABLE READ transaction, so that the head
-- and the rows that follow it are of one view.

-- name: plans
-- Pins how the log is read: it may have grown from nothing since anybody counted its rows.
SELECT pg_catalog.set_config(name, value, true)
  FROM (VALUES ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'), ('enable_hashjoin', 'off'),
               ('enable_mergejoin', 'off'), ('enable_material', 'off'), ('enable_memoize', 'off'),
               ('jit', 'off'), ('max_parallel_workers_per_gather', '0')) AS s (name, value);

-- name: gaps
-- Origins of which the asker lacks something that has left this log, and up to where it has.
-- $1 the asker's origin, $2 its vector as jsonb, $3 the only origin that is given, or null
SELECT m.origin, greatest(m.floor, (
           SELECT coalesce(min(t.position) - 1, m.applied) FROM peersync.transaction AS t
            WHERE t.origin = m.origin AND t.position > v.position)) AS floor
  FROM peersync.member AS m
 CROSS JOIN LATERAL (SELECT coalesce(($2::jsonb ->> m.origin::text)::bigint, 0)) AS v (position)
 WHERE m.origin <> $1 AND m.applied > v.position AND m.origin = coalesce($3::bigint, m.origin)
   AND (m.floor > v.position OR NOT EXISTS (
            SELECT FROM peersync.transaction AS t
             WHERE t.origin = m.origin AND t.position = v.position + 1));

-- name: transactions
-- The transactions of the next frame, in an order in which each comes after all that it saw:
-- by hlc and origin. At least one; then as many as fit. The last row says whether there are more.
-- $1 the asker's origin, $2 its vector as jsonb, $3 changes, $4 bytes, $5 transactions at most,
-- $6 the only origin that is given, or null
WITH next AS (
    SELECT t.*, row_number() OVER w AS nth,
           sum(t.changes) OVER w AS changes_so_far, sum(t.bytes::float8) OVER w AS bytes_so_far
      FROM peersync.member AS m
     CROSS JOIN LATERAL (SELECT t.* FROM peersync.transaction AS t
                          WHERE t.origin = m.origin AND t.position <= m.applied
                            AND t.position > coalesce(($2::jsonb ->> m.origin::text)::bigint, 0)
                          ORDER BY t.position LIMIT $5::integer + 1) AS t
     WHERE m.origin <> $1 AND m.origin = coalesce($6::bigint, m.origin)
    WINDOW w AS (ORDER BY t.hlc, t.origin ROWS UNBOUNDED PRECEDING))
SELECT n.origin, n.position, n.hlc, n.kind::text, n.changes, n.at::text, n.seen::text, n.info::text,
       n.nth > 1 AND (n.changes_so_far > $3::bigint OR n.bytes_so_far > $4::bigint
                      OR n.nth > $5::integer) AS left_over
  FROM next AS n
 WHERE n.nth <= 2 OR n.nth <= $5::integer + 1 AND n.changes_so_far - n.changes <= $3::bigint
                     AND n.bytes_so_far - n.bytes <= $4::bigint  -- the one before it fits
 ORDER BY n.nth;

-- name: shapes
-- What the images of these transactions are made of. No columns: nobody knows.
-- $1 origins, $2 the positions before the first of each, $3 the last of each
SELECT DISTINCT ON (e.shape) e.shape, s.schema_name, s.table_name, s.columns, s.types, s.key
  FROM (SELECT DISTINCT c.shape
          FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS r (origin, low, high)
          JOIN peersync.transaction AS t
            ON t.origin = r.origin AND t.position > r.low AND t.position <= r.high
         CROSS JOIN LATERAL (
               SELECT c.shape FROM peersync.change AS c WHERE c.xid = t.xid
               UNION ALL
               SELECT c.shape FROM peersync.relayed AS c
                WHERE t.xid IS NULL AND c.origin = t.origin AND c.position = t.position) AS c
         WHERE t.changes > 0) AS e
  LEFT JOIN peersync.shape AS s USING (shape);

-- name: rows
-- The changes of these transactions, in their order, inside each in that of their ids. A nested
-- loop keeps the order of its outer side, so nothing is sorted, however large a transaction is.
-- $1 origins, $2 the positions before the first of each, $3 the last of each
SELECT t.origin, t.position, c.ordinal, c.at, c.shape, c.op, c.key, c.image, c.old
  FROM (SELECT t.origin, t.position, t.xid
          FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS r (origin, low, high)
          JOIN peersync.transaction AS t
            ON t.origin = r.origin AND t.position > r.low AND t.position <= r.high
         WHERE t.changes > 0
         ORDER BY t.hlc, t.origin) AS t
 CROSS JOIN LATERAL (
       (SELECT c.id AS ordinal, c.at, c.shape, c.op, c.key, c.image, c.old
          FROM peersync.change AS c WHERE c.xid = t.xid ORDER BY c.id)
       UNION ALL
       (SELECT c.ordinal, c.at, c.shape, c.op, c.key, c.image, c.old
          FROM peersync.relayed AS c
         WHERE t.xid IS NULL AND c.origin = t.origin AND c.position = t.position
         ORDER BY c.ordinal)) AS c;
