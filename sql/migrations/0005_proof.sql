-- What verifications have found: the last state of each table with each peer, and the runs.

CREATE TABLE peersync.table_proofs (
    peer_id       text NOT NULL,
    table_schema  text NOT NULL,
    table_name    text NOT NULL,
    peer_name     text NOT NULL,
    result        text NOT NULL
                  CHECK (result IN ('equal', 'partly', 'differs', 'in flight', 'not compared', 'failed')),
    intended      boolean NOT NULL DEFAULT false,
    reason        text,
    checked_at    timestamptz NOT NULL,
    proved_at     timestamptz,
    differs_since timestamptz,
    different     bigint NOT NULL DEFAULT 0,
    missing       bigint NOT NULL DEFAULT 0,
    extra         bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (peer_id, table_schema, table_name)
);
COMMENT ON TABLE peersync.table_proofs IS
    'What is known of each table with each peer: when it was last compared, and last proved identical';
COMMENT ON COLUMN peersync.table_proofs.intended IS 'It is not compared because somebody configured it so';

CREATE TABLE peersync.verifications (
    verify_id    uuid PRIMARY KEY,
    peer_id      text NOT NULL,
    peer_name    text NOT NULL,
    result       text,
    requested_by text NOT NULL,
    started_at   timestamptz NOT NULL,
    completed_at timestamptz NOT NULL,
    view         jsonb NOT NULL
);
COMMENT ON TABLE peersync.verifications IS 'The newest verifications with each peer';
COMMENT ON COLUMN peersync.verifications.view IS 'All that was found, with keys and without values';
CREATE INDEX verifications_started_at ON peersync.verifications (peer_id, started_at DESC);

CREATE TABLE peersync.repairs (
    repair_id  uuid PRIMARY KEY,
    peer_id    text NOT NULL,
    started_at timestamptz NOT NULL,
    ended      boolean NOT NULL,
    view       jsonb NOT NULL
);
COMMENT ON TABLE peersync.repairs IS 'The newest repairs with each peer, and those that are under way';
COMMENT ON COLUMN peersync.repairs.view IS 'How far it is, and what was found, with keys and without values';

-- Continuous proof. What is known of a table without reading it: the digests of all its blocks in
-- one view of it, and what may have changed since. All that such a list rests on is in its row: where
-- one of these things is not what it was, the list says nothing.
CREATE TABLE peersync.proof_list (
    list         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_schema text NOT NULL,
    table_name   text NOT NULL,
    form         text NOT NULL,
    shape        jsonb NOT NULL,
    asked_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    armed        boolean NOT NULL DEFAULT false,
    stamp        text,
    origin       bigint,
    position     bigint,
    snapshot     pg_snapshot,
    advanced_at  timestamptz,
    tbl          integer,
    UNIQUE (table_schema, table_name, form)
);
COMMENT ON TABLE peersync.proof_list IS 'Tables whose digests are kept, each in the form in which a verification hashes it';
COMMENT ON COLUMN peersync.proof_list.armed IS 'Every session that applies changes has seen that this list is there';
COMMENT ON COLUMN peersync.proof_list.stamp IS
    'The relation, its columns, types, capture and so on when the list was begun; null: it was not';
COMMENT ON COLUMN peersync.proof_list.snapshot IS
    'What is visible in it is in the digests, or its block is marked; the rest is in the log';
COMMENT ON COLUMN peersync.proof_list.position IS 'How far this database had published then: the log is needed from there';

CREATE TABLE peersync.proof_block (
    list    bigint NOT NULL,
    place   numeric NOT NULL,
    low     text[],
    rows    bigint,
    digest  bigint,
    read_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (list, place)
);
COMMENT ON TABLE peersync.proof_block IS 'The blocks of a list in the order of their keys: each ends where the next begins';
COMMENT ON COLUMN peersync.proof_block.low IS 'The key where it begins; null in front of all keys';
COMMENT ON COLUMN peersync.proof_block.rows IS 'Null: these keys were never read';
COMMENT ON COLUMN peersync.proof_block.digest IS 'Null: a row of it has changed since it was read';
CREATE INDEX proof_block_unread ON peersync.proof_block (list, place) WHERE digest IS NULL;

CREATE TABLE peersync.proof_mark (
    xid          xid8 NOT NULL DEFAULT pg_current_xact_id(),
    table_schema text,
    table_name   text,
    shape        bigint,
    key          text
);
COMMENT ON TABLE peersync.proof_mark IS
    'Rows that peersync itself has written, which no trigger of ours sees; no key: any row; no table: of any table';
CREATE INDEX proof_mark_xid ON peersync.proof_mark (xid);
