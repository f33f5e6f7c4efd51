-- The durable record of full syncs, and what keeps two of them apart.
-- Everything that peersync keeps about a database is in this one schema.

CREATE TABLE peersync.full_sync_sessions (
    session_id            uuid PRIMARY KEY,
    role                  text NOT NULL CHECK (role IN ('target', 'source')),
    action                text NOT NULL CHECK (action IN ('pull', 'push')),
    method                text NOT NULL DEFAULT 'backup',
    sync_type             text NOT NULL DEFAULT 'manual'
                          CHECK (sync_type IN ('manual', 'scheduled', 'api')),
    database_name         text NOT NULL,
    peer_id               text NOT NULL,
    peer_name             text NOT NULL,
    requested_by          text NOT NULL,
    state                 text NOT NULL CHECK (state IN
                          ('planned', 'running', 'cancelling', 'cancelled', 'failed', 'partly', 'done')),
    phase                 text NOT NULL CHECK (phase IN
                          ('backup', 'transfer', 'convert', 'restore', 'verify')),
    options               jsonb NOT NULL DEFAULT '{}',
    plan                  jsonb,
    progress              jsonb,
    tables                jsonb NOT NULL DEFAULT '[]',
    created_objects       jsonb NOT NULL DEFAULT '[]',
    raw_bytes             bigint NOT NULL DEFAULT 0,
    wire_bytes            bigint NOT NULL DEFAULT 0,
    saved_bytes           bigint NOT NULL DEFAULT 0,
    rows_total            bigint NOT NULL DEFAULT 0,
    transfer_speed        bigint,
    estimated_completion  timestamptz,
    resumable             boolean NOT NULL DEFAULT false,
    resumed               integer NOT NULL DEFAULT 0,
    error                 jsonb,
    started_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    committed_at          timestamptz,
    completed_at          timestamptz
);
COMMENT ON TABLE peersync.full_sync_sessions IS
    'One row for each full sync that this database gave (source) or took (target)';
COMMENT ON COLUMN peersync.full_sync_sessions.committed_at IS
    'Written by the transaction that changed the tables: after a lost COMMIT it says what happened';
COMMENT ON COLUMN peersync.full_sync_sessions.transfer_speed IS
    'Uncompressed bytes a second over the last 20 seconds';
COMMENT ON COLUMN peersync.full_sync_sessions.created_objects IS
    'What this session created here, to be dropped again if it fails';
CREATE INDEX full_sync_sessions_started_at ON peersync.full_sync_sessions (started_at DESC);

CREATE TABLE peersync.baselines (
    session_id  uuid PRIMARY KEY,
    source_id   text NOT NULL,
    snapshot    pg_snapshot NOT NULL,
    vector      jsonb NOT NULL,
    taken_at    timestamptz NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE peersync.baselines IS
    'What this database may claim to have since a full sync: the source''s snapshot and vector';

-- An advisory lock keeps others out; the fence number finds out who was put to sleep
-- with the lock, lost it, and woke up: a committing transaction checks that it is still its own.
CREATE TABLE peersync.leases (
    name    text PRIMARY KEY,
    fence   bigint NOT NULL,
    holder  jsonb NOT NULL,
    since   timestamptz NOT NULL DEFAULT clock_timestamp()
);
