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

-- name: nodes
-- Every origin of the group, with the name of its node.
SELECT origin, node_name FROM peersync.member;

-- name: merge_function
-- A function that makes one row of several.
-- $1 schema, $2 name
SELECT p.provolatile::text AS volatility,
       pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
       AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS may
  FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
 WHERE n.nspname = $1 AND p.proname = $2 AND p.prokind = 'f' AND NOT p.proretset
   AND p.prorettype = 'pg_catalog.jsonb'::pg_catalog.regtype
   AND p.pronargs = 1 AND p.proargtypes[0] = 'pg_catalog.jsonb'::pg_catalog.regtype;
