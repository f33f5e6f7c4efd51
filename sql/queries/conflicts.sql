-- name: list
-- The newest conflicts, without their rows.
-- $1 tables (null: all), $2 only those that wait for a person, $3 how many
SELECT id, at, tbl, schema_name, table_name, key, kind, strategy, winner, reason, state,
       kept_origin, kept_position, kept_hlc, kept_op::text AS kept_op, kept_shape, NULL AS kept_image,
       in_origin, in_position, in_ordinal, in_hlc, in_op::text AS in_op, in_shape, NULL AS in_image,
       settled_at, settled_by, settled_how
  FROM peersync.conflict
 WHERE ($1::int[] IS NULL OR tbl = ANY ($1)) AND (NOT $2::boolean OR state = 'open')
 ORDER BY id DESC LIMIT $3;

-- name: get
-- One conflict, with both rows.
-- $1 id
SELECT id, at, tbl, schema_name, table_name, key, kind, strategy, winner, reason, state,
       kept_origin, kept_position, kept_hlc, kept_op::text AS kept_op, kept_shape, kept_image,
       in_origin, in_position, in_ordinal, in_hlc, in_op::text AS in_op, in_shape, in_image,
       settled_at, settled_by, settled_how
  FROM peersync.conflict WHERE id = $1;

-- name: lock
-- Keeps everybody else from settling a conflict meanwhile.
-- $1 id
SELECT FROM peersync.conflict WHERE id = $1 FOR UPDATE;

-- name: of_row
-- The conflicts of one row, newest first, without the rows.
-- $1 table, $2 key, $3 how many
SELECT id, at, tbl, schema_name, table_name, key, kind, strategy, winner, reason, state,
       kept_origin, kept_position, kept_hlc, kept_op::text AS kept_op, kept_shape, NULL AS kept_image,
       in_origin, in_position, in_ordinal, in_hlc, in_op::text AS in_op, in_shape, NULL AS in_image,
       settled_at, settled_by, settled_how
  FROM peersync.conflict WHERE tbl = $1 AND key = $2 ORDER BY id DESC LIMIT $3;

-- name: settle
-- A person has decided.
-- $1 id, $2 state, $3 who, $4 how
UPDATE peersync.conflict
   SET state = $2, settled_at = pg_catalog.clock_timestamp(), settled_by = $3, settled_how = $4
 WHERE id = $1;


-- name: decided
-- A person has decided on another node: what is open of that row, and was known there.
-- $1 schema, $2 table, $3 key, $4 what was known, as vector, $5 who, $6 how, $7 the other's origin
UPDATE peersync.conflict AS c
   SET state = 'resolved', settled_at = pg_catalog.clock_timestamp(), settled_how = $6,
       settled_by = pg_catalog.concat($5::text, ' on ', (
           SELECT m.node_name FROM peersync.member AS m WHERE m.origin = $7))
 WHERE c.state = 'open' AND c.schema_name = $1 AND c.table_name = $2 AND c.key = $3
   AND c.kept_position <= coalesce(($4::jsonb ->> c.kept_origin::text)::bigint, 0)
   AND c.in_position <= coalesce(($4::jsonb ->> c.in_origin::text)::bigint, 0);
