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

CREATE TABLE peersync.change (
    id bigint NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    tbl integer NOT NULL,
    shape bigint NOT NULL,
    op "char" NOT NULL,
    key text,
    image text,
    old text
)
WITH (autovacuum_vacuum_scale_factor='0.05', autovacuum_analyze_scale_factor='0.05');

COMMENT ON TABLE peersync.change IS 'Changes made here, as the triggers caught them';

COMMENT ON COLUMN peersync.change.op IS 'I insert, U update, D delete, T truncate, X a row whose text no server could build';

COMMENT ON COLUMN peersync.change.key IS 'ROW(key columns)::text; null for T and for tables without a key';

COMMENT ON COLUMN peersync.change.image IS 'The row as text; for tables without a key also of a D';

COMMENT ON COLUMN peersync.change.old IS 'The row before it, where the strategy of its table needs it';

ALTER TABLE peersync.change ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME peersync.change_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE peersync.conflict (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    tbl integer NOT NULL,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    key text,
    kind text NOT NULL,
    strategy text NOT NULL,
    winner text NOT NULL,
    reason text NOT NULL,
    state text DEFAULT 'resolved'::text NOT NULL,
    kept_origin bigint NOT NULL,
    kept_position bigint,
    kept_hlc bigint,
    kept_op "char",
    kept_shape bigint,
    kept_image text,
    in_origin bigint NOT NULL,
    in_position bigint NOT NULL,
    in_ordinal bigint NOT NULL,
    in_hlc bigint NOT NULL,
    in_op "char" NOT NULL,
    in_shape bigint NOT NULL,
    in_image text,
    settled_at timestamp with time zone,
    settled_by text,
    settled_how text,
    CONSTRAINT conflict_state_check CHECK ((state = ANY (ARRAY['resolved'::text, 'open'::text, 'restored'::text]))),
    CONSTRAINT conflict_winner_check CHECK ((winner = ANY (ARRAY['kept'::text, 'incoming'::text, 'merged'::text])))
);

COMMENT ON TABLE peersync.conflict IS 'Two changes of one row, neither of which had seen the other: which one the row has now, and why';

COMMENT ON COLUMN peersync.conflict.kind IS 'insert_exists, update_origin_differs, update_missing, delete_origin_differs, …: PostgreSQL 18''s names';

ALTER TABLE peersync.conflict ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME peersync.conflict_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE peersync.relayed (
    origin bigint NOT NULL,
    "position" bigint NOT NULL,
    ordinal bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    tbl integer NOT NULL,
    shape bigint NOT NULL,
    op "char" NOT NULL,
    key text,
    image text,
    old text
);

COMMENT ON TABLE peersync.relayed IS 'Changes of other origins that some member may still need, or that may still be in conflict';

CREATE TABLE peersync.transaction (
    origin bigint NOT NULL,
    "position" bigint NOT NULL,
    hlc bigint NOT NULL,
    kind "char" DEFAULT 'd'::"char" NOT NULL,
    xid xid8,
    changes integer DEFAULT 0 NOT NULL,
    bytes bigint DEFAULT 0 NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    seen jsonb DEFAULT '{}'::jsonb NOT NULL,
    info jsonb
)
WITH (autovacuum_vacuum_scale_factor='0.05');

COMMENT ON TABLE peersync.transaction IS 'The log in order: own transactions, and those of others that are kept to be relayed';

COMMENT ON COLUMN peersync.transaction.kind IS 'd data, b heartbeat, j join, l leave, e expire; only d has changes';

COMMENT ON COLUMN peersync.transaction.xid IS 'Of an own transaction: its changes are those of this xid';

COMMENT ON COLUMN peersync.transaction.seen IS 'What its origin had applied of the other origins when it published it';

CREATE VIEW peersync.entry AS
 SELECT t.origin,
    t."position",
    c.id AS ordinal,
    t.hlc,
    c.at,
    c.tbl,
    c.shape,
    c.op,
    c.key,
    c.image,
    c.old
   FROM (peersync.transaction t
     JOIN peersync.change c ON ((c.xid = t.xid)))
UNION ALL
 SELECT t.origin,
    t."position",
    r.ordinal,
    t.hlc,
    r.at,
    r.tbl,
    r.shape,
    r.op,
    r.key,
    r.image,
    r.old
   FROM (peersync.transaction t
     JOIN peersync.relayed r USING (origin, "position"));

COMMENT ON VIEW peersync.entry IS 'Every change that the log holds, with its version (hlc, origin)';

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

CREATE TABLE peersync.link (
    node_id text NOT NULL,
    paused boolean DEFAULT false NOT NULL,
    paused_by text,
    paused_at timestamp with time zone
);

COMMENT ON TABLE peersync.link IS 'What an operator has set for a peer of this database';

CREATE TABLE peersync.member (
    origin bigint NOT NULL,
    node_id text NOT NULL,
    node_name text NOT NULL,
    state text DEFAULT 'member'::text NOT NULL,
    applied bigint DEFAULT 0 NOT NULL,
    applied_hlc bigint DEFAULT 0 NOT NULL,
    floor bigint DEFAULT 0 NOT NULL,
    seen jsonb DEFAULT '{}'::jsonb NOT NULL,
    sponsor bigint,
    joined_at bigint,
    info jsonb DEFAULT '{}'::jsonb NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT member_origin_check CHECK ((origin > 0)),
    CONSTRAINT member_state_check CHECK ((state = ANY (ARRAY['member'::text, 'joining'::text, 'left'::text, 'expired'::text])))
);

COMMENT ON TABLE peersync.member IS 'Every origin of the group, this database''s own too: how far it is applied here, what it has seen';

COMMENT ON COLUMN peersync.member.floor IS 'Up to this position its transactions have left our log';

COMMENT ON COLUMN peersync.member.seen IS 'The vector of its highest transaction here: for this database, of the last that it published';

COMMENT ON COLUMN peersync.member.joined_at IS 'The sponsor''s position that made it a member';

CREATE TABLE peersync.migration (
    number integer NOT NULL,
    name text NOT NULL,
    sha256 text NOT NULL,
    breaking boolean NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    by_version text NOT NULL
);

COMMENT ON TABLE peersync.migration IS 'The migrations that this schema has; code that does not know a breaking one refuses to run';

CREATE TABLE peersync.quarantine (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    cause text NOT NULL,
    state text DEFAULT 'waiting'::text NOT NULL,
    origin bigint NOT NULL,
    "position" bigint NOT NULL,
    ordinal bigint NOT NULL,
    hlc bigint NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    tbl integer NOT NULL,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    shape bigint NOT NULL,
    op "char" NOT NULL,
    key text,
    image text,
    old text,
    sqlstate text,
    reason text NOT NULL,
    tries integer DEFAULT 1 NOT NULL,
    tried_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    settled_at timestamp with time zone,
    settled_by text,
    CONSTRAINT quarantine_cause_check CHECK ((cause = ANY (ARRAY['row'::text, 'table'::text]))),
    CONSTRAINT quarantine_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'applied'::text, 'skipped'::text, 'superseded'::text])))
);

COMMENT ON TABLE peersync.quarantine IS 'Changes that arrived and could not be applied: one refused row, or all of a parked table';

ALTER TABLE peersync.quarantine ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME peersync.quarantine_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE peersync.replica (
    only_one boolean DEFAULT true NOT NULL,
    group_id uuid NOT NULL,
    origin bigint NOT NULL,
    node_id text NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    reason text,
    "position" bigint DEFAULT 0 NOT NULL,
    hlc bigint DEFAULT 0 NOT NULL,
    published pg_snapshot NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT replica_only_one_check CHECK (only_one),
    CONSTRAINT replica_origin_check CHECK ((origin > 0)),
    CONSTRAINT replica_state_check CHECK ((state = ANY (ARRAY['joining'::text, 'active'::text, 'held'::text, 'expired'::text])))
);

COMMENT ON TABLE peersync.replica IS 'This database as a member of its group; no row: no periodic sync';

COMMENT ON COLUMN peersync.replica.hlc IS 'Hybrid logical clock in microseconds since 1970: nothing published or applied here is newer';

COMMENT ON COLUMN peersync.replica.published IS 'The changes of every transaction that is visible in it have a position';

CREATE TABLE peersync.row_base (
    tbl integer NOT NULL,
    key text NOT NULL,
    shape bigint NOT NULL,
    image text,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

COMMENT ON TABLE peersync.row_base IS 'The state of a row that was in conflict, before the entries of it that the log still holds';

CREATE TABLE peersync.shape (
    shape bigint NOT NULL,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    columns text[] NOT NULL,
    types text[] NOT NULL,
    key text[] NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

COMMENT ON TABLE peersync.shape IS 'Column lists of images; a shape may be here more than once';

CREATE TABLE peersync.synced_table (
    tbl integer NOT NULL,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    relation oid,
    shape bigint,
    state text DEFAULT 'captured'::text NOT NULL,
    reason text,
    parked text,
    parked_at timestamp with time zone,
    strategy text DEFAULT 'newer_wins'::text NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT synced_table_state_check CHECK ((state = ANY (ARRAY['captured'::text, 'excluded'::text, 'refused'::text, 'gone'::text, 'unknown'::text])))
);

COMMENT ON TABLE peersync.synced_table IS 'Every table that periodic sync knows of: captured here, left out and why, or known from a peer';

COMMENT ON COLUMN peersync.synced_table.parked IS 'Why incoming changes of this table wait (its shape differs, it is missing); null: they do not';

ALTER TABLE peersync.synced_table ALTER COLUMN tbl ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME peersync.synced_table_tbl_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY peersync.baselines
    ADD CONSTRAINT baselines_pkey PRIMARY KEY (session_id);

ALTER TABLE ONLY peersync.conflict
    ADD CONSTRAINT conflict_pkey PRIMARY KEY (id);

ALTER TABLE ONLY peersync.full_sync_sessions
    ADD CONSTRAINT full_sync_sessions_pkey PRIMARY KEY (session_id);

ALTER TABLE ONLY peersync.functions_version
    ADD CONSTRAINT functions_version_pkey PRIMARY KEY (only_one);

ALTER TABLE ONLY peersync.leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (name);

ALTER TABLE ONLY peersync.link
    ADD CONSTRAINT link_pkey PRIMARY KEY (node_id);

ALTER TABLE ONLY peersync.member
    ADD CONSTRAINT member_pkey PRIMARY KEY (origin);

ALTER TABLE ONLY peersync.migration
    ADD CONSTRAINT migration_pkey PRIMARY KEY (number);

ALTER TABLE ONLY peersync.quarantine
    ADD CONSTRAINT quarantine_origin_position_ordinal_key UNIQUE (origin, "position", ordinal);

ALTER TABLE ONLY peersync.quarantine
    ADD CONSTRAINT quarantine_pkey PRIMARY KEY (id);

ALTER TABLE ONLY peersync.relayed
    ADD CONSTRAINT relayed_pkey PRIMARY KEY (origin, "position", ordinal);

ALTER TABLE ONLY peersync.replica
    ADD CONSTRAINT replica_pkey PRIMARY KEY (only_one);

ALTER TABLE ONLY peersync.row_base
    ADD CONSTRAINT row_base_pkey PRIMARY KEY (tbl, key);

ALTER TABLE ONLY peersync.synced_table
    ADD CONSTRAINT synced_table_pkey PRIMARY KEY (tbl);

ALTER TABLE ONLY peersync.synced_table
    ADD CONSTRAINT synced_table_schema_name_table_name_key UNIQUE (schema_name, table_name);

ALTER TABLE ONLY peersync.transaction
    ADD CONSTRAINT transaction_pkey PRIMARY KEY (origin, "position");

CREATE INDEX change_xid_id ON peersync.change USING btree (xid, id);

CREATE INDEX conflict_at ON peersync.conflict USING btree (at DESC);

CREATE INDEX conflict_row ON peersync.conflict USING btree (tbl, key);

CREATE INDEX full_sync_sessions_started_at ON peersync.full_sync_sessions USING btree (started_at DESC);

CREATE INDEX quarantine_waiting ON peersync.quarantine USING btree (tbl, key) WHERE (state = 'waiting'::text);

CREATE INDEX shape_shape ON peersync.shape USING btree (shape);

CREATE INDEX transaction_hlc ON peersync.transaction USING btree (hlc);

CREATE INDEX transaction_xid ON peersync.transaction USING btree (xid) WHERE (xid IS NOT NULL);
