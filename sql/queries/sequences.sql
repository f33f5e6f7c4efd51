-- name: owned
-- The sequences that a column of a captured table draws from. owned: by that very column, as of a
-- serial or an identity. A parent of captured partitions counts as captured. last_allowed: what
-- the sequence and the column's type both can hold.
SELECT DISTINCT ON (n.nspname, c.relname)
       c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, o.owned, o.identity,
       tn.nspname AS table_schema, t.relname AS table_name, a.attname AS column_name,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
       (SELECT y.typcategory = 'N' FROM pg_catalog.pg_type AS y WHERE y.oid = a.atttypid) AS counts,
       s.seqincrement AS increment, s.seqcycle AS cycles, s.seqcache AS cache,
       s.seqstart AS start, s.seqmin AS first_allowed,
       LEAST(s.seqmax, CASE a.atttypid WHEN 'int2'::regtype THEN 32767
                                       WHEN 'int4'::regtype THEN 2147483647
                                       ELSE 9223372036854775807 END) AS last_allowed,
       pg_catalog.has_sequence_privilege(c.oid, 'SELECT') AS may_select,
       pg_catalog.pg_has_role(c.relowner, 'USAGE') AS may_alter
  FROM pg_catalog.pg_sequence AS s
  JOIN pg_catalog.pg_class AS c ON c.oid = s.seqrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (
       SELECT d.refobjid AS tbl, d.refobjsubid AS att, true AS owned, d.deptype = 'i' AS identity
         FROM pg_catalog.pg_depend AS d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
          AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
        UNION ALL
       SELECT f.adrelid, f.adnum, false, false
         FROM pg_catalog.pg_depend AS d
         JOIN pg_catalog.pg_attrdef AS f ON f.oid = d.objid
        WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
          AND d.refobjid = c.oid AND d.deptype = 'n') AS o
  JOIN pg_catalog.pg_class AS t ON t.oid = o.tbl
  JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.relnamespace
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = o.att
 WHERE n.nspname <> 'peersync' AND c.relpersistence <> 't'
   AND EXISTS (
       SELECT FROM peersync.synced_table AS y
         JOIN pg_catalog.pg_class AS yc ON yc.relname = y.table_name
         JOIN pg_catalog.pg_namespace AS yn ON yn.oid = yc.relnamespace AND yn.nspname = y.schema_name
        WHERE y.state = 'captured'
          AND (yc.oid = t.oid
               OR t.oid IN (SELECT relid FROM pg_catalog.pg_partition_ancestors(yc.oid))))
 ORDER BY n.nspname, c.relname, o.owned DESC, tn.nspname, t.relname;

-- name: slot
-- The place that this database took among the members, and its step; null before the first time.
SELECT (info->'sequences'->>'slot')::int AS slot, (info->'sequences'->>'step')::bigint AS step
  FROM peersync.member WHERE origin = (SELECT origin FROM peersync.replica);

-- name: keep_slot
-- Keeps the place for ever.
-- $1 slot, $2 step
UPDATE peersync.member
   SET info = info || pg_catalog.jsonb_build_object('sequences',
                pg_catalog.jsonb_build_object('slot', $1::int, 'step', $2::bigint))
 WHERE origin = (SELECT origin FROM peersync.replica);

-- name: members
-- Those that draw numbers: the founder first, then in the order in which they joined, as far as
-- they did by the same sponsor: whoever takes a place asks all others which ones are taken.
SELECT origin, node_id, node_name, state
  FROM peersync.member
 WHERE state IN ('member', 'joining')
 ORDER BY sponsor IS NOT NULL, joined_at NULLS FIRST, origin;
