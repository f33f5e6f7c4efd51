-- name: server
-- What this server and this database are.
SELECT pg_catalog.current_setting('server_version_num')::int AS server_version_num,
       pg_catalog.split_part(pg_catalog.current_setting('server_version'), ' ', 1) AS server_version,
       pg_catalog.pg_encoding_to_char(d.encoding) AS encoding,
       pg_catalog.pg_database_size(d.oid) AS size_bytes,
       (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata) AS large_objects,
       (SELECT count(*) FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'S' AND n.nspname !~ '^pg_' AND n.nspname <> 'peersync') AS sequences
  FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database();

-- name: tables
-- Every table that holds rows of the user's: ordinary ones, partitions and inheritance children,
-- without peersync's own, the system's, and those that an extension brought.
-- parent_schema, parent_name, bound: of a partition; the bound goes on to the root's.
-- fires_always: what ENABLE ALWAYS or ENABLE REPLICA keeps awake under the replica role.
-- reltuples is -1 where the table was never analyzed; it is then estimated from its pages.
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name,
       CASE WHEN c.reltuples < 0 THEN NULL ELSE c.reltuples::bigint END AS rows,
       pg_catalog.pg_table_size(c.oid) AS size_bytes,
       c.relhasrules AS has_rules,
       c.relpersistence = 'u' AS unlogged,
       c.relrowsecurity AS row_security,
       EXISTS (SELECT FROM pg_catalog.pg_constraint k
                WHERE k.confrelid = c.oid AND k.contype = 'f'
                  AND k.confdeltype NOT IN ('a', 'r')) AS delete_cascades,
       EXISTS (SELECT FROM pg_catalog.pg_trigger g
                WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D') AS has_triggers,
       ARRAY(SELECT 'trigger ' || g.tgname FROM pg_catalog.pg_trigger g
              WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled IN ('A', 'R')
              UNION ALL
             SELECT 'rule ' || r.rulename FROM pg_catalog.pg_rewrite r
              WHERE r.ev_class = c.oid AND r.ev_type <> '1' AND r.ev_enabled IN ('A', 'R')
              ORDER BY 1) AS fires_always,
       EXISTS (SELECT FROM pg_catalog.pg_constraint k
                WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'x')
                  AND k.condeferrable) AS checked_late,
       up.parent_schema, up.parent_name, up.bound,
       pg_catalog.has_table_privilege(c.oid, 'SELECT') AS may_select,
       pg_catalog.has_table_privilege(c.oid, 'INSERT') AS may_insert,
       pg_catalog.has_table_privilege(c.oid, 'UPDATE') AS may_update
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN LATERAL (
       SELECT (array_agg(pn.nspname ORDER BY a.depth))[2] AS parent_schema,
              (array_agg(p.relname ORDER BY a.depth))[2] AS parent_name,
              pg_catalog.string_agg(
                  pg_catalog.pg_get_expr(p.relpartbound, p.oid)
                  || ' OF ' || pg_catalog.quote_ident(un.nspname) || '.'
                  || pg_catalog.quote_ident(u.relname) || ' BY '
                  || pg_catalog.pg_get_partkeydef(u.oid), ', ' ORDER BY a.depth) AS bound
         FROM pg_catalog.pg_partition_ancestors(c.oid) WITH ORDINALITY AS a (relid, depth)
         JOIN pg_catalog.pg_class p ON p.oid = a.relid
         JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
         LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = p.oid AND p.relispartition
         LEFT JOIN pg_catalog.pg_class u ON u.oid = i.inhparent
         LEFT JOIN pg_catalog.pg_namespace un ON un.oid = u.relnamespace) AS up
    ON c.relispartition
 WHERE c.relkind = 'r' AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'peersync')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                      AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname;

-- name: columns
-- The columns of these tables in order. expression: a digest of what a generated one is made of.
-- $1 oids of tables
SELECT a.attrelid::bigint AS oid, a.attname AS name,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
       a.attgenerated <> '' AS generated,
       CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' ELSE '' END AS identity,
       a.atthasdef AS has_default,
       CASE WHEN a.attgenerated <> '' THEN pg_catalog.encode(pg_catalog.sha256(
                 pg_catalog.convert_to(pg_catalog.pg_get_expr(d.adbin, d.adrelid), 'UTF8')), 'hex')
       END AS expression
  FROM pg_catalog.pg_attribute a
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = ANY ($1::bigint[]::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum;

-- name: keys
-- What can tell the rows of these tables apart, best first: the primary key, then unique indexes
-- without expressions, predicate or nullable columns, those with fewer columns first.
-- The operators are those of the index, because `=` is found by search_path and may be another.
-- $1 oids of tables
SELECT i.indrelid::bigint AS oid, i.indisprimary AS is_primary,
       array_agg(a.attname ORDER BY k.n) AS columns,
       array_agg(pg_catalog.format('OPERATOR(%I.%s)', opn.nspname, op.oprname) ORDER BY k.n)
           AS operators
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
  JOIN pg_catalog.pg_am am ON am.oid = ic.relam AND am.amname = 'btree'
 CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[])
                    WITH ORDINALITY AS k (attnum, opclass, n)
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
  JOIN pg_catalog.pg_opclass oc ON oc.oid = k.opclass
  JOIN pg_catalog.pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
                            AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
  JOIN pg_catalog.pg_operator op ON op.oid = ao.amopopr
  JOIN pg_catalog.pg_namespace opn ON opn.oid = op.oprnamespace
 WHERE i.indrelid = ANY ($1::bigint[]::oid[])
   AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
   AND k.n <= i.indnkeyatts
   AND (i.indisprimary OR NOT EXISTS (
         SELECT FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS u (attnum, n)
           JOIN pg_catalog.pg_attribute na ON na.attrelid = i.indrelid AND na.attnum = u.attnum
          WHERE u.n <= i.indnkeyatts AND NOT na.attnotnull))
 GROUP BY i.indrelid, i.indexrelid, i.indisprimary, i.indnkeyatts, ic.relname
 ORDER BY i.indrelid, i.indisprimary DESC, i.indnkeyatts, ic.relname;

-- name: deferrable_keys
-- Unique keys that are checked late, by a trigger: with triggers quiet, nothing checks them.
-- $1 oid of a table
SELECT k.conname AS name,
       array_agg(pg_catalog.quote_ident(a.attname) ORDER BY u.n) AS columns,
       i.indnullsnotdistinct AS nulls_equal
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_index i ON i.indexrelid = k.conindid
 CROSS JOIN LATERAL pg_catalog.unnest(k.conkey) WITH ORDINALITY AS u (attnum, n)
  JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
 WHERE k.conrelid = $1::bigint::oid AND k.contype IN ('p', 'u') AND k.condeferrable
 GROUP BY k.oid, k.conname, i.indnullsnotdistinct ORDER BY k.conname;

-- name: deferrable_exclusions
-- Exclusion constraints that are checked late, in the same way: what each of them compares, by
-- which operators, and in which rows.
-- $1 oid of a table
SELECT k.conname AS name,
       array_agg(pg_catalog.pg_get_indexdef(k.conindid, u.n::int, false) ORDER BY u.n) AS compared,
       array_agg(pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname) ORDER BY u.n)
           AS operators,
       pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS predicate
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_index i ON i.indexrelid = k.conindid
 CROSS JOIN LATERAL pg_catalog.unnest(k.conexclop) WITH ORDINALITY AS u (op, n)
  JOIN pg_catalog.pg_operator o ON o.oid = u.op
  JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
 WHERE k.conrelid = $1::bigint::oid AND k.contype = 'x' AND k.condeferrable
 GROUP BY k.oid, k.conname, i.indpred, i.indrelid ORDER BY k.conname;

-- name: unique_columns
-- The columns of a unique constraint or index of a table, by its name.
-- $1 oid of a table, $2 name
SELECT pg_catalog.array_agg(a.attname ORDER BY u.n) AS columns
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
 CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS u (attnum, n)
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
 WHERE i.indrelid = $1::bigint::oid AND c.relname = $2 AND i.indexprs IS NULL
   AND u.n <= i.indnkeyatts;

-- name: not_copied
-- What is there, holds data or looks like it, and is not copied row by row.
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS object,
       CASE c.relkind WHEN 'f' THEN 'foreign table: its rows are on another server'
                      WHEN 'm' THEN 'materialized view: refresh it after the sync'
                      ELSE 'part of an extension' END AS reason
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'peersync')
   AND (c.relkind IN ('f', 'm')
        OR c.relkind = 'r' AND EXISTS (
             SELECT FROM pg_catalog.pg_depend d
              WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                AND d.deptype = 'e'))
 ORDER BY 1;

-- name: sequences
-- The sequences of the user's, for raising them to what the source has, with the columns that
-- own them.
SELECT n.nspname AS schema, c.relname AS name, s.seqincrement AS increment,
       tn.nspname AS owner_schema, t.relname AS owner_name, oa.attname AS owner_column
  FROM pg_catalog.pg_sequence s
  JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                  AND d.objsubid = 0 AND d.refclassid = 'pg_class'::regclass
                                  AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
  LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
  LEFT JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
  LEFT JOIN pg_catalog.pg_attribute oa ON oa.attrelid = t.oid AND oa.attnum = d.refobjsubid
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'peersync'
 ORDER BY 1, 2;

-- name: types
-- What the user's composite types, domains, enums and ranges are made of, by the name that a
-- column's type has; without those of extensions, and without the row types of tables that no
-- column has. uses: the types that it is made of, those of arrays for the arrays.
WITH used AS (
    SELECT a.atttypid AS oid FROM pg_catalog.pg_attribute a
     WHERE a.atttypid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped
), shown AS (
    SELECT t.* FROM pg_catalog.pg_type t
      JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
     WHERE t.typtype IN ('c', 'd', 'e', 'r') AND n.nspname !~ '^pg_'
       AND n.nspname NOT IN ('information_schema', 'peersync')
       AND (t.oid IN (SELECT oid FROM used) OR t.typarray IN (SELECT oid FROM used)
            OR t.typtype <> 'c')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                        WHERE d.classid = 'pg_catalog.pg_type'::regclass AND d.objid = t.oid
                          AND d.deptype = 'e')
), parts AS (
    SELECT t.oid, a.attnum::int AS n, a.atttypid AS of,
           pg_catalog.quote_ident(a.attname) || ' '
           || pg_catalog.format_type(a.atttypid, a.atttypmod) AS words
      FROM shown t
      JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid
     WHERE t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT t.oid, 0, t.typbasetype,
           pg_catalog.format_type(t.typbasetype, t.typtypmod)
           || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
      FROM shown t WHERE t.typtype = 'd'
    UNION ALL
    SELECT t.oid, 1, NULL, pg_catalog.pg_get_constraintdef(k.oid)
      FROM shown t JOIN pg_catalog.pg_constraint k ON k.contypid = t.oid AND k.contype = 'c'
    UNION ALL
    SELECT e.enumtypid, pg_catalog.row_number() OVER (PARTITION BY e.enumtypid
                                                      ORDER BY e.enumsortorder)::int,
           NULL, e.enumlabel
      FROM pg_catalog.pg_enum e WHERE e.enumtypid IN (SELECT oid FROM shown)
    UNION ALL
    SELECT t.oid, 0, r.rngsubtype, pg_catalog.format_type(r.rngsubtype, NULL)
      FROM shown t JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid
)
SELECT pg_catalog.format_type(t.oid, NULL) AS name,
       CASE t.typtype WHEN 'c' THEN 'composite' WHEN 'd' THEN 'domain' WHEN 'e' THEN 'enum'
                      ELSE 'range' END AS kind,
       coalesce(array_agg(p.words ORDER BY p.n, p.words) FILTER (WHERE p.oid IS NOT NULL), '{}')
           AS parts,
       coalesce(array_agg(DISTINCT pg_catalog.format_type(
                    CASE WHEN b.typlen = -1 AND b.typelem <> 0 THEN b.typelem ELSE b.oid END, NULL))
                    FILTER (WHERE b.oid IS NOT NULL), '{}') AS uses
  FROM shown t
  LEFT JOIN parts p ON p.oid = t.oid
  LEFT JOIN pg_catalog.pg_type b ON b.oid = p.of
 GROUP BY t.oid, t.typtype
 ORDER BY 1;

-- name: may_use_replica_role
-- Whether this role may keep triggers and rules quiet while it writes.
SELECT CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 150000
            THEN pg_catalog.has_parameter_privilege('session_replication_role', 'SET')
            ELSE (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) END
       AS allowed;

-- name: foreign_keys_of
-- Every enforced foreign key that refers from or to one of these tables, with what a check of it
-- needs: columns of both sides, and the equality that the key uses. `parents` are the tables that
-- hold the rows of what is referred to: itself, or its partitions. A partitioned table's keys are
-- there once for each partition that refers; the copies for partitions referred to are left out.
-- $1 oids of tables
SELECT k.conname AS name, k.convalidated AS validated,
       coalesce((pg_catalog.to_jsonb(k) ->> 'conperiod')::bool, false) AS period,
       k.conrelid::bigint AS child, cn.nspname AS child_schema, c.relname AS child_name,
       pn.nspname AS parent_schema, p.relname AS parent_name,
       p.relkind = 'p' AS partitioned, held.parents,
       (SELECT array_agg(a.attname ORDER BY u.n)
          FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, n)
          JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
       ) AS child_columns,
       (SELECT array_agg(a.attname ORDER BY u.n)
          FROM unnest(k.confkey) WITH ORDINALITY AS u (attnum, n)
          JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum
       ) AS parent_columns,
       (SELECT array_agg(pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname) ORDER BY u.n)
          FROM unnest(k.conpfeqop) WITH ORDINALITY AS u (op, n)
          JOIN pg_catalog.pg_operator o ON o.oid = u.op
          JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
       ) AS operators
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid AND c.relkind = 'r'
  JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace
  JOIN pg_catalog.pg_class p ON p.oid = k.confrelid
  JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
 CROSS JOIN LATERAL (
       SELECT CASE p.relkind WHEN 'p'
              THEN ARRAY(SELECT t.relid::oid::bigint FROM pg_catalog.pg_partition_tree(p.oid) AS t
                          WHERE t.isleaf)
              ELSE ARRAY[p.oid::bigint] END AS parents) AS held
 WHERE k.contype = 'f'
   AND coalesce((pg_catalog.to_jsonb(k) ->> 'conenforced')::bool, true)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint m
                    WHERE m.oid = k.conparentid AND m.conrelid = k.conrelid)
   AND (k.conrelid = ANY ($1::bigint[]::oid[]) OR held.parents && $1::bigint[])
 ORDER BY cn.nspname, c.relname, k.conname;

-- name: lock_holders
-- Who holds one of these locks on one of these tables, the longest first. A lock of a prepared
-- transaction has no process.
-- $1 oids of tables, $2 modes
SELECT n.nspname AS schema, c.relname AS name, l.pid, a.application_name, a.usename, a.state,
       pg_catalog.to_char(coalesce(a.xact_start, a.state_change, a.backend_start)
                          AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS since
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_class c ON c.oid = l.relation
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY ($1::bigint[]::oid[])
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                      WHERE d.datname = pg_catalog.current_database())
   AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() AND l.mode = ANY ($2::text[])
 ORDER BY coalesce(a.xact_start, a.state_change, a.backend_start), l.pid;

-- name: existing
-- Which of these tables are still there under the same name.
-- $1 oids of tables, $2 their schemas, $3 their names
SELECT c.oid::bigint AS oid
  FROM unnest($1::bigint[], $2::text[], $3::text[]) AS w (oid, schema, name)
  JOIN pg_catalog.pg_class c ON c.oid = w.oid::oid AND c.relname = w.name AND c.relkind = 'r'
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = w.schema;
