-- What the migration runner itself needs, before any migration. Run on each migrate.
CREATE TABLE IF NOT EXISTS peersync.migration (
    number      integer PRIMARY KEY,
    name        text NOT NULL,
    sha256      text NOT NULL,
    breaking    boolean NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    by_version  text NOT NULL
);
COMMENT ON TABLE peersync.migration IS
    'The migrations that this schema has; code that does not know a breaking one refuses to run';

CREATE TABLE IF NOT EXISTS peersync.functions_version (
    only_one    boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    sha256      text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    by_version  text NOT NULL
);
COMMENT ON TABLE peersync.functions_version IS
    'The hash over all function files: where it differs from the code''s, they are created again';
