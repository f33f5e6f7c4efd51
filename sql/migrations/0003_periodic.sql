-- Periodic sync: the log of changes, who takes part in it, and what each of them has seen.
-- An origin is a database as a source of changes: a random number, new when it joins anew.
-- A vector is jsonb: {"<origin>": position}, the highest position of each that is applied.

CREATE TABLE peersync.replica (
    only_one    boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    group_id    uuid NOT NULL,
    origin      bigint NOT NULL CHECK (origin > 0),
    node_id     text NOT NULL,
    state       text NOT NULL DEFAULT 'active'
                CHECK (state IN ('joining', 'active', 'held', 'expired')),
    reason      text,
    direction   text NOT NULL DEFAULT 'both' CHECK (direction IN ('both', 'receive', 'give')),
    position    bigint NOT NULL DEFAULT 0,
    hlc         bigint NOT NULL DEFAULT 0,
    published   pg_snapshot NOT NULL,
    since       timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE peersync.replica IS 'This database as a member of its group; no row: no periodic sync';
COMMENT ON COLUMN peersync.replica.direction IS
    'receive: its own changes are given to nobody; give: the changes of others are not applied';
COMMENT ON COLUMN peersync.replica.hlc IS
    'Hybrid logical clock in microseconds since 1970: nothing published or applied here is newer';
COMMENT ON COLUMN peersync.replica.published IS
    'The changes of every transaction that is visible in it have a position';

CREATE TABLE peersync.member (
    origin      bigint PRIMARY KEY CHECK (origin > 0),
    node_id     text NOT NULL,
    node_name   text NOT NULL,
    state       text NOT NULL DEFAULT 'member' CHECK (state IN ('member', 'joining', 'left', 'expired')),
    applied     bigint NOT NULL DEFAULT 0,
    applied_hlc bigint NOT NULL DEFAULT 0,
    floor       bigint NOT NULL DEFAULT 0,
    seen        jsonb NOT NULL DEFAULT '{}',
    sponsor     bigint,
    joined_at   bigint,
    info        jsonb NOT NULL DEFAULT '{}',
    since       timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE peersync.member IS
    'Every origin of the group, this database''s own too: how far it is applied here, what it has seen';
COMMENT ON COLUMN peersync.member.floor IS 'Up to this position its transactions have left our log';
COMMENT ON COLUMN peersync.member.seen IS
    'The vector of its highest transaction here: for this database, of the last that it published';
COMMENT ON COLUMN peersync.member.joined_at IS 'The sponsor''s position that made it a member';

CREATE TABLE peersync.synced_table (
    tbl         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    schema_name text NOT NULL,
    table_name  text NOT NULL,
    relation    oid,
    home        text,
    shape       bigint,
    state       text NOT NULL DEFAULT 'captured'
                CHECK (state IN ('captured', 'excluded', 'refused', 'gone', 'unknown')),
    reason      text,
    parked      text,
    parked_at   timestamptz,
    parked_relation oid,
    parked_shape bigint,
    strategy    text NOT NULL DEFAULT 'newer_wins',
    since       timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (schema_name, table_name)
);
COMMENT ON TABLE peersync.synced_table IS
    'Every table that periodic sync knows of: captured here, left out and why, or known from a peer';
COMMENT ON COLUMN peersync.synced_table.home IS
    'The database in which `relation` is that table: in one that a dump was restored into, it is not';
COMMENT ON COLUMN peersync.synced_table.parked IS
    'Why incoming changes of this table wait (its shape differs, it is missing); null: they do not';
COMMENT ON COLUMN peersync.synced_table.parked_relation IS
    'The table that was here when the oldest waiting change came; 0: it had been dropped';
COMMENT ON COLUMN peersync.synced_table.parked_shape IS 'The shape that this table had';

-- What the columns of an image are. The number is a hash of the rest, the same on every node.
-- Capture may have to write one inside a user's transaction: no unique index, which could wait.
CREATE TABLE peersync.shape (
    shape       bigint NOT NULL,
    schema_name text NOT NULL,
    table_name  text NOT NULL,
    columns     text[] NOT NULL,
    types       text[] NOT NULL,
    key         text[] NOT NULL,
    since       timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE peersync.shape IS 'Column lists of images; a shape may be here more than once';
CREATE INDEX shape_shape ON peersync.shape (shape);

-- What the triggers write, in no order that means anything until it is published.
CREATE TABLE peersync.change (
    id      bigint GENERATED ALWAYS AS IDENTITY,
    xid     xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    tbl     integer NOT NULL,
    shape   bigint NOT NULL,
    op      "char" NOT NULL,
    key     text,
    image   text,
    old     text
);
COMMENT ON TABLE peersync.change IS 'Changes made here, as the triggers caught them';
COMMENT ON COLUMN peersync.change.op IS
    'I insert, U update, D delete, T truncate, X a row whose text no server could build';
COMMENT ON COLUMN peersync.change.key IS 'ROW(key columns)::text; null for T and for tables without a key';
COMMENT ON COLUMN peersync.change.image IS 'The row as text; for tables without a key also of a D';
COMMENT ON COLUMN peersync.change.old IS 'The row before it, where the strategy of its table needs it';
CREATE INDEX change_xid_id ON peersync.change (xid, id);

CREATE TABLE peersync.transaction (
    origin   bigint NOT NULL,
    position bigint NOT NULL,
    hlc      bigint NOT NULL,
    kind     "char" NOT NULL DEFAULT 'd',
    xid      xid8,
    changes  integer NOT NULL DEFAULT 0,
    bytes    bigint NOT NULL DEFAULT 0,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen     jsonb NOT NULL DEFAULT '{}',
    info     jsonb,
    PRIMARY KEY (origin, position)
);
COMMENT ON TABLE peersync.transaction IS
    'The log in order: own transactions, and those of others that are kept to be relayed';
COMMENT ON COLUMN peersync.transaction.kind IS
    'd data, b heartbeat, j join, l leave, e expire, w word for an expiry, c conflict decided; only d has changes';
COMMENT ON COLUMN peersync.transaction.xid IS 'Of an own transaction: its changes are those of this xid';
COMMENT ON COLUMN peersync.transaction.seen IS
    'What its origin had applied of the other origins when it published it';
CREATE INDEX transaction_xid ON peersync.transaction (xid) WHERE xid IS NOT NULL;
CREATE INDEX transaction_hlc ON peersync.transaction (hlc);

-- What was written in a database that only receives: never given a position, so in nobody's way.
CREATE TABLE peersync.withheld (
    id      bigint PRIMARY KEY,
    at      timestamptz NOT NULL,
    tbl     integer NOT NULL,
    shape   bigint NOT NULL,
    op      "char" NOT NULL,
    key     text,
    image   text,
    old     text
);
COMMENT ON TABLE peersync.withheld IS
    'Changes of a database that only receives, until one that comes in takes their place';
CREATE INDEX withheld_row ON peersync.withheld (tbl, hashtextextended(key, 0));

CREATE TABLE peersync.relayed (
    origin   bigint NOT NULL,
    position bigint NOT NULL,
    ordinal  bigint NOT NULL,
    at       timestamptz NOT NULL,
    tbl      integer NOT NULL,
    shape    bigint NOT NULL,
    op       "char" NOT NULL,
    key      text,
    image    text,
    old      text,
    PRIMARY KEY (origin, position, ordinal)
);
COMMENT ON TABLE peersync.relayed IS
    'Changes of other origins that some member may still need, or that may still be in conflict';

CREATE VIEW peersync.entry AS
SELECT t.origin, t.position, c.id AS ordinal, t.hlc, c.at, c.tbl, c.shape, c.op, c.key, c.image, c.old
  FROM peersync.transaction AS t JOIN peersync.change AS c ON c.xid = t.xid
UNION ALL
SELECT t.origin, t.position, r.ordinal, t.hlc, r.at, r.tbl, r.shape, r.op, r.key, r.image, r.old
  FROM peersync.transaction AS t JOIN peersync.relayed AS r USING (origin, position);
COMMENT ON VIEW peersync.entry IS 'Every change that the log holds, with its version (hlc, origin)';

-- For tables whose strategy is more than "newer wins": a row without its kept entries.
CREATE TABLE peersync.row_base (
    tbl     integer NOT NULL,
    key     text NOT NULL,
    shape   bigint NOT NULL,
    image   text,
    since   timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE peersync.row_base IS
    'The state of a row that was in conflict, before the entries of it that the log still holds';
-- A key may be longer than an entry of an index: 128 bits of hash stand for it. (Two seeds, and not
-- md5(), which some servers may not compute.)
CREATE UNIQUE INDEX row_base_row ON peersync.row_base
    (tbl, hashtextextended(key, 0), hashtextextended(key, 1));

CREATE TABLE peersync.conflict (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    tbl             integer NOT NULL,
    schema_name     text NOT NULL,
    table_name      text NOT NULL,
    key             text,
    kind            text NOT NULL,
    strategy        text NOT NULL,
    winner          text NOT NULL CHECK (winner IN ('kept', 'incoming', 'merged')),
    reason          text NOT NULL,
    state           text NOT NULL DEFAULT 'resolved' CHECK (state IN ('resolved', 'open', 'restored')),
    kept_origin     bigint NOT NULL,
    kept_position   bigint,
    kept_hlc        bigint,
    kept_op         "char",
    kept_shape      bigint,
    kept_image      text,
    in_origin       bigint NOT NULL,
    in_position     bigint NOT NULL,
    in_ordinal      bigint NOT NULL,
    in_hlc          bigint NOT NULL,
    in_op           "char" NOT NULL,
    in_shape        bigint NOT NULL,
    in_image        text,
    settled_at      timestamptz,
    settled_by      text,
    settled_how     text
);
COMMENT ON TABLE peersync.conflict IS
    'Two changes of one row, neither of which had seen the other: which one the row has now, and why';
COMMENT ON COLUMN peersync.conflict.kind IS
    'insert_exists, update_origin_differs, update_missing, delete_origin_differs and so on: PostgreSQL 18''s names';
CREATE INDEX conflict_at ON peersync.conflict (at DESC);
CREATE INDEX conflict_row ON peersync.conflict (tbl, hashtextextended(key, 0));

CREATE TABLE peersync.quarantine (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    cause       text NOT NULL CHECK (cause IN ('row', 'table')),
    state       text NOT NULL DEFAULT 'waiting'
                CHECK (state IN ('waiting', 'applied', 'skipped', 'superseded')),
    origin      bigint NOT NULL,
    position    bigint NOT NULL,
    ordinal     bigint NOT NULL,
    hlc         bigint NOT NULL,
    changed_at  timestamptz NOT NULL,
    tbl         integer NOT NULL,
    schema_name text NOT NULL,
    table_name  text NOT NULL,
    shape       bigint NOT NULL,
    op          "char" NOT NULL,
    key         text,
    image       text,
    old         text,
    sqlstate    text,
    reason      text NOT NULL,
    tries       integer NOT NULL DEFAULT 1,
    tried_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at  timestamptz,
    settled_by  text,
    UNIQUE (origin, position, ordinal)
);
COMMENT ON TABLE peersync.quarantine IS
    'Changes that arrived and could not be applied: one refused row, or all of a parked table';
CREATE INDEX quarantine_waiting ON peersync.quarantine (tbl, hashtextextended(key, 0)) WHERE state = 'waiting';

CREATE TABLE peersync.link (
    node_id     text PRIMARY KEY,
    paused      boolean NOT NULL DEFAULT false,
    paused_by   text,
    paused_at   timestamptz
);
COMMENT ON TABLE peersync.link IS 'What an operator has set for a peer of this database';

-- What is deleted leaves room for new rows soon. Cutting off empty pages takes a lock that capture,
-- and with it people's statements, would wait for.
ALTER TABLE peersync.change SET (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05,
    vacuum_truncate = off, toast.vacuum_truncate = off);
ALTER TABLE peersync.transaction SET (autovacuum_vacuum_scale_factor = 0.05);
