-- Incoming changes: what is locked, read and written beside the tables themselves. Statements on
-- the staging tables of a session are in postgres/log/staging.py: they exist in a session only.

-- name: targets
-- What these tables are here and now: one row for each, also for one that is missing.
-- relation: where rows are written, the root of a partition. keys: usable to tell rows apart, best
-- first, each with its columns, the operators of its index, whether it is checked at once, and the
-- name of a primary key. The first is the one by which the table is logged: peersync.capture_facts
-- has to choose the same one, by the same order.
-- type: without a length, which an assignment checks, and a cast would silently cut to.
-- captured: it and all its partitions have our functions; without, their rows would be logged later
-- as new ones of this database. dropped: places of columns that are not there any more.
-- ruled: ON CONFLICT is refused, because there is a rule ON INSERT or ON UPDATE, on or off.
-- instead: a rule that does something else instead of what an applying session writes.
-- $1 schemas, $2 names
SELECT w.schema_name, w.table_name, s.tbl, s.state, s.reason, s.parked, coalesce(s.strategy, 'newer_wins') AS strategy,
       r.oid::bigint AS oid, rn.nspname AS relation_schema, r.relname AS relation_name,
       coalesce(r.relkind = 'p', false) AS partitioned,
       CASE WHEN r.relkind = 'p'
            THEN NOT EXISTS (SELECT FROM pg_catalog.pg_partition_tree(r.oid::pg_catalog.regclass) AS p
                              WHERE pg_catalog.to_regproc('peersync.capture_' || p.relid::oid) IS NULL)
            ELSE pg_catalog.to_regproc('peersync.capture_' || r.oid) IS NOT NULL END AS captured,
       ARRAY(SELECT a.attnum::int FROM pg_catalog.pg_attribute AS a
              WHERE a.attrelid = r.oid AND a.attnum > 0 AND a.attisdropped ORDER BY 1) AS dropped,
       coalesce(l.ruled, false) AS ruled, l.instead,
       coalesce(c.columns, '[]') AS columns, coalesce(k.keys, '[]') AS keys
  FROM unnest($1::text[], $2::text[]) AS w (schema_name, table_name)
  LEFT JOIN peersync.synced_table AS s ON s.schema_name = w.schema_name AND s.table_name = w.table_name
  LEFT JOIN pg_catalog.pg_namespace AS tn ON tn.nspname = w.schema_name
  LEFT JOIN pg_catalog.pg_class AS t ON t.relnamespace = tn.oid AND t.relname = w.table_name
                                    AND t.relkind IN ('r', 'p')
  LEFT JOIN pg_catalog.pg_class AS r
         ON r.oid = CASE WHEN t.relispartition THEN pg_catalog.pg_partition_root(t.oid)::oid ELSE t.oid END
  LEFT JOIN pg_catalog.pg_namespace AS rn ON rn.oid = r.relnamespace
  LEFT JOIN LATERAL (
       SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                  'name', a.attname, 'full_type', pg_catalog.format_type(a.atttypid, a.atttypmod),
                  'type', pg_catalog.format_type(a.atttypid, -1), 'generated', a.attgenerated <> '',
                  'place', a.attnum, 'identity', a.attidentity, 'not_null', a.attnotnull,
                  'has_default', a.atthasdef OR a.attidentity <> '') ORDER BY a.attnum)::text AS columns
         FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped) AS c ON true
  LEFT JOIN LATERAL (
       SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                  'columns', i.columns, 'operators', i.operators, 'immediate', i.immediate,
                  'primary', CASE WHEN i.is_primary THEN i.name END)
                  ORDER BY i.bad, i.is_primary DESC, i.width, i.columns, i.name)::text AS keys
         FROM (SELECT x.indisprimary AS is_primary, x.indnkeyatts AS width, ic.relname AS name,
                      x.indimmediate AS immediate,
                      bool_or(peersync.key_form(u.opclass, a.atttypid, u.coll, a.attcollation) IS NULL) AS bad,
                      pg_catalog.array_agg(a.attname::text COLLATE "C" ORDER BY u.n) AS columns,
                      pg_catalog.array_agg(pg_catalog.format('OPERATOR(%I.%s)', opn.nspname, op.oprname)
                                           ORDER BY u.n) AS operators
                 FROM pg_catalog.pg_index AS x
                 JOIN pg_catalog.pg_class AS ic ON ic.oid = x.indexrelid
                 JOIN pg_catalog.pg_am AS am ON am.oid = ic.relam AND am.amname = 'btree'
                CROSS JOIN LATERAL unnest(x.indkey::int2[], x.indclass::oid[], x.indcollation::oid[])
                                   WITH ORDINALITY AS u (attnum, opclass, coll, n)
                 JOIN pg_catalog.pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = u.attnum
                 JOIN pg_catalog.pg_opclass AS oc ON oc.oid = u.opclass
                 JOIN pg_catalog.pg_amop AS ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
                  AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
                 JOIN pg_catalog.pg_operator AS op ON op.oid = ao.amopopr
                 JOIN pg_catalog.pg_namespace AS opn ON opn.oid = op.oprnamespace
                WHERE x.indrelid = r.oid AND x.indisunique AND x.indisvalid
                  AND x.indpred IS NULL AND x.indexprs IS NULL AND u.n <= x.indnkeyatts
                GROUP BY x.indexrelid, x.indisprimary, x.indnkeyatts, ic.relname, x.indimmediate
               HAVING bool_and(a.attnotnull) AND (x.indisprimary OR x.indimmediate)) AS i) AS k ON true
  LEFT JOIN LATERAL (
       SELECT bool_or(w.ev_type IN ('2', '3')) AS ruled,
              min(w.rulename::text) FILTER (WHERE w.is_instead AND (w.ev_enabled IN ('A', 'R')
                  OR w.ev_enabled = 'O' AND NOT pg_catalog.has_parameter_privilege(
                                                    'session_replication_role', 'SET'))) AS instead
         FROM pg_catalog.pg_rewrite AS w
        WHERE w.ev_class = r.oid AND w.ev_type <> '1') AS l ON true;

-- name: stamps
-- What changes when anything that `targets` reads of these tables does. VACUUM changes none of it.
-- $1 schemas, $2 names
SELECT w.schema_name, w.table_name, pg_catalog.concat_ws(' ', s.xmin, s.tbl, t.oid, t.xmin, r.oid, r.xmin, n.xmin,
       CASE WHEN r.relkind = 'p'
            THEN NOT EXISTS (SELECT FROM pg_catalog.pg_partition_tree(r.oid::pg_catalog.regclass) AS p
                              WHERE pg_catalog.to_regproc('peersync.capture_' || p.relid::oid) IS NULL)
            ELSE pg_catalog.to_regproc('peersync.capture_' || r.oid) IS NOT NULL END,
       (SELECT pg_catalog.concat(count(*), ' ', sum(a.xmin::text::bigint * (a.attnum + 10)))
          FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = r.oid),
       (SELECT pg_catalog.concat(count(*), ' ', sum(i.xmin::text::bigint), ' ', sum(i.indexrelid::bigint))
          FROM pg_catalog.pg_index AS i WHERE i.indrelid = r.oid),
       (SELECT pg_catalog.concat(count(*), ' ', sum(w.xmin::text::bigint), ' ', sum(w.oid::bigint))
          FROM pg_catalog.pg_rewrite AS w WHERE w.ev_class = r.oid)) AS stamp
  FROM unnest($1::text[], $2::text[]) AS w (schema_name, table_name)
  LEFT JOIN peersync.synced_table AS s ON s.schema_name = w.schema_name AND s.table_name = w.table_name
  LEFT JOIN pg_catalog.pg_namespace AS n ON n.nspname = w.schema_name
  LEFT JOIN pg_catalog.pg_class AS t ON t.relnamespace = n.oid AND t.relname = w.table_name
                                    AND t.relkind IN ('r', 'p')
  LEFT JOIN pg_catalog.pg_class AS r
         ON r.oid = CASE WHEN t.relispartition THEN pg_catalog.pg_partition_root(t.oid)::oid ELSE t.oid END;

-- name: target_name
-- The name of a table by its number.
-- $1 tbl
SELECT schema_name, table_name FROM peersync.synced_table WHERE tbl = $1;

-- name: shapes
-- What the columns of images are.
-- $1 shapes
SELECT DISTINCT ON (shape) shape, schema_name, table_name, columns, types, key
  FROM peersync.shape WHERE shape = ANY ($1::bigint[]) ORDER BY shape;

-- name: missing_fields
-- Of these numbers of columns, those that no type to read record literals with is there for.
-- $1 numbers of columns
SELECT w.n FROM unnest($1::int[]) AS w (n)
 WHERE pg_catalog.to_regtype('peersync.fields_' || w.n) IS NULL;

-- name: begin
-- Locks an origin for this transaction; what is applied of every origin, and how things stand here.
-- Of the locked one it is the latest; the others may have moved on, which the look at the end finds.
-- merging: a strategy needs all changes of a row, so what comes in is kept for it.
-- $1 origin
WITH locked AS MATERIALIZED (
    SELECT m.origin, m.applied FROM peersync.member AS m WHERE m.origin = $1 FOR UPDATE)
SELECT m.origin, m.state, coalesce(l.applied, m.applied) AS applied,
       EXISTS (SELECT FROM peersync.quarantine AS q WHERE q.state = 'waiting' AND q.cause = 'row') AS refused,
       EXISTS (SELECT FROM peersync.synced_table AS y
                WHERE y.strategy NOT IN ('newer_wins', 'manual')) AS merging
  FROM peersync.member AS m LEFT JOIN locked AS l ON l.origin = m.origin;

-- name: vector_now
-- What is applied of every origin.
SELECT origin, applied FROM peersync.member;

-- name: finish
-- A run is applied: how far its origin is, and the clock of this database, which never lags behind.
-- $1 origin, $2 position, $3 hlc, $4 seen, $5 whether its transactions are kept here
WITH moved AS (
    UPDATE peersync.member
       SET applied = $2, applied_hlc = greatest(applied_hlc, $3::bigint), seen = $4::jsonb,
           floor = CASE WHEN $5::boolean THEN floor ELSE $2 END
     WHERE origin = $1)
UPDATE peersync.replica SET hlc = $3::bigint WHERE hlc < $3::bigint;

-- name: add_tables
-- Tables that only a peer has named so far.
-- $1 schemas, $2 names
INSERT INTO peersync.synced_table (schema_name, table_name, state)
SELECT w.s, w.t, 'unknown' FROM unnest($1::text[], $2::text[]) AS w (s, t)
 WHERE NOT EXISTS (SELECT FROM peersync.synced_table AS k WHERE k.schema_name = w.s AND k.table_name = w.t)
ON CONFLICT (schema_name, table_name) DO NOTHING;

-- name: table_numbers
-- The numbers of tables.
-- $1 schemas, $2 names
SELECT k.tbl, k.schema_name, k.table_name FROM peersync.synced_table AS k
  JOIN unnest($1::text[], $2::text[]) AS w (s, t) ON w.s = k.schema_name AND w.t = k.table_name;

-- name: park
-- Incoming changes of a table wait from now on; which table they were for is remembered.
-- $1 tbl, $2 why, and what helps
UPDATE peersync.synced_table
   SET parked = coalesce(parked, $2), parked_at = coalesce(parked_at, clock_timestamp()),
       parked_relation = CASE WHEN parked IS NULL
                              THEN coalesce(relation, CASE WHEN state = 'gone' THEN 0::oid END)
                              ELSE parked_relation END,
       parked_shape = CASE WHEN parked IS NULL THEN shape ELSE parked_shape END
 WHERE tbl = $1;

-- name: parked_for
-- Which table the waiting changes were for: another one than this?
-- $1 tbls
SELECT tbl, parked_relation::bigint AS relation, parked_shape AS shape FROM peersync.synced_table
 WHERE tbl = ANY ($1::int[]) AND parked IS NOT NULL AND parked_relation IS NOT NULL
   AND parked_shape IS NOT NULL;

-- name: outlived
-- Waiting changes of a table that was dropped are never applied to the new one of its name.
-- $1 tbl, $2 shapes of the dropped table, $3 oid of the new one, $4 why
WITH old AS (
    UPDATE peersync.quarantine
       SET state = 'superseded', settled_at = clock_timestamp(), settled_by = 'a new table', reason = $4
     WHERE tbl = $1 AND shape = ANY ($2::bigint[]) AND state = 'waiting' AND cause = 'table')
UPDATE peersync.synced_table SET parked_relation = $3::bigint::oid, parked_shape = NULL WHERE tbl = $1;

-- name: left_out
-- What waited for a table that an operator has left out meanwhile is given up.
-- $1 tbl
UPDATE peersync.quarantine
   SET state = 'skipped', settled_at = clock_timestamp(), settled_by = 'the table is left out here'
 WHERE tbl = $1 AND state = 'waiting' AND cause = 'table';

-- name: aside
-- Waiting changes that the table of now has no place for wait alone, the others do not wait for them.
-- $1 tbl, $2 shape, $3 operations, $4 why
UPDATE peersync.quarantine SET cause = 'row', reason = $4
 WHERE tbl = $1 AND shape = $2 AND op::text = ANY ($3::text[]) AND state = 'waiting' AND cause = 'table';

-- name: waiting_shapes
-- The shapes of what waits, of each origin in the order in which it had them.
-- $1 tbls
SELECT tbl, origin, shape FROM peersync.quarantine
 WHERE tbl = ANY ($1::int[]) AND state = 'waiting' AND cause = 'table'
 GROUP BY tbl, origin, shape ORDER BY tbl, origin, max(position), max(ordinal);

-- name: shape_number
-- The number of a shape.
-- $1 schema, $2 table, $3 columns, $4 types, $5 key
SELECT peersync.shape_hash($1, $2, $3::text[], $4::text[], $5::text[]);

-- name: parked
-- Tables with waiting changes, or parked without any.
SELECT s.tbl, s.schema_name, s.table_name, coalesce(q.waiting, 0) AS waiting
  FROM peersync.synced_table AS s
  LEFT JOIN (SELECT tbl, count(*) AS waiting
               FROM peersync.quarantine WHERE state = 'waiting' AND cause = 'table' GROUP BY tbl) AS q
         ON q.tbl = s.tbl
 WHERE s.parked IS NOT NULL OR q.tbl IS NOT NULL
 ORDER BY s.tbl;

-- name: note_shape
-- Makes a shape known.
-- $1 shape, $2 schema, $3 table, $4 columns, $5 types, $6 key
INSERT INTO peersync.shape (shape, schema_name, table_name, columns, types, key)
SELECT $1, $2, $3, $4, $5, $6
 WHERE NOT EXISTS (SELECT FROM peersync.shape WHERE shape = $1);

-- name: lock_parked
-- Takes a parked table for the one who resumes it; no row where another has.
-- $1 tbl
SELECT tbl FROM peersync.synced_table WHERE tbl = $1 FOR UPDATE;

-- name: resumed
-- A table takes changes again, and what waited is applied.
-- $1 tbl
WITH settled AS (
    UPDATE peersync.quarantine
       SET state = 'applied', settled_at = clock_timestamp(), settled_by = 'resumed'
     WHERE tbl = $1 AND state = 'waiting' AND cause = 'table')
UPDATE peersync.synced_table
   SET parked = NULL, parked_at = NULL, parked_relation = NULL, parked_shape = NULL WHERE tbl = $1;

-- name: repark
-- Says anew why a table waits.
-- $1 tbl, $2 why, and what helps
UPDATE peersync.synced_table SET parked = $2, parked_at = coalesce(parked_at, clock_timestamp())
 WHERE tbl = $1 AND parked IS DISTINCT FROM $2;

-- name: may_set_replica
-- Whether this session may keep triggers and foreign keys quiet.
SELECT pg_catalog.has_parameter_privilege(current_user, 'session_replication_role', 'SET') AS may;

-- name: references
-- Which of these tables refer to which.
-- $1 oids
SELECT DISTINCT conrelid::bigint AS child, confrelid::bigint AS parent
  FROM pg_catalog.pg_constraint
 WHERE contype = 'f' AND conrelid <> confrelid
   AND conrelid = ANY ($1::bigint[]::oid[]) AND confrelid = ANY ($1::bigint[]::oid[]);

-- name: forget_own
-- What our own triggers caught of this transaction, where they could not be kept quiet.
DELETE FROM peersync.change WHERE xid = pg_catalog.pg_current_xact_id();
