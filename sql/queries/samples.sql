-- name: add
-- What came from a peer in a span. Written twice, it is added up; lags count by transactions.
-- $1 peer, $2 span in seconds, $3 its begin, $4 the peer's name, $5 transactions, $6 changes,
-- $7 raw bytes, $8 wire bytes, $9 conflicts, $10 quarantined, $11 errors, $12, $13 lags at 50
-- and 95 of 100, $14 seconds behind
INSERT INTO peersync.link_samples AS s
       (peer_id, span_s, at, peer_name, transactions, changes, raw_bytes, wire_bytes, conflicts,
        quarantined, errors, lag_p50_s, lag_p95_s, behind_s)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (peer_id, span_s, at) DO UPDATE
   SET transactions = s.transactions + excluded.transactions,
       changes = s.changes + excluded.changes,
       raw_bytes = s.raw_bytes + excluded.raw_bytes,
       wire_bytes = s.wire_bytes + excluded.wire_bytes,
       conflicts = s.conflicts + excluded.conflicts,
       quarantined = s.quarantined + excluded.quarantined,
       errors = s.errors + excluded.errors,
       lag_p50_s = coalesce((s.lag_p50_s * s.transactions + excluded.lag_p50_s * excluded.transactions)
                            / nullif(s.transactions + excluded.transactions, 0),
                            excluded.lag_p50_s, s.lag_p50_s),
       lag_p95_s = coalesce((s.lag_p95_s * s.transactions + excluded.lag_p95_s * excluded.transactions)
                            / nullif(s.transactions + excluded.transactions, 0),
                            excluded.lag_p95_s, s.lag_p95_s),
       behind_s = s.behind_s + excluded.behind_s;

-- name: roll_up
-- Makes rows of one span those of a longer one. One statement: what it takes away it has added,
-- whoever else does the same. Lags are means by transactions: percentiles can't be added up.
-- $1 the shorter span in seconds, $2 the longer one, $3 rows that began before this, which is
-- the begin of a longer span
WITH gone AS (
    DELETE FROM peersync.link_samples WHERE span_s = $1 AND at < $3 RETURNING *
), longer AS (
    SELECT g.peer_id,
           pg_catalog.to_timestamp(floor(extract(epoch FROM g.at) / $2::integer) * $2::integer) AS at,
           (pg_catalog.array_agg(g.peer_name ORDER BY g.at DESC))[1] AS peer_name,
           sum(g.transactions)::bigint AS transactions, sum(g.changes)::bigint AS changes,
           sum(g.raw_bytes)::bigint AS raw_bytes, sum(g.wire_bytes)::bigint AS wire_bytes,
           sum(g.conflicts)::bigint AS conflicts, sum(g.quarantined)::bigint AS quarantined,
           sum(g.errors)::integer AS errors,
           sum(g.lag_p50_s * greatest(g.transactions, 1))
           / sum(greatest(g.transactions, 1)) FILTER (WHERE g.lag_p50_s IS NOT NULL) AS lag_p50_s,
           sum(g.lag_p95_s * greatest(g.transactions, 1))
           / sum(greatest(g.transactions, 1)) FILTER (WHERE g.lag_p95_s IS NOT NULL) AS lag_p95_s,
           sum(g.behind_s) AS behind_s
      FROM gone AS g GROUP BY 1, 2
)
INSERT INTO peersync.link_samples AS s
       (peer_id, span_s, at, peer_name, transactions, changes, raw_bytes, wire_bytes, conflicts,
        quarantined, errors, lag_p50_s, lag_p95_s, behind_s)
SELECT peer_id, $2::integer, at, peer_name, transactions, changes, raw_bytes, wire_bytes, conflicts,
       quarantined, errors, lag_p50_s, lag_p95_s, behind_s
  FROM longer
ON CONFLICT (peer_id, span_s, at) DO UPDATE
   SET transactions = s.transactions + excluded.transactions,
       changes = s.changes + excluded.changes,
       raw_bytes = s.raw_bytes + excluded.raw_bytes,
       wire_bytes = s.wire_bytes + excluded.wire_bytes,
       conflicts = s.conflicts + excluded.conflicts,
       quarantined = s.quarantined + excluded.quarantined,
       errors = s.errors + excluded.errors,
       lag_p50_s = coalesce((s.lag_p50_s + excluded.lag_p50_s) / 2, excluded.lag_p50_s, s.lag_p50_s),
       lag_p95_s = coalesce((s.lag_p95_s + excluded.lag_p95_s) / 2, excluded.lag_p95_s, s.lag_p95_s),
       behind_s = s.behind_s + excluded.behind_s;

-- name: forget
-- Drops what ended before a time: samples, and the runs that nothing needs any more. Kept are
-- what runs, the newest complete sync, and the newest run of each table set with each peer.
-- $1 the time; null for all of the past
WITH samples AS (
    DELETE FROM peersync.link_samples AS s WHERE $1::timestamptz IS NULL OR s.at < $1
    RETURNING 1
), newest AS (
    SELECT c.complete_id FROM peersync.complete_syncs AS c
     WHERE c.status <> 'running' ORDER BY c.started_at DESC LIMIT 1
), complete AS (
    DELETE FROM peersync.complete_syncs AS c
     WHERE c.status <> 'running' AND ($1 IS NULL OR coalesce(c.completed_at, c.started_at) < $1)
       AND c.complete_id NOT IN (SELECT n.complete_id FROM newest AS n)
    RETURNING 1
), newest_sets AS (
    SELECT DISTINCT ON (r.set_name, r.peer_id) r.run_id FROM peersync.set_runs AS r
     WHERE r.status <> 'running' ORDER BY r.set_name, r.peer_id, r.started_at DESC
), sets AS (
    DELETE FROM peersync.set_runs AS r
     WHERE r.status <> 'running' AND ($1 IS NULL OR coalesce(r.completed_at, r.started_at) < $1)
       AND r.run_id NOT IN (SELECT n.run_id FROM newest_sets AS n)
    RETURNING 1
)
SELECT (SELECT count(*) FROM samples) AS samples, (SELECT count(*) FROM complete) AS complete_syncs,
       (SELECT count(*) FROM sets) AS set_runs;

-- name: lags
-- How late each link was, minute by minute. Lags are of what was applied; where nothing was, a
-- link may have been behind all the same.
-- $1 how many minutes back
SELECT s.peer_id, s.at, greatest(coalesce(s.lag_p95_s, 0), s.behind_s)::float8 AS lag_s
  FROM peersync.link_samples AS s
 WHERE s.span_s = 60 AND s.at >= clock_timestamp() - pg_catalog.make_interval(mins => $1::integer);

-- name: log_bytes
-- What the log of changes occupies on disk: what is kept for peers that have not taken it yet.
SELECT pg_catalog.pg_total_relation_size('peersync.change')
       + pg_catalog.pg_total_relation_size('peersync.relayed')
       + pg_catalog.pg_total_relation_size('peersync.transaction') AS bytes;
