-- name: facts
-- How large the database is, by the planner's statistics, and whether somebody holds its lease.
-- Tables that were never analyzed have no estimate. Which tables count: as in catalog.sql.
-- $1 name of the lease
SELECT count(c.oid) AS tables,
       (sum(c.reltuples) FILTER (WHERE c.reltuples >= 0))::bigint AS rows_estimated,
       count(c.oid) FILTER (WHERE c.reltuples < 0) AS tables_not_analyzed,
       pg_catalog.pg_database_size(pg_catalog.current_database()) AS size_bytes,
       EXISTS (SELECT FROM pg_catalog.pg_locks l
                 JOIN pg_catalog.pg_database d ON d.oid = l.database
                WHERE d.datname = pg_catalog.current_database() AND l.locktype = 'advisory'
                  AND l.granted AND l.classid = x'70737963'::int::oid
                  AND l.objid = pg_catalog.hashtext($1)::oid AND l.objsubid = 2) AS held
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'peersync')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                      AND d.deptype = 'e');

-- name: by_peer
-- What the kept records say of each peer in each role: the last sync that ended, how many ended
-- how, what they moved, and how many records are open.
WITH ended AS (
    SELECT s.*, extract(epoch FROM s.completed_at - s.started_at) AS took
      FROM peersync.full_sync_sessions s WHERE s.completed_at IS NOT NULL
), last AS (
    SELECT DISTINCT ON (e.role, e.peer_id) e.role, e.peer_id, e.peer_name, e.session_id, e.state,
           e.completed_at, e.took
      FROM ended e ORDER BY e.role, e.peer_id, e.completed_at DESC
), totals AS (
    SELECT e.role, e.peer_id, count(*) FILTER (WHERE e.state = 'done') AS done,
           count(*) FILTER (WHERE e.state = 'partly') AS partly,
           count(*) FILTER (WHERE e.state = 'failed') AS failed,
           count(*) FILTER (WHERE e.state = 'cancelled') AS cancelled,
           sum(e.rows_total)::bigint AS rows, sum(e.raw_bytes)::bigint AS raw_bytes,
           sum(e.wire_bytes)::bigint AS wire_bytes, sum(e.saved_bytes)::bigint AS saved_bytes,
           sum(e.took)::float8 AS seconds
      FROM ended e GROUP BY e.role, e.peer_id
), open AS (
    SELECT s.role, s.peer_id, max(s.peer_name) AS peer_name, count(*) AS open
      FROM peersync.full_sync_sessions s WHERE s.completed_at IS NULL GROUP BY s.role, s.peer_id
)
SELECT role, peer_id, coalesce(last.peer_name, open.peer_name) AS peer, last.session_id,
       last.state, last.completed_at, last.took::float8 AS took, totals.done, totals.partly,
       totals.failed, totals.cancelled, totals.rows, totals.raw_bytes, totals.wire_bytes,
       totals.saved_bytes, totals.seconds, coalesce(open.open, 0) AS open
  FROM last JOIN totals USING (role, peer_id) FULL JOIN open USING (role, peer_id)
 ORDER BY role DESC, peer;
