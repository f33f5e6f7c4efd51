"""SQL that ships with the package; see peersync.postgres.sqlfiles."""
