-- Syncs of only some rows.

-- name: since
-- The server's time so many seconds ago, in UTC and without a zone.
-- $1 seconds
SELECT pg_catalog.to_char(
           (pg_catalog.now() AT TIME ZONE 'UTC') - pg_catalog.make_interval(secs => $1::float8),
           'YYYY-MM-DD HH24:MI:SS.US') AS since;
