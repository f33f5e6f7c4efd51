-- name: cascades
-- Foreign keys by which a change of a table's rows (t) would change rows of another (c): for a
-- role that may not keep them quiet.
-- $1 oid of the table
SELECT CASE r.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || k.conrelid::regclass::text AS child,
       k.conname AS name,
       k.confdeltype NOT IN ('a', 'r') AS on_delete,
       k.confupdtype NOT IN ('a', 'r') AS on_update,
       pg_catalog.array_agg(b.attname::text) AS columns,
       pg_catalog.string_agg(
           pg_catalog.format('t.%I OPERATOR(%I.%s) c.%I', b.attname, n.nspname, o.oprname, a.attname),
           ' AND ') AS meets
  FROM pg_catalog.pg_constraint AS k
  JOIN pg_catalog.pg_class AS r ON r.oid = k.conrelid
 CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey),
                               pg_catalog.unnest(k.conpfeqop)) AS u (own, theirs, op)
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.own
  JOIN pg_catalog.pg_attribute AS b ON b.attrelid = k.confrelid AND b.attnum = u.theirs
  JOIN pg_catalog.pg_operator AS o ON o.oid = u.op
  JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace
 WHERE k.contype = 'f' AND k.conparentid = 0
   AND (k.confdeltype NOT IN ('a', 'r') OR k.confupdtype NOT IN ('a', 'r'))
   AND k.confrelid IN (SELECT $1::bigint::oid UNION ALL
                       SELECT relid FROM pg_catalog.pg_partition_ancestors($1::bigint::oid))
 GROUP BY k.oid, k.conrelid, r.relkind, k.conname, k.confdeltype, k.confupdtype;
