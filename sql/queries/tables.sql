-- name: waiting
-- How many changes of each table wait in quarantine.
SELECT tbl, count(*) AS waiting FROM peersync.quarantine WHERE state = 'waiting' GROUP BY tbl;

-- name: set_strategy
-- How conflicts of these tables end from now on.
-- $1 tables, $2 strategy
UPDATE peersync.synced_table SET strategy = $2 WHERE tbl = ANY ($1::int[]);

-- name: leave_out
-- A person leaves these tables out; what was not captured before keeps its own reason.
-- $1 tables, $2 reason
UPDATE peersync.synced_table
   SET state = 'excluded', reason = $2, since = pg_catalog.clock_timestamp()
 WHERE tbl = ANY ($1::int[]) AND state IN ('captured', 'refused');

-- name: take_back
-- What a person has left out is to be captured again.
-- $1 tables, $2 the reason that says so
UPDATE peersync.synced_table
   SET state = 'refused', reason = 'not captured yet', since = pg_catalog.clock_timestamp()
 WHERE tbl = ANY ($1::int[]) AND state = 'excluded' AND reason = $2;
