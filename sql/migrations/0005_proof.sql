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
