-- name: list
-- The newest conflicts, without their rows. null is any.
-- $1 tables, $2 state, $3 origins of one side, $4 kind, $5 strategy, $6 since, $7 until, $8 only
-- those with a smaller id, $9 how many
SELECT id, at, tbl, schema_name, table_name, key, kind, strategy, winner, reason, state,
       kept_origin, kept_position, kept_hlc, kept_op::text AS kept_op, kept_shape, NULL AS kept_image,
       in_origin, in_position, in_ordinal, in_hlc, in_op::text AS in_op, in_shape, NULL AS in_image,
       settled_at, settled_by, settled_how
  FROM peersync.conflict
 WHERE ($1::int[] IS NULL OR tbl = ANY ($1)) AND ($2::text IS NULL OR state = $2)
   AND ($3::bigint[] IS NULL OR in_origin = ANY ($3) OR kept_origin = ANY ($3))
   AND ($4::text IS NULL OR kind = $4)
   AND ($5::text IS NULL OR strategy = $5 OR pg_catalog.split_part(strategy, '(', 1) = $5)
   AND ($6::timestamptz IS NULL OR at >= $6) AND ($7::timestamptz IS NULL OR at < $7)
   AND ($8::bigint IS NULL OR id < $8)
 ORDER BY id DESC LIMIT $9;

-- name: count
-- How many that `list` would give there are, by table, and the newest of each.
-- $1 to $8 as there
SELECT schema_name, table_name, count(*) AS conflicts, max(id) AS newest
  FROM peersync.conflict
 WHERE ($1::int[] IS NULL OR tbl = ANY ($1)) AND ($2::text IS NULL OR state = $2)
   AND ($3::bigint[] IS NULL OR in_origin = ANY ($3) OR kept_origin = ANY ($3))
   AND ($4::text IS NULL OR kind = $4)
   AND ($5::text IS NULL OR strategy = $5 OR pg_catalog.split_part(strategy, '(', 1) = $5)
   AND ($6::timestamptz IS NULL OR at >= $6) AND ($7::timestamptz IS NULL OR at < $7)
   AND ($8::bigint IS NULL OR id < $8)
 GROUP BY schema_name, table_name ORDER BY conflicts DESC, schema_name, table_name;

-- name: state
-- Whether a conflict is still as it was.
-- $1 id
SELECT state FROM peersync.conflict WHERE id = $1;

-- name: get
-- One conflict, with both rows.
-- $1 id
SELECT id, at, tbl, schema_name, table_name, key, kind, strategy, winner, reason, state,
       kept_origin, kept_position, kept_hlc, kept_op::text AS kept_op, kept_shape, kept_image,
       in_origin, in_position, in_ordinal, in_hlc, in_op::text AS in_op, in_shape, in_image,
       settled_at, settled_by, settled_how
  FROM peersync.conflict WHERE id = $1;

-- name: lock
-- Keeps everybody else from settling a conflict meanwhile, or what is open of the same row.
-- $1 id
SELECT FROM peersync.conflict AS c
 WHERE c.id IN (
       SELECT $1::bigint UNION
       SELECT r.id FROM peersync.conflict AS o
         JOIN peersync.conflict AS r
           ON r.tbl = o.tbl AND r.key = o.key
          AND pg_catalog.hashtextextended(r.key, 0) = pg_catalog.hashtextextended(o.key, 0)
        WHERE o.id = $1 AND r.state = 'open')
 ORDER BY c.id FOR UPDATE;

-- name: of_row
-- The conflicts of one row, newest first, without the rows.
-- $1 table, $2 key, $3 how many
SELECT id, at, tbl, schema_name, table_name, key, kind, strategy, winner, reason, state,
       kept_origin, kept_position, kept_hlc, kept_op::text AS kept_op, kept_shape, NULL AS kept_image,
       in_origin, in_position, in_ordinal, in_hlc, in_op::text AS in_op, in_shape, NULL AS in_image,
       settled_at, settled_by, settled_how
  FROM peersync.conflict WHERE tbl = $1 AND key = $2
   AND pg_catalog.hashtextextended(key, 0) = pg_catalog.hashtextextended($2, 0) ORDER BY id DESC LIMIT $3;

-- name: settle
-- A person has decided.
-- $1 id, $2 state, $3 who, $4 how
UPDATE peersync.conflict
   SET state = $2, settled_at = pg_catalog.clock_timestamp(), settled_by = $3, settled_how = $4
 WHERE id = $1;

-- name: said
-- An announcement of this database, with what it had seen.
-- $1 position
SELECT t.origin, t.seen::text AS seen
  FROM peersync.transaction AS t JOIN peersync.replica AS r USING (origin)
 WHERE t.position = $1;

-- name: decided
-- A person has decided: what else is open of that row, of changes that were known there. A change
-- without a position (of before a rebaseline) nobody knows but the database that made it.
-- $1 schema, $2 table, $3 key, $4 what was known, as vector, $5 who, $6 how, $7 the other's origin,
-- null for this database
UPDATE peersync.conflict AS c
   SET state = 'resolved', settled_at = pg_catalog.clock_timestamp(), settled_how = $6,
       settled_by = pg_catalog.concat($5::text, ' on ' || (
           SELECT m.node_name FROM peersync.member AS m WHERE m.origin = $7))
 WHERE c.state = 'open' AND c.schema_name = $1 AND c.table_name = $2 AND c.key = $3
   AND c.tbl = (SELECT s.tbl FROM peersync.synced_table AS s  -- by the index: there may be many
                 WHERE s.schema_name = $1 AND s.table_name = $2)
   AND pg_catalog.hashtextextended(c.key, 0) = pg_catalog.hashtextextended($3, 0)
   AND c.in_position > 0
   AND c.kept_position <= coalesce(($4::jsonb ->> c.kept_origin::text)::bigint, 0)
   AND c.in_position <= coalesce(($4::jsonb ->> c.in_origin::text)::bigint, 0);

-- name: log_statement
-- The statement by which capture logs an UPDATE of rows that are in x (new) and y (old).
-- $1 oid of the table, $2 its number
SELECT peersync.capture_anew($1::bigint::oid, $2, s.strategy ~ '^(merge_columns|delta)', 'UPDATE', 'x')
  FROM peersync.synced_table AS s WHERE s.tbl = $2;

-- name: log_gone
-- Logs that a row is not there. Nothing where the table's key is not of these columns.
-- $1 oid of the table, $2 its number, $3 key as the log writes it, $4 its columns
INSERT INTO peersync.change (tbl, shape, op, key)
SELECT $2, peersync.register_shape(f.facts), 'D', $3
  FROM (SELECT peersync.capture_facts($1::bigint::oid) AS facts) AS f
 WHERE ARRAY(SELECT k ->> 0 FROM pg_catalog.jsonb_array_elements(f.facts -> 'key')
             WITH ORDINALITY AS u (k, n) ORDER BY n) = $4::text[];

-- name: writers
-- Other transactions that may have written a table or its partitions and have not ended; null: none.
-- $1 oid of the table, $2 only these, null for all
SELECT pg_catalog.array_agg(DISTINCT l.virtualtransaction)
  FROM pg_catalog.pg_locks AS l
 WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d
                      WHERE d.datname = pg_catalog.current_database())
   AND (l.relation = $1::bigint::oid OR l.relation IN (
        SELECT p.relid FROM pg_catalog.pg_partition_tree($1::bigint::oid) AS p))
   AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
   AND ($2::text[] IS NULL OR l.virtualtransaction = ANY ($2));

-- name: wake
-- There is something to publish.
SELECT peersync.wake();
