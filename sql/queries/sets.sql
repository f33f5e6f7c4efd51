-- Runs of table sets, one for each set and peer.

-- name: begin
-- A run that begins. No row: one of this set with this peer is running, as its record says.
-- $1 set, $2 method, $3 sync type, $4 peer's id, $5 peer's name, $6 direction, $7 requested by
INSERT INTO peersync.set_runs
       (set_name, method, sync_type, peer_id, peer_name, direction, requested_by)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (set_name, peer_id) WHERE status = 'running' DO NOTHING
RETURNING run_id;

-- name: session
-- The full sync that does a run.
-- $1 run, $2 session
UPDATE peersync.set_runs SET session_id = $2::text::uuid WHERE run_id = $1;

-- name: waits
-- For whom a run waits.
-- $1 run, $2 in words
UPDATE peersync.set_runs SET reason = $2 WHERE run_id = $1 AND status = 'running';

-- name: end
-- How a run ended; nothing where it has ended already.
-- $1 run, $2 status, $3 reason, $4 error as jsonb, $5 rows, $6 raw bytes, $7 wire bytes, $8 tries
UPDATE peersync.set_runs
   SET status = $2, reason = $3, error = $4::text::jsonb, rows_total = $5, raw_bytes = $6,
       wire_bytes = $7, tries = $8, completed_at = clock_timestamp()
 WHERE run_id = $1 AND status = 'running';

-- name: interrupt
-- Closes what a dead agent left of one set and peer. Call it while the set's lease is held.
-- $1 set, $2 peer's id
UPDATE peersync.set_runs
   SET status = 'interrupted', completed_at = clock_timestamp(),
       reason = 'the agent ended while it ran'
 WHERE set_name = $1 AND peer_id = $2 AND status = 'running'
RETURNING run_id;

-- name: running
-- What is running, as the records say.
SELECT set_name, peer_id FROM peersync.set_runs WHERE status = 'running';

-- name: last_begun
-- For each peer of a set, when the last run began that went well, at least in part. A time to come
-- is that of a clock that was wrong.
-- $1 set
SELECT peer_id, max(started_at) AS at FROM peersync.set_runs
 WHERE set_name = $1 AND status IN ('success', 'partial')
   AND started_at < clock_timestamp() + interval '1 minute'
 GROUP BY peer_id;

-- name: newest
-- The newest runs, of one set or of all.
-- $1 set or null, $2 how many
SELECT run_id, set_name, method, sync_type, peer_name, direction, status, reason,
       error::text AS error, requested_by, tries, started_at, completed_at,
       EXTRACT(epoch FROM completed_at - started_at)::float8 AS seconds,
       rows_total, raw_bytes, wire_bytes, replace(session_id::text, '-', '') AS session
  FROM peersync.set_runs
 WHERE $1::text IS NULL OR set_name = $1
 ORDER BY run_id DESC
 LIMIT $2;

-- name: one
-- One run.
-- $1 run
SELECT run_id, set_name, method, sync_type, peer_name, direction, status, reason,
       error::text AS error, requested_by, tries, started_at, completed_at,
       EXTRACT(epoch FROM completed_at - started_at)::float8 AS seconds,
       rows_total, raw_bytes, wire_bytes, replace(session_id::text, '-', '') AS session
  FROM peersync.set_runs
 WHERE run_id = $1;

-- name: prune
-- Forgets ended runs that are older than so many days, but for the newest of each set and peer.
-- $1 days
DELETE FROM peersync.set_runs AS r
 WHERE r.completed_at < clock_timestamp() - make_interval(secs => 86400 * $1::float8)
   AND r.run_id < (SELECT max(n.run_id) FROM peersync.set_runs AS n
                    WHERE n.set_name = r.set_name AND n.peer_id = r.peer_id);
