-- name: record_tables
-- Says, in the transaction that changes some of the tables, what has been done so far.
-- $1 session, $2 per-table results
UPDATE peersync.full_sync_sessions SET tables = $2, updated_at = clock_timestamp()
 WHERE session_id = $1 AND completed_at IS NULL
RETURNING session_id;
