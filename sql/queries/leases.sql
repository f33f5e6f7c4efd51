-- name: try_lock
-- Takes the advisory lock of a name for this database session, or says that somebody has it.
-- $1 name
SELECT pg_catalog.pg_try_advisory_lock(x'70737963'::int, pg_catalog.hashtext($1)) AS locked;

-- name: unlock
-- Gives the advisory lock of a name back.
-- $1 name
SELECT pg_catalog.pg_advisory_unlock(x'70737963'::int, pg_catalog.hashtext($1));

-- name: take_lease
-- Becomes the holder: a new fence number, which every earlier holder's commit will fail on.
-- $1 name, $2 holder as jsonb
INSERT INTO peersync.leases AS l (name, fence, holder)
VALUES ($1, 1, $2)
ON CONFLICT (name) DO UPDATE
   SET fence = l.fence + 1, holder = excluded.holder, since = clock_timestamp()
RETURNING fence;

-- name: holder
-- Who holds the lease, and since when.
-- $1 name
SELECT holder, fence, since FROM peersync.leases WHERE name = $1;

-- name: check_fence
-- Locks the lease's row and gives its fence, inside the transaction that is about to commit.
-- $1 name
SELECT fence FROM peersync.leases WHERE name = $1 FOR UPDATE;

-- name: end_leftovers
-- Ends the sessions of a job whose process is gone: its role and database, not this session,
-- and not the ANALYZE that a sync which ended well does afterwards.
-- $1 the first eight digits of the job
WITH found AS MATERIALIZED ( -- a WHERE has no order: it would end this session, too
    SELECT a.pid, a.application_name
      FROM pg_catalog.pg_stat_activity a
     WHERE a.datname = current_database() AND a.usename = current_user
       AND a.application_name LIKE 'peersync/%/' || $1
       AND a.application_name NOT LIKE 'peersync/analyze/%'
       AND a.pid <> pg_catalog.pg_backend_pid())
SELECT application_name, pg_catalog.pg_terminate_backend(pid) AS ended FROM found;
