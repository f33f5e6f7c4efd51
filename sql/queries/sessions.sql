-- name: create
-- Records a session before anything is done for it. A source that is asked again for one that
-- had failed opens its record again.
-- $1 session, $2 role, $3 action, $4 database, $5 peer id, $6 peer name, $7 requested by,
-- $8 options, $9 sync type, $10 plan
INSERT INTO peersync.full_sync_sessions
       (session_id, role, action, database_name, peer_id, peer_name, requested_by, state, phase,
        options, sync_type, plan)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'planned', 'backup', $8, $9, $10)
ON CONFLICT (session_id) DO UPDATE
   SET state = 'planned', error = NULL, resumable = false, completed_at = NULL,
       updated_at = clock_timestamp()
 WHERE full_sync_sessions.role = 'source' AND excluded.role = 'source'
   AND full_sync_sessions.peer_id = excluded.peer_id
   AND full_sync_sessions.state = 'failed';

-- name: forget
-- Takes back the record of a push that the peer refused.
-- $1 session
DELETE FROM peersync.full_sync_sessions
 WHERE session_id = $1 AND role = 'source' AND action = 'push' AND progress IS NULL;

-- name: update_progress
-- Keeps what the record says in step with what runs.
-- $1 session, $2 state, $3 phase, $4 progress, $5 raw bytes, $6 wire bytes, $7 saved bytes,
-- $8 rows, $9 bytes a second, $10 seconds left, $11 times resumed
UPDATE peersync.full_sync_sessions
   SET state = $2, phase = $3, progress = $4, raw_bytes = $5, wire_bytes = $6, saved_bytes = $7,
       rows_total = $8, transfer_speed = $9, resumed = $11, updated_at = clock_timestamp(),
       estimated_completion = clock_timestamp() + $10::float8 * interval '1 second'
 WHERE session_id = $1 AND completed_at IS NULL;

-- name: record_created
-- Remembers what the session created, in the transaction that creates it.
-- $1 session, $2 list of objects
UPDATE peersync.full_sync_sessions SET created_objects = $2 WHERE session_id = $1;

-- name: mark_committed
-- Says, in the transaction that changes the tables, that it did.
-- $1 session, $2 per-table results
UPDATE peersync.full_sync_sessions
   SET committed_at = clock_timestamp(), tables = $2, updated_at = clock_timestamp()
 WHERE session_id = $1 AND completed_at IS NULL
RETURNING session_id;

-- name: finish
-- Closes the record, once.
-- $1 session, $2 state, $3 error, $4 resumable, $5 progress, $6 raw bytes, $7 wire bytes,
-- $8 saved bytes, $9 rows, $10 per-table results, where the target tells them to the source
UPDATE peersync.full_sync_sessions
   SET state = $2, error = $3, resumable = $4, progress = coalesce($5, progress),
       phase = coalesce($5 ->> 'step', phase), raw_bytes = $6, wire_bytes = $7, saved_bytes = $8,
       rows_total = $9, tables = coalesce($10, tables),
       estimated_completion = NULL, completed_at = clock_timestamp(),
       updated_at = clock_timestamp()
 WHERE session_id = $1 AND completed_at IS NULL;

-- name: reopen
-- Opens the record of a session that failed and may go on.
-- $1 session
UPDATE peersync.full_sync_sessions
   SET state = 'planned', error = NULL, resumable = false, completed_at = NULL,
       updated_at = clock_timestamp()
 WHERE session_id = $1 AND role = 'target' AND state = 'failed' AND resumable
   AND committed_at IS NULL
RETURNING session_id;

-- name: reopen_given
-- Opens the source's record of a push that its target takes up again, unless it ended anew.
-- $1 session, $2 when it had ended
UPDATE peersync.full_sync_sessions
   SET state = 'planned', error = NULL, resumable = false, completed_at = NULL,
       updated_at = clock_timestamp()
 WHERE session_id = $1 AND role = 'source' AND state = 'failed'
   AND date_trunc('milliseconds', completed_at) = $2::text::timestamptz;

-- name: not_resumable
-- Says that what a failed session had fetched is gone.
-- $1 session
UPDATE peersync.full_sync_sessions SET resumable = false WHERE session_id = $1;

-- name: get
-- One session.
-- $1 session
SELECT * FROM peersync.full_sync_sessions WHERE session_id = $1;

-- name: unfinished
-- The sessions that were running when their agent died.
-- $1 role
SELECT * FROM peersync.full_sync_sessions
 WHERE completed_at IS NULL AND role = $1 ORDER BY started_at;

-- name: history
-- The newest sessions first.
-- Open records are behind what runs: with an open state, all of them are given.
-- $1 limit, $2 state, or null for any
SELECT * FROM peersync.full_sync_sessions
 WHERE $2::text IS NULL OR state = $2
    OR completed_at IS NULL AND $2 IN ('planned', 'running', 'cancelling')
 ORDER BY started_at DESC LIMIT $1;

-- name: by_request_key
-- The sync that a request with this key has started here within a day.
-- $1 key
SELECT * FROM peersync.full_sync_sessions
 WHERE started_at > clock_timestamp() - interval '1 day' AND options ->> 'idempotency_key' = $1
 ORDER BY started_at DESC LIMIT 1;

-- name: clear_ended
-- Forgets ended sessions, and their baselines. Kept whatever is asked: the sessions of the
-- newest baseline of each source, and of the newest that left no table out.
-- `journals` are those of them that have a table of what they changed.
-- $1 whether the newest ended session with each peer is kept, too. $2 only those that ended
-- before; null for all
WITH needed AS (
    (SELECT DISTINCT ON (b.source_id) b.session_id FROM peersync.baselines b
      ORDER BY b.source_id, b.applied_at DESC)
    UNION
    (SELECT DISTINCT ON (b.source_id) b.session_id
       FROM peersync.baselines b JOIN peersync.full_sync_sessions s USING (session_id)
      WHERE s.state = 'done' ORDER BY b.source_id, b.applied_at DESC)
    UNION
    (SELECT DISTINCT ON (s.database_name, s.role, s.peer_id) s.session_id
       FROM peersync.full_sync_sessions s WHERE $1::boolean AND s.completed_at IS NOT NULL
      ORDER BY s.database_name, s.role, s.peer_id, s.completed_at DESC)
), gone AS (
    DELETE FROM peersync.full_sync_sessions s
     WHERE s.completed_at IS NOT NULL AND ($2::timestamptz IS NULL OR s.completed_at < $2)
       AND NOT EXISTS (SELECT FROM needed n WHERE n.session_id = s.session_id)
    RETURNING s.session_id, s.undo ->> 'state' AS undo
), replaced AS (
    DELETE FROM peersync.baselines b USING gone g WHERE b.session_id = g.session_id
)
SELECT ARRAY(SELECT session_id FROM gone) AS gone,
       ARRAY(SELECT session_id FROM gone WHERE undo IN ('kept', 'undone')) AS journals,
       (SELECT count(*) FROM peersync.full_sync_sessions s WHERE s.completed_at IS NOT NULL)
       - (SELECT count(*) FROM gone) AS kept;

-- name: store_baseline
-- What this database may claim to have, written with the rows that make it true.
-- $1 session, $2 source id, $3 snapshot, $4 vector, $5 taken at
INSERT INTO peersync.baselines (session_id, source_id, snapshot, vector, taken_at)
VALUES ($1, $2, $3::text::pg_snapshot, $4, $5::text::timestamptz);

-- name: stages
-- The staging tables of one session.
-- $1 what their names begin with
SELECT c.relname AS name FROM pg_catalog.pg_class c
 WHERE c.relkind = 'r' AND c.relnamespace = to_regnamespace('peersync')
   AND left(c.relname, length($1) + 1) = $1 || '_' ORDER BY c.relname;
