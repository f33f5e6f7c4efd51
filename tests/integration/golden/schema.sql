CREATE SCHEMA peersync;

CREATE TABLE peersync.baselines (
    session_id uuid NOT NULL,
    source_id text NOT NULL,
    snapshot pg_snapshot NOT NULL,
    vector jsonb NOT NULL,
    taken_at timestamp with time zone NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

COMMENT ON TABLE peersync.baselines IS 'What this database may claim to have since a full sync: the source''s snapshot and vector';

CREATE TABLE peersync.full_sync_sessions (
    session_id uuid NOT NULL,
    role text NOT NULL,
    action text NOT NULL,
    method text DEFAULT 'backup'::text NOT NULL,
    sync_type text DEFAULT 'manual'::text NOT NULL,
    database_name text NOT NULL,
    peer_id text NOT NULL,
    peer_name text NOT NULL,
    requested_by text NOT NULL,
    state text NOT NULL,
    phase text NOT NULL,
    options jsonb DEFAULT '{}'::jsonb NOT NULL,
    plan jsonb,
    progress jsonb,
    tables jsonb DEFAULT '[]'::jsonb NOT NULL,
    created_objects jsonb DEFAULT '[]'::jsonb NOT NULL,
    raw_bytes bigint DEFAULT 0 NOT NULL,
    wire_bytes bigint DEFAULT 0 NOT NULL,
    saved_bytes bigint DEFAULT 0 NOT NULL,
    rows_total bigint DEFAULT 0 NOT NULL,
    transfer_speed bigint,
    estimated_completion timestamp with time zone,
    resumable boolean DEFAULT false NOT NULL,
    resumed integer DEFAULT 0 NOT NULL,
    error jsonb,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    committed_at timestamp with time zone,
    completed_at timestamp with time zone,
    undo jsonb,
    CONSTRAINT full_sync_sessions_action_check CHECK ((action = ANY (ARRAY['pull'::text, 'push'::text]))),
    CONSTRAINT full_sync_sessions_phase_check CHECK ((phase = ANY (ARRAY['backup'::text, 'transfer'::text, 'convert'::text, 'restore'::text, 'verify'::text]))),
    CONSTRAINT full_sync_sessions_role_check CHECK ((role = ANY (ARRAY['target'::text, 'source'::text]))),
    CONSTRAINT full_sync_sessions_state_check CHECK ((state = ANY (ARRAY['planned'::text, 'running'::text, 'cancelling'::text, 'cancelled'::text, 'failed'::text, 'partly'::text, 'done'::text]))),
    CONSTRAINT full_sync_sessions_sync_type_check CHECK ((sync_type = ANY (ARRAY['manual'::text, 'scheduled'::text, 'api'::text])))
);

COMMENT ON TABLE peersync.full_sync_sessions IS 'One row for each full sync that this database gave (source) or took (target)';

COMMENT ON COLUMN peersync.full_sync_sessions.created_objects IS 'What this session created here, to be dropped again if it fails';

COMMENT ON COLUMN peersync.full_sync_sessions.transfer_speed IS 'Uncompressed bytes a second over the last 20 seconds';

COMMENT ON COLUMN peersync.full_sync_sessions.committed_at IS 'Written by the transaction that changed the tables: after a lost COMMIT it says what happened';

COMMENT ON COLUMN peersync.full_sync_sessions.undo IS 'Whether this session can be undone, and which tables its journal has';

CREATE TABLE peersync.functions_version (
    only_one boolean DEFAULT true NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    by_version text NOT NULL,
    CONSTRAINT functions_version_only_one_check CHECK (only_one)
);

COMMENT ON TABLE peersync.functions_version IS 'The hash over all function files: where it differs from the code''s, they are created again';

CREATE TABLE peersync.leases (
    name text NOT NULL,
    fence bigint NOT NULL,
    holder jsonb NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE peersync.migration (
    number integer NOT NULL,
    name text NOT NULL,
    sha256 text NOT NULL,
    breaking boolean NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    by_version text NOT NULL
);

COMMENT ON TABLE peersync.migration IS 'The migrations that this schema has; code that does not know a breaking one refuses to run';

ALTER TABLE ONLY peersync.baselines
    ADD CONSTRAINT baselines_pkey PRIMARY KEY (session_id);

ALTER TABLE ONLY peersync.full_sync_sessions
    ADD CONSTRAINT full_sync_sessions_pkey PRIMARY KEY (session_id);

ALTER TABLE ONLY peersync.functions_version
    ADD CONSTRAINT functions_version_pkey PRIMARY KEY (only_one);

ALTER TABLE ONLY peersync.leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (name);

ALTER TABLE ONLY peersync.migration
    ADD CONSTRAINT migration_pkey PRIMARY KEY (number);

CREATE INDEX full_sync_sessions_started_at ON peersync.full_sync_sessions USING btree (started_at DESC);
