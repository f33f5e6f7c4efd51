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
-- $8 saved bytes, $9 rows
UPDATE peersync.full_sync_sessions
   SET state = $2, error = $3, resumable = $4, progress = coalesce($5, progress),
       phase = coalesce($5 ->> 'step', phase), raw_bytes = $6, wire_bytes = $7, saved_bytes = $8,
       rows_total = $9, estimated_completion = NULL, completed_at = clock_timestamp(),
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
-- $1 limit
SELECT * FROM peersync.full_sync_sessions ORDER BY started_at DESC LIMIT $1;

-- name: store_baseline
-- What this database may claim to have, written with the rows that make it true.
-- $1 session, $2 source id, $3 snapshot, $4 vector, $5 taken at
INSERT INTO peersync.baselines (session_id, source_id, snapshot, vector, taken_at)
VALUES ($1, $2, $3::text::pg_snapshot, $4, $5::text::timestamptz);
