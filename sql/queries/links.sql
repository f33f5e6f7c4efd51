-- name: backlog
-- What the log holds above a vector. Heartbeats are transactions, and nothing that is behind.
-- $1 origins, $2 their positions in the same order
SELECT count(*) AS transactions,
       coalesce(sum(t.changes), 0)::bigint AS changes,
       coalesce(sum(t.bytes), 0)::bigint AS size_bytes,
       extract(epoch FROM min(t.at) FILTER (WHERE t.kind <> 'b'))::float8 AS oldest
  FROM unnest($1::bigint[], $2::bigint[]) AS v (origin, position)
  JOIN peersync.transaction AS t ON t.origin = v.origin AND t.position > v.position;

-- name: contradicted
-- A peer has more of this database than there is: its own numbers prove nothing any more.
-- $1 its origin
UPDATE peersync.member SET info = info || '{"contradicted": true}' WHERE origin = $1;

-- name: waiting
-- Tables whose changes wait, are not caught, or were left out by a person, whether some process
-- runs the periodic sync of this database, and whether a full sync writes here.
-- $1 the reason of those that a person has left out
SELECT (SELECT count(*) FROM peersync.synced_table WHERE parked IS NOT NULL) AS parked,
       (SELECT count(*) FROM peersync.synced_table WHERE state = 'refused') AS uncaptured,
       (SELECT count(*) FROM peersync.synced_table
         WHERE state = 'excluded' AND reason = $1) AS left_out,
       EXISTS (SELECT FROM pg_catalog.pg_locks AS l
                WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
                  AND l.database = (SELECT oid FROM pg_catalog.pg_database
                                     WHERE datname = pg_catalog.current_database())
                  AND l.classid = x'70737963'::int::oid
                  AND l.objid::bigint
                      = (pg_catalog.hashtext('periodic')::bigint & 4294967295)) AS running,
       EXISTS (SELECT FROM peersync.full_sync_sessions
                WHERE role = 'target' AND completed_at IS NULL) AS taking;

-- name: waiting_by_origin
-- Changes in quarantine and conflicts that a person has to decide, by the origin that sent them.
SELECT origin, sum(quarantined)::bigint AS quarantined, sum(open)::bigint AS open
  FROM (SELECT origin, count(*) AS quarantined, 0 AS open
          FROM peersync.quarantine WHERE state = 'waiting' GROUP BY origin
        UNION ALL
        SELECT in_origin, 0, count(*)
          FROM peersync.conflict WHERE state = 'open' GROUP BY in_origin) AS w
 GROUP BY origin;

-- name: for_a_person
-- What waits for a person: names of parked tables, changes in quarantine, open conflicts.
SELECT coalesce((SELECT pg_catalog.array_agg(schema_name || '.' || table_name)
                   FROM peersync.synced_table WHERE parked IS NOT NULL), '{}') AS parked,
       (SELECT count(*) FROM peersync.quarantine
         WHERE state = 'waiting' AND cause = 'row') AS quarantined,
       (SELECT count(*) FROM peersync.conflict WHERE state = 'open') AS open;

-- name: paused
-- The peers whose links an operator has paused.
SELECT node_id, paused_by, paused_at FROM peersync.link WHERE paused;

-- name: pause
-- Pauses the link to a peer, or resumes it.
-- $1 node id, $2 whether it is paused, $3 by whom
INSERT INTO peersync.link AS l (node_id, paused, paused_by, paused_at)
VALUES ($1, $2, CASE WHEN $2 THEN $3 END, CASE WHEN $2 THEN clock_timestamp() END)
ON CONFLICT (node_id) DO UPDATE
   SET paused = excluded.paused, paused_by = excluded.paused_by, paused_at = excluded.paused_at;

-- name: announce
-- Wakes the agent of this node when another process of it has published or applied something.
SELECT pg_catalog.pg_notify('peersync_news', '');
