-- The log of this database: giving changes their place, and waiting for the next ones.

-- name: publish
-- Gives every committed change its place; waits for whoever does so now.
SELECT published, "position", hlc FROM peersync.publish();

-- name: announce
-- A transaction without changes; what is pending goes before it. Null: no part taken now.
-- $1 kind, $2 info as jsonb or null
SELECT "position", hlc FROM peersync.announce($1::text::"char", $2::text::jsonb);

-- name: lock
-- Nobody else publishes until this session unlocks or ends.
SELECT pg_catalog.pg_advisory_lock(x'70737963'::int, pg_catalog.hashtext('publish'));

-- name: unlock
-- Ends what `lock` began.
SELECT pg_catalog.pg_advisory_unlock(x'70737963'::int, pg_catalog.hashtext('publish'));

-- name: fall_asleep
-- From now on a writer sends a notification. False while one is writing that will not.
SELECT pg_catalog.pg_try_advisory_lock(x'70737963'::int, pg_catalog.hashtext('awake')) AS asleep;

-- name: wake_up
-- Ends what `fall_asleep` began.
SELECT pg_catalog.pg_advisory_unlock(x'70737963'::int, pg_catalog.hashtext('awake'));

-- name: pending
-- Whether there is a committed change without a place.
SELECT EXISTS (
    SELECT FROM peersync.replica AS r
     CROSS JOIN LATERAL peersync.ended_between(r.published, peersync.snapshot_without_self()) AS e
     CROSS JOIN LATERAL (SELECT FROM peersync.change AS c
                          WHERE c.xid >= e.low AND c.xid <= e.high ORDER BY c.xid LIMIT 1) AS c
     WHERE r.state = 'active') AS pending;

-- name: prepared_possible
-- Whether somebody may PREPARE a transaction here, which then must not have notified.
SELECT pg_catalog.current_setting('max_prepared_transactions')::int > 0 AS possible;
