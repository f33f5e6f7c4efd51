-- name: queue
-- Who waits for a table that nobody but the sessions of one backup holds (`waits_for_us`), and
-- who is in the way of those sessions. Only ACCESS EXCLUSIVE is in the way of a reader, and
-- everybody who wants the table later queues behind it.
-- $1 the application_name of the backup's sessions
WITH ours AS MATERIALIZED (
    SELECT pg_catalog.array_agg(a.pid) AS pids
      FROM pg_catalog.pg_stat_activity a
     WHERE a.datname = pg_catalog.current_database() AND a.usename = current_user
       AND a.application_name = $1),
waits AS MATERIALIZED (
    SELECT l.pid, l.relation, l.waitstart, o.pids, l.pid = ANY (o.pids) AS ours,
           pg_catalog.pg_blocking_pids(l.pid) AS blockers
      FROM pg_catalog.pg_locks l CROSS JOIN ours o
     WHERE NOT l.granted AND l.locktype = 'relation'
       AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                          WHERE d.datname = pg_catalog.current_database())
       AND (l.mode = 'AccessExclusiveLock' OR l.pid = ANY (o.pids))),
found AS (
    SELECT true AS waits_for_us, w.pid, w.relation, w.waitstart
      FROM waits w
     WHERE NOT w.ours AND w.blockers <> '{}' AND w.blockers <@ w.pids
     UNION ALL
    SELECT false, b.pid, w.relation, w.waitstart
      FROM waits w CROSS JOIN LATERAL pg_catalog.unnest(w.blockers) AS b (pid)
     WHERE w.ours)
SELECT f.waits_for_us, f.pid, a.usename::text AS usename, a.application_name,
       a.query_start::text AS query_start,
       pg_catalog.substring(a.query, '^\s*([[:alpha:]]+(?:\s+[[:alpha:]]+)?)') AS command,
       pg_catalog.format('%I.%I', n.nspname, c.relname) AS relation,
       coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - f.waitstart), 0)::float8
           AS waited_s
  FROM found f
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = f.pid
  LEFT JOIN pg_catalog.pg_class c ON c.oid = f.relation
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 ORDER BY f.waits_for_us DESC, waited_s DESC, f.pid;
