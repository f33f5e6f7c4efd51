-- Complete syncs, runs of table sets, and what the links of periodic sync did over time.

CREATE TABLE peersync.complete_syncs (
    complete_id      uuid PRIMARY KEY,
    database_name    text NOT NULL,
    node_name        text NOT NULL,
    sync_type        text NOT NULL CHECK (sync_type IN ('manual', 'scheduled', 'api')),
    status           text NOT NULL DEFAULT 'running'
                     CHECK (status IN ('running', 'success', 'partial', 'error', 'interrupted')),
    requested_by     text NOT NULL,
    bulk_id          uuid,
    retry_of         uuid REFERENCES peersync.complete_syncs ON DELETE SET NULL,
    started_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    completed_at     timestamptz,
    duration_s       double precision,
    peers_total      integer NOT NULL DEFAULT 0,
    peers_successful integer NOT NULL DEFAULT 0,
    peers_failed     integer NOT NULL DEFAULT 0,
    peers_skipped    integer NOT NULL DEFAULT 0,
    rows_total       bigint NOT NULL DEFAULT 0,
    raw_bytes        bigint NOT NULL DEFAULT 0,
    wire_bytes       bigint NOT NULL DEFAULT 0,
    cost             numeric(20, 6) NOT NULL DEFAULT 0,
    cost_by_peer     jsonb NOT NULL DEFAULT '{}',
    rows_by_peer     jsonb NOT NULL DEFAULT '{}',
    errors           jsonb NOT NULL DEFAULT '{}',
    configuration    jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE peersync.complete_syncs IS
    'One row for each time that this database was brought up to date with all its peers';
COMMENT ON COLUMN peersync.complete_syncs.status IS
    'partial: some peers failed; error: all did; interrupted: the agent ended meanwhile';
COMMENT ON COLUMN peersync.complete_syncs.errors IS '{peer: {code, message, detail, hint}}';
COMMENT ON COLUMN peersync.complete_syncs.configuration IS 'What it was asked for, and what was set then';
CREATE INDEX complete_syncs_started_at ON peersync.complete_syncs (started_at DESC);
-- Two agents on one database, or two requests at once: one runs.
CREATE UNIQUE INDEX complete_syncs_running ON peersync.complete_syncs ((true)) WHERE status = 'running';

CREATE TABLE peersync.peer_sync_references (
    complete_id  uuid NOT NULL REFERENCES peersync.complete_syncs ON DELETE CASCADE,
    place        integer NOT NULL,
    peer_id      text NOT NULL,
    peer_name    text NOT NULL,
    way          text NOT NULL CHECK (way IN ('periodic', 'full-pull', 'full-push')),
    status       text NOT NULL DEFAULT 'waiting'
                 CHECK (status IN ('waiting', 'running', 'success', 'partial', 'error', 'skipped', 'not_run')),
    reason       text,
    error        jsonb,
    started_at   timestamptz,
    completed_at timestamptz,
    duration_s   double precision,
    rows_total   bigint NOT NULL DEFAULT 0,
    raw_bytes    bigint NOT NULL DEFAULT 0,
    wire_bytes   bigint NOT NULL DEFAULT 0,
    cost         numeric(20, 6) NOT NULL DEFAULT 0,
    session_id   uuid,
    positions    jsonb,
    tries        integer NOT NULL DEFAULT 0,
    PRIMARY KEY (complete_id, place)
);
COMMENT ON TABLE peersync.peer_sync_references IS
    'What a complete sync did for each peer: it refers to the full sync or to the proof, and copies neither';
COMMENT ON COLUMN peersync.peer_sync_references.session_id IS
    'Its full sync in full_sync_sessions (of the peer, for a push)';
COMMENT ON COLUMN peersync.peer_sync_references.positions IS
    'Periodic: {"ours": vector, "theirs": vector}, what each side had when it was proved';
CREATE INDEX peer_sync_references_peer ON peersync.peer_sync_references (peer_id, completed_at DESC);

CREATE TABLE peersync.set_runs (
    run_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    set_name     text NOT NULL,
    method       text NOT NULL CHECK (method IN ('incremental', 'full', 'window')),
    sync_type    text NOT NULL CHECK (sync_type IN ('manual', 'scheduled', 'api')),
    peer_id      text NOT NULL,
    peer_name    text NOT NULL,
    direction    text NOT NULL CHECK (direction IN ('pull', 'push')),
    status       text NOT NULL DEFAULT 'running'
                 CHECK (status IN ('running', 'success', 'partial', 'error', 'skipped', 'interrupted')),
    reason       text,
    error        jsonb,
    requested_by text NOT NULL,
    tries        integer NOT NULL DEFAULT 0,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    completed_at timestamptz,
    rows_total   bigint NOT NULL DEFAULT 0,
    raw_bytes    bigint NOT NULL DEFAULT 0,
    wire_bytes   bigint NOT NULL DEFAULT 0,
    session_id   uuid
);
COMMENT ON TABLE peersync.set_runs IS 'One row for each run of a table set with one peer';
CREATE INDEX set_runs_set ON peersync.set_runs (set_name, started_at DESC);
CREATE UNIQUE INDEX set_runs_running ON peersync.set_runs (set_name, peer_id) WHERE status = 'running';

CREATE TABLE peersync.link_samples (
    peer_id      text NOT NULL,
    span_s       integer NOT NULL,
    at           timestamptz NOT NULL,
    peer_name    text NOT NULL,
    transactions bigint NOT NULL DEFAULT 0,
    changes      bigint NOT NULL DEFAULT 0,
    raw_bytes    bigint NOT NULL DEFAULT 0,
    wire_bytes   bigint NOT NULL DEFAULT 0,
    conflicts    bigint NOT NULL DEFAULT 0,
    quarantined  bigint NOT NULL DEFAULT 0,
    errors       integer NOT NULL DEFAULT 0,
    lag_p50_s    double precision,
    lag_p95_s    double precision,
    behind_s     double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (peer_id, span_s, at)
);
COMMENT ON TABLE peersync.link_samples IS
    'What came from each peer by periodic sync, in spans of a minute that become hours and days';
COMMENT ON COLUMN peersync.link_samples.lag_p50_s IS
    'From commit there to commit here, of the transactions of the span; null: there was none';
COMMENT ON COLUMN peersync.link_samples.behind_s IS 'How long the link was not in sync, of the span';
CREATE INDEX link_samples_at ON peersync.link_samples (at);
