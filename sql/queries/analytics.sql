-- name: tables
-- How large the database is: tables as in catalog.sql, rows by the counters of the server.
SELECT count(*) AS tables,
       coalesce(sum(pg_catalog.pg_stat_get_live_tuples(c.oid)), 0)::bigint AS live,
       coalesce(sum(pg_catalog.pg_stat_get_dead_tuples(c.oid)), 0)::bigint AS dead
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'peersync')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                      AND d.deptype = 'e');

-- name: days
-- What was done with each peer on each day (UTC). Bytes come from full syncs and from links:
-- what complete syncs and table sets say of them is the same once more, so of those only the
-- runs count that no full sync stands for.
-- $1 from when on
WITH parts AS (
    SELECT s.completed_at AS at, s.peer_id, s.peer_name, s.state = 'done' AS ok,
           s.state = 'partly' AS partly, s.state = 'failed' AS failed,
           extract(epoch FROM s.completed_at - s.started_at)::float8 AS seconds,
           extract(epoch FROM s.completed_at - s.started_at)::float8 AS full_seconds,
           s.rows_total AS rows, 0::bigint AS changes, 0::bigint AS transactions,
           s.raw_bytes, s.raw_bytes AS full_bytes, s.wire_bytes, 0::bigint AS conflicts,
           0::bigint AS quarantined, 0 AS errors, NULL::float8 AS p50, NULL::float8 AS p95,
           0::float8 AS behind_s
      FROM peersync.full_sync_sessions AS s
     WHERE s.completed_at >= $1 AND s.state <> 'cancelled'
    UNION ALL
    SELECT r.completed_at, r.peer_id, r.peer_name, r.status = 'success', r.status = 'partial',
           r.status = 'error', coalesce(r.duration_s, 0), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, 0
      FROM peersync.peer_sync_references AS r
     WHERE r.completed_at >= $1 AND r.session_id IS NULL
       AND r.status IN ('success', 'partial', 'error')
    UNION ALL
    SELECT r.completed_at, r.peer_id, r.peer_name, r.status = 'success', r.status = 'partial',
           r.status = 'error', extract(epoch FROM r.completed_at - r.started_at), 0, 0, 0, 0, 0, 0, 0,
           0, 0, 0, NULL, NULL, 0
      FROM peersync.set_runs AS r
     WHERE r.completed_at >= $1 AND r.session_id IS NULL
       AND r.status IN ('success', 'partial', 'error')
    UNION ALL
    SELECT l.at, l.peer_id, l.peer_name, false, false, false, 0, 0, 0, l.changes, l.transactions,
           l.raw_bytes, 0, l.wire_bytes, l.conflicts, l.quarantined, l.errors, l.lag_p50_s,
           l.lag_p95_s, l.behind_s
      FROM peersync.link_samples AS l WHERE l.at >= $1
)
SELECT (p.at AT TIME ZONE 'UTC')::date AS day, p.peer_id,
       (pg_catalog.array_agg(p.peer_name ORDER BY p.at DESC))[1] AS peer,
       count(*) FILTER (WHERE p.ok) AS ok, count(*) FILTER (WHERE p.partly) AS partly,
       count(*) FILTER (WHERE p.failed) AS failed, sum(p.seconds)::float8 AS seconds,
       sum(p.full_seconds)::float8 AS full_seconds, sum(p.full_bytes)::bigint AS full_bytes,
       sum(p.rows)::bigint AS rows, sum(p.changes)::bigint AS changes,
       sum(p.raw_bytes)::bigint AS raw_bytes, sum(p.wire_bytes)::bigint AS wire_bytes,
       sum(p.conflicts)::bigint AS conflicts, sum(p.quarantined)::bigint AS quarantined,
       sum(p.errors)::bigint AS errors, sum(p.behind_s)::float8 AS behind_s,
       sum(p.p50 * greatest(p.transactions, 1))::float8 AS p50_sum,
       sum(p.p95 * greatest(p.transactions, 1))::float8 AS p95_sum,
       coalesce(sum(greatest(p.transactions, 1)) FILTER (WHERE p.p50 IS NOT NULL), 0)::float8 AS lags
  FROM parts AS p GROUP BY 1, 2 ORDER BY 1, 3;

-- name: last_run
-- The newest run of any kind that has ended.
SELECT kind, peer, result, at FROM (
    (SELECT 'full sync' AS kind, peer_name AS peer, state AS result, completed_at AS at
       FROM peersync.full_sync_sessions WHERE completed_at IS NOT NULL
      ORDER BY completed_at DESC LIMIT 1)
    UNION ALL
    (SELECT 'complete sync', NULL, status, completed_at FROM peersync.complete_syncs
      WHERE completed_at IS NOT NULL ORDER BY completed_at DESC LIMIT 1)
    UNION ALL
    (SELECT 'table set ' || set_name, peer_name, status, completed_at FROM peersync.set_runs
      WHERE completed_at IS NOT NULL ORDER BY completed_at DESC LIMIT 1)) AS newest
 ORDER BY at DESC LIMIT 1;

-- name: velocity
-- How many changes came within the last hour and day, and in which hour the most. An hour that
-- is part of a day by now is not looked for.
-- $1 now, $2 from when on
WITH hours AS (
    SELECT pg_catalog.date_trunc('hour', l.at AT TIME ZONE 'UTC') AS hour, sum(l.changes) AS changes
      FROM peersync.link_samples AS l WHERE l.at >= $2 AND l.span_s <= 3600 GROUP BY 1
), busiest AS (
    SELECT hour, changes FROM hours WHERE changes > 0 ORDER BY changes DESC, hour LIMIT 1
)
SELECT coalesce(sum(l.changes) FILTER (WHERE l.at > $1::timestamptz - interval '1 hour'), 0)::bigint AS last_hour,
       coalesce(sum(l.changes) FILTER (WHERE l.at > $1::timestamptz - interval '1 day'), 0)::bigint AS last_day,
       coalesce((SELECT b.changes FROM busiest AS b), 0)::bigint AS busiest,
       (SELECT b.hour AT TIME ZONE 'UTC' FROM busiest AS b) AS busiest_at
  FROM peersync.link_samples AS l WHERE l.at > $1::timestamptz - interval '1 day';

-- name: runs
-- The newest full syncs that moved something, for what each of them cost.
-- $1 from when on, $2 at most so many
SELECT s.session_id, s.role, s.peer_name AS peer, s.state AS result, s.completed_at AS at, s.rows_total AS rows,
       s.raw_bytes, s.wire_bytes
  FROM peersync.full_sync_sessions AS s
 WHERE s.completed_at >= $1 AND s.wire_bytes > 0 ORDER BY s.completed_at DESC LIMIT $2;

-- name: lag
-- What came from each peer over time, in equal spans; a span in which nothing came has no row.
-- $1 from when on, $2 the span in seconds
SELECT l.peer_id, (pg_catalog.array_agg(l.peer_name ORDER BY l.at DESC))[1] AS peer,
       pg_catalog.to_timestamp(floor(extract(epoch FROM l.at) / $2::integer) * $2::integer) AS at,
       sum(l.changes)::bigint AS changes, max(l.lag_p50_s) AS p50, max(l.lag_p95_s) AS p95,
       sum(l.behind_s)::float8 AS behind_s
  FROM peersync.link_samples AS l WHERE l.at >= $1 GROUP BY l.peer_id, 3 ORDER BY l.peer_id, 3;
