-- name: list
-- What could not be applied, oldest version first: in this order it is tried again.
-- $1 tables (null: all), $2 only what waits, $3 how many
SELECT id, at, cause, state, origin, position, ordinal, hlc, tbl, schema_name, table_name, shape,
       op::text AS op, key, NULL AS image, sqlstate, reason, tries, tried_at, settled_at, settled_by
  FROM peersync.quarantine
 WHERE ($1::int[] IS NULL OR tbl = ANY ($1)) AND (NOT $2::boolean OR state = 'waiting')
 ORDER BY hlc, origin, position, ordinal LIMIT $3;

-- name: of_row
-- What could not be applied of one row.
-- $1 table, $2 key, $3 how many
SELECT id, at, cause, state, origin, position, ordinal, hlc, tbl, schema_name, table_name, shape,
       op::text AS op, key, NULL AS image, sqlstate, reason, tries, tried_at, settled_at, settled_by
  FROM peersync.quarantine
 WHERE tbl = $1 AND key = $2
   AND pg_catalog.hashtextextended(key, 0) = pg_catalog.hashtextextended($2, 0)
 ORDER BY hlc DESC, origin DESC, position DESC, ordinal DESC LIMIT $3;

-- name: get
-- One of them, with its row.
-- $1 id
SELECT id, at, cause, state, origin, position, ordinal, hlc, tbl, schema_name, table_name, shape,
       op::text AS op, key, image, sqlstate, reason, tries, tried_at, settled_at, settled_by
  FROM peersync.quarantine WHERE id = $1;

-- name: lock
-- Keeps everybody else from settling it meanwhile.
-- $1 id
SELECT FROM peersync.quarantine WHERE id = $1 FOR UPDATE;

-- name: waiting
-- The ids of all that waits, in the order of their versions.
-- $1 tables (null: all)
SELECT id FROM peersync.quarantine
 WHERE state = 'waiting' AND ($1::int[] IS NULL OR tbl = ANY ($1))
 ORDER BY hlc, origin, position, ordinal;

-- name: newer_applied
-- Whether a newer change of the same row came out of quarantine before: the log may not have it.
-- $1 id
SELECT count(*)
  FROM peersync.quarantine AS q
  JOIN peersync.quarantine AS n ON n.tbl = q.tbl AND n.key = q.key AND n.state = 'applied'
 WHERE q.id = $1
   AND (n.hlc, n.origin, n.position, n.ordinal) > (q.hlc, q.origin, q.position, q.ordinal);

-- name: unpublished
-- What others have changed of one row here and has no position yet.
-- $1 table, $2 key
SELECT count(*)
  FROM peersync.change AS c
 WHERE c.tbl = $1 AND (c.key = $2 OR c.op = 'T')
   AND c.xid IS DISTINCT FROM pg_catalog.pg_current_xact_id_if_assigned()
   AND NOT pg_catalog.pg_visible_in_snapshot(c.xid, (SELECT published FROM peersync.replica));

-- name: take_back
-- The row as its origin wrote it goes everywhere; for a table without a key.
-- $1 id
INSERT INTO peersync.change (tbl, shape, op, image)
SELECT tbl, shape, 'D', image FROM peersync.quarantine WHERE id = $1;

-- name: settle
-- It needs nobody any more.
-- $1 id, $2 state, $3 who
UPDATE peersync.quarantine
   SET state = $2, settled_at = pg_catalog.clock_timestamp(), settled_by = $3 WHERE id = $1;

-- name: failed_again
-- It was tried, and refused again.
-- $1 id, $2 sqlstate, $3 reason
UPDATE peersync.quarantine
   SET tries = tries + 1, tried_at = pg_catalog.clock_timestamp(), sqlstate = $2, reason = $3
 WHERE id = $1;

-- name: newer_of_table
-- How many changes of a table the log holds that are newer than a version.
-- $1 table, $2 hlc, $3 origin, $4 position, $5 ordinal
SELECT count(*)
  FROM peersync.entry
 WHERE tbl = $1
   AND (hlc, origin, position, ordinal) > ($2::bigint, $3::bigint, $4::bigint, $5::bigint);

-- name: hold_applies
-- No run of another node's changes is applied until this transaction ends: each locks its member.
SELECT FROM peersync.member
 WHERE origin <> (SELECT origin FROM peersync.replica) ORDER BY origin FOR UPDATE;
