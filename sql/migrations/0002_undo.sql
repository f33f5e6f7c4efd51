-- What a full sync overwrote, deleted and inserted is kept for a while, so that it can be undone.
-- The rows are in a table of their own for each session, peersync.undo_<session>.

ALTER TABLE peersync.full_sync_sessions ADD COLUMN undo jsonb;
COMMENT ON COLUMN peersync.full_sync_sessions.undo IS
    'Whether this session can be undone, and which tables its journal has';
